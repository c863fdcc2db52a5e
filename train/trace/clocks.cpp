#include "train/trace/clocks.h"

#include <cstdlib>
#include <vector>

#include "core/base/clock.h"

namespace lockstep::train {
namespace {

constexpr int kRounds = 9;

int64_t now_ns() {
  return std::chrono::duration_cast<Duration>(Clock::now().time_since_epoch()).count();
}

ClockShift ask(comm::ProcessGroup& host) {
  const Tensor word = Tensor::zeros({1}, DType::i64);
  ClockShift best{.shift_ns = 0, .within_ns = INT64_MAX};
  for (int round = 0; round < kRounds; ++round) {
    const int64_t asked = now_ns();
    host.send(word, 0).wait();
    host.recv(word, 0).wait();
    const ClockShift shift = shift_of(asked, word.span<int64_t>()[0], now_ns());
    if (shift.within_ns < best.within_ns) best = shift;
  }
  if (std::abs(best.shift_ns) <= best.within_ns) best.shift_ns = 0;
  return best;
}

void answer(comm::ProcessGroup& host, int rank) {
  const Tensor word = Tensor::zeros({1}, DType::i64);
  for (int round = 0; round < kRounds; ++round) {
    host.recv(word, rank).wait();
    word.span<int64_t>()[0] = now_ns();
    host.send(word, rank).wait();
  }
}

}  // namespace

ClockShift shift_of(int64_t asked_ns, int64_t theirs_ns, int64_t received_ns) {
  const int64_t half = (received_ns - asked_ns + 1) / 2;
  return {.shift_ns = theirs_ns - (asked_ns + half), .within_ns = half};
}

ClockShift measure_clock(comm::ProcessGroup& group) {
  comm::ProcessGroup& host = group.host();
  if (host.rank() != 0) return ask(host);
  for (int rank = 1; rank < host.size(); ++rank) answer(host, rank);
  return {};
}

}  // namespace lockstep::train
