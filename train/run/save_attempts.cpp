#include "train/run/save_attempts.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "core/base/error.h"
#include "core/base/number_text.h"

namespace lockstep::train {
namespace {

constexpr double kMostMinutes = 60.0 * 24 * 365 * 100;  // a Duration holds 292 years

Duration duration_of(double minutes) {
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::min(minutes, kMostMinutes) * 60));
}

// Removes words that contain a digit: steps, sizes, and names with random numbers.
std::string kind_of(const std::string& text) {
  std::string kind, word;
  bool numbered = false;
  const auto end_word = [&] {
    kind += numbered ? "#" : word;
    word.clear();
    numbered = false;
  };
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0) {
      word += c;
      numbered = numbered || std::isdigit(byte) != 0;
    } else {
      end_word();
      kind += c;
    }
  }
  end_word();
  return kind;
}

}  // namespace

SaveAttempts::SaveAttempts(double minutes, Now now)
    : interval_(duration_of(minutes)), now_(std::move(now)), last_(now_()), wait_(interval_) {}

bool SaveAttempts::due() const { return interval_ > Duration::zero() && now_() - last_ >= wait_; }

void SaveAttempts::began() {
  last_ = now_();
  wait_ = interval_;
}

std::string SaveAttempts::failed(const std::string& error) {
  constexpr int64_t kDoublings = 20;
  last_ = now_();
  wait_ = std::min(interval_, kFirstRetry * (int64_t{1} << std::min(failures_, kDoublings)));
  ++failures_;
  if (!said_.insert(kind_of(error)).second) return {};
  const auto minutes = std::chrono::ceil<std::chrono::minutes>(wait_).count();
  return str(error, ". The run continues and tries again with its next save",
             interval_ > Duration::zero() ? str(", in ", minutes, " min at the latest") : "");
}

std::string SaveAttempts::succeeded(int64_t step) {
  const int64_t failures = std::exchange(failures_, 0);
  said_.clear();
  return failures > 0
             ? str("step ", step, " is saved, after ", count_text(failures, "save"), " that failed")
             : "";
}

}  // namespace lockstep::train
