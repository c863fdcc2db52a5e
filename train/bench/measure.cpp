#include "train/bench/measure.h"

#include <algorithm>

#include "core/base/clock.h"

namespace lockstep::train {

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double slowest(double value, comm::ProcessGroup& group) {
  const Tensor t = Tensor::full({1}, value);
  group.host().all_reduce(t, {.op = comm::ReduceOp::max}).wait();
  return t.item();
}

double call_us(comm::ProcessGroup& group, int64_t bytes, const std::function<void()>& call) {
  constexpr int kRounds = 9;
  const auto calls = std::clamp<int64_t>((8 << 20) / std::max<int64_t>(bytes, 1), 2, 200);
  for (int i = 0; i < 3; ++i) call();
  std::vector<double> rounds;
  for (int round = 0; round < kRounds; ++round) {
    group.host().barrier().wait();
    const auto start = Clock::now();
    for (int64_t i = 0; i < calls; ++i) call();
    rounds.push_back(
        slowest(seconds(Clock::now() - start) * 1e6 / static_cast<double>(calls), group));
  }
  return median(rounds);
}

}  // namespace lockstep::train
