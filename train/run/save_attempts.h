// SaveAttempts: when a run saves by time, and what it reports about failed saves.
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
  // Time from a failure to the next save by time. Each further failure doubles it, up to the normal
  // interval. So failures in a row cost few additional saves.
  static constexpr Duration kFirstRetry = std::chrono::minutes(1);

  // `minutes` between saves. 0: no saves by time.
  SaveAttempts(double minutes, Now now);

  // Whether it is time to save.
  bool due() const;
  // Call when a save begins, for any reason.
  void began();
  // Call when a save has ended. They return what to report, or an empty text. Of failures in a row,
  // each kind is reported once. Texts that differ only in numbers are of one kind.
  std::string failed(const std::string& error);
  std::string succeeded(int64_t step);

 private:
  const Duration interval_;
  const Now now_;
  Clock::time_point last_;
  Duration wait_;               // counted from `last_`
  int64_t failures_ = 0;        // in a row
  std::set<std::string> said_;  // kinds of failures that were reported
};

}  // namespace lockstep::train
