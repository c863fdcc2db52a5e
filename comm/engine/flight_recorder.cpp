#include "comm/engine/flight_recorder.h"

#include <algorithm>
#include <cstdio>

namespace lockstep::comm {
namespace {

std::string ago(Duration d) {
  char text[32];
  std::snprintf(text, sizeof text, d < std::chrono::seconds(1) ? "%.2f ms" : "%.2f s",
                d < std::chrono::seconds(1) ? milliseconds(d) : seconds(d));
  return text;
}

}  // namespace

FlightRecorder::Entry* FlightRecorder::find(uint64_t number) {
  Entry& entry = ring_[number % ring_.size()];
  return entry.number == number ? &entry : nullptr;
}

uint64_t FlightRecorder::submitted(const Fingerprint& call) {
  const MutexLock lock(mutex_);
  ++last_;
  ring_[last_ % ring_.size()] = {.number = last_, .call = call, .submitted = Clock::now()};
  return last_;
}

void FlightRecorder::started(uint64_t number) {
  const MutexLock lock(mutex_);
  if (Entry* entry = find(number)) entry->started = Clock::now();
}

void FlightRecorder::finished(uint64_t number, bool well) {
  const MutexLock lock(mutex_);
  if (Entry* entry = find(number)) {
    entry->finished = Clock::now();
    entry->well = well;
  }
}

std::string FlightRecorder::line(const Entry& entry, Clock::time_point now) {
  const std::string what = describe(entry.call) + ": ";
  constexpr Clock::time_point kNever{};
  if (entry.finished != kNever && entry.started == kNever)
    return what + "failed before it began, " + ago(now - entry.finished) + " ago";
  if (entry.finished != kNever)
    return what + (entry.well ? "took " : "failed after ") + ago(entry.finished - entry.started) +
           ", ended " + ago(now - entry.finished) + " ago";
  if (entry.started != kNever) return what + "running for " + ago(now - entry.started);
  return what + "queued for " + ago(now - entry.submitted);
}

FlightRecorder::Excerpt FlightRecorder::excerpt(size_t ended) const {
  const MutexLock lock(mutex_);
  const auto now = Clock::now();
  const auto has_ended = [](const Entry& entry) {
    return entry.number != 0 && entry.finished != Clock::time_point{};
  };
  const auto all_ended = static_cast<size_t>(std::count_if(ring_.begin(), ring_.end(), has_ended));
  size_t too_many = all_ended - std::min(ended, all_ended);
  Excerpt excerpt;
  for (uint64_t i = last_ > kKept ? last_ - kKept + 1 : 1; i <= last_; ++i) {
    const Entry& entry = ring_[i % kKept];
    const bool leave_out = too_many > 0 && has_ended(entry);
    too_many -= leave_out;
    (leave_out ? excerpt.left_out : excerpt.shown).push_back(line(entry, now));
  }
  return excerpt;
}

}  // namespace lockstep::comm
