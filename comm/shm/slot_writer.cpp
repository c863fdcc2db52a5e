#include "comm/shm/slot_writer.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/base/clock.h"

namespace lockstep::comm::shm {
namespace {

// Below this size, the gain does not pay for reading the clock.
constexpr size_t kTimedBytes = 8 << 10;
// After the first trials, one in so many copies tries the way that is not in use.
constexpr uint32_t kTrialEvery = 128;
constexpr uint32_t kFirstTrials = 8;
// Bypassing the caches makes the reader fetch from memory, so it must be clearly faster here.
constexpr double kClearly = 2;
// Old best times slowly lose weight. A single slow copy means little, because the thread may have
// been interrupted.
constexpr double kForget = 1.05;

#if defined(__x86_64__)
bool can_stream() {
  static const bool can = __builtin_cpu_supports("avx");
  return can;
}

[[gnu::target("avx")]] void stream(std::byte* to, const std::byte* from, size_t bytes) {
  const size_t head = std::min(bytes, (32 - reinterpret_cast<uintptr_t>(to) % 32) % 32);
  std::memcpy(to, from, head);
  size_t at = head;
  for (; at + 64 <= bytes; at += 64) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at), a);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at + 32), b);
  }
  std::memcpy(to + at, from + at, bytes - at);
  _mm_sfence();  // streaming stores are not ordered before the next publish by themselves
}
#else
bool can_stream() { return false; }
void stream(std::byte* to, const std::byte* from, size_t bytes) { std::memcpy(to, from, bytes); }
#endif

}  // namespace

SlotWriter::Way SlotWriter::faster() const {
  return recent_best_[through_caches] > kClearly * recent_best_[past_caches] ? past_caches
                                                                             : through_caches;
}

SlotWriter::Way SlotWriter::next_way() {
  const uint32_t copy = copies_++;
  if (copy < kFirstTrials) return copy % 2 == 0 ? through_caches : past_caches;
  const Way slower = faster() == past_caches ? through_caches : past_caches;
  return copy % kTrialEvery == 0 ? slower : faster();
}

void SlotWriter::note(Way way, double seconds_per_byte) {
  double& best = recent_best_[way];
  best = best == 0 ? seconds_per_byte : std::min(seconds_per_byte, best * kForget);
}

void SlotWriter::copy(void* to, const void* from, size_t bytes) {
  if (bytes < kTimedBytes || !can_stream()) {
    if (bytes > 0) std::memcpy(to, from, bytes);
    return;
  }
  const Way way = next_way();
  const auto start = Clock::now();
  if (way == through_caches)
    std::memcpy(to, from, bytes);
  else
    stream(static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes);
  note(way, seconds(Clock::now() - start) / static_cast<double>(bytes));
}

}  // namespace lockstep::comm::shm
