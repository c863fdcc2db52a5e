#include "comm/flight_recorder.h"

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
  std::lock_guard lock(mutex_);
  ++last_;
  ring_[last_ % ring_.size()] = {.number = last_, .call = call, .submitted = Clock::now()};
  return last_;
}

void FlightRecorder::started(uint64_t number) {
  std::lock_guard lock(mutex_);
  if (Entry* entry = find(number)) entry->started = Clock::now();
}

void FlightRecorder::finished(uint64_t number, bool well) {
  std::lock_guard lock(mutex_);
  if (Entry* entry = find(number)) {
    entry->finished = Clock::now();
    entry->well = well;
  }
}

std::string FlightRecorder::line(const Entry& entry, Clock::time_point now) {
  const std::string what = describe(entry.call) + ": ";
  constexpr Clock::time_point kNever{};
  if (entry.finished != kNever && entry.started == kNever) return what + "failed before it began, " + ago(now - entry.finished) + " ago";
  if (entry.finished != kNever)
    return what + (entry.well ? "took " : "failed after ") + ago(entry.finished - entry.started) + ", ended " + ago(now - entry.finished) +
           " ago";
  if (entry.started != kNever) return what + "running for " + ago(now - entry.started);
  return what + "queued for " + ago(now - entry.submitted);
}

std::vector<std::string> FlightRecorder::lines() const {
  std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  std::vector<std::string> lines;
  for (uint64_t i = last_ > ring_.size() ? last_ - ring_.size() + 1 : 1; i <= last_; ++i)
    lines.push_back(line(ring_[i % ring_.size()], now));
  return lines;
}

}  // namespace lockstep::comm
