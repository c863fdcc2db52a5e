// SaveAttempts: when a run saves by time, and what it says of saves that fail.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>

#include "core/base/clock.h"

namespace lockstep::train {

// Not thread-safe.
class SaveAttempts {
 public:
  using Now = std::function<Clock::time_point()>;
  // After a failure the next save by time comes so soon. Each further failure doubles that, up to
  // what is between saves anyway: so failures in a row cost few saves more.
  static constexpr Duration kFirstRetry = std::chrono::minutes(1);

  // `minutes` between saves; 0: none by time.
  SaveAttempts(double minutes, Now now);

  // Whether it is time to save.
  bool due() const;
  // A save begins, for whatever reason.
  void began();
  // A save has ended. These return what is to be said; empty: it was said before, or nothing is. Of
  // failures in a row each kind is said once: texts that differ in numbers alone are of one kind.
  std::string failed(const std::string& error);
  std::string succeeded(int64_t step);

 private:
  const Duration interval_;
  const Now now_;
  Clock::time_point last_;
  Duration wait_;               // from `last_` on
  int64_t failures_ = 0;        // in a row
  std::set<std::string> said_;  // kinds of them
};

}  // namespace lockstep::train
