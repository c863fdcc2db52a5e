#include "train/benchmarks.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "core/base/parallel.h"
#include "train/machine.h"
#include "train/trainer.h"

namespace lockstep::train {
namespace {

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The largest of the ranks' values, on every rank.
double slowest(double value, comm::ProcessGroup& group) {
  const Tensor t = Tensor::full({1}, value);
  group.all_reduce(t, {.op = comm::ReduceOp::max}).wait();
  return t.item();
}

double memcpy_bytes_per_s(comm::ProcessGroup& group) {
  constexpr size_t kBytes = 32 << 20;
  std::vector<char> from(kBytes, 1), to(kBytes, 2);
  std::vector<double> seconds_each;
  for (int i = 0; i < 7; ++i) {
    group.barrier().wait();
    const auto start = Clock::now();
    std::memcpy(to.data(), from.data(), kBytes);
    asm volatile("" : : "r"(to.data()) : "memory");  // the copy is not for nothing
    seconds_each.push_back(seconds(Clock::now() - start));
  }
  return static_cast<double>(kBytes) / slowest(median(seconds_each), group);
}

// Median time of one call in microseconds: enough repetitions for the small ones, few for the large.
double time_us(comm::ProcessGroup& group, int64_t bytes, const std::function<comm::Work()>& call) {
  const int repetitions = static_cast<int>(std::clamp<int64_t>((64 << 20) / std::max<int64_t>(bytes, 1), 9, 501));
  for (int i = 0; i < 3; ++i) call().wait();
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    group.barrier().wait();
    const auto start = Clock::now();
    call().wait();
    times.push_back(seconds(Clock::now() - start) * 1e6);
  }
  return slowest(median(times), group);
}

}  // namespace

StepBenchmark bench_step(const Config& given, std::shared_ptr<comm::ProcessGroup> group, int64_t warmup, int64_t steps) {
  Config config = given;
  config.train.steps = warmup + steps;
  config.optim.schedule.warmup = std::min(config.optim.schedule.warmup, config.train.steps);
  Trainer trainer(config, group);
  StepBenchmark result{.ranks = group->size(),
                       .threads = num_threads(),
                       .backend = group->backend_name(),
                       .precision = config.train.precision,
                       .parameters = trainer.parameter_count(),
                       .steps = steps,
                       .items_are_tokens = trainer.model().items_are_tokens};
  std::vector<double> times, exposed;
  for (int64_t i = 0; i < warmup + steps; ++i) {
    const StepReport report = trainer.step();
    result.loss = report.loss;
    const double step_ms = slowest(report.step_ms, *group);
    if (i < warmup) continue;
    times.push_back(step_ms);
    exposed.push_back(report.comm_exposed_ms);
  }
  const auto [fastest, longest] = std::minmax_element(times.begin(), times.end());
  result.step_ms = median(times);
  result.step_ms_min = *fastest;
  result.step_ms_max = *longest;
  result.comm_exposed_ms = median(exposed);
  result.peak_mem_mb = slowest(peak_memory_mb(), *group);
  const double step_s = result.step_ms / 1e3;
  result.items_per_s = static_cast<double>(trainer.items_per_step()) / step_s;
  result.mfu = trainer.flops_per_step() / step_s / peak_flops(config.train.precision == "bf16" ? DType::bf16 : DType::f32, group->size());
  return result;
}

std::vector<CommBenchmark> bench_comm(comm::ProcessGroup& group, const std::vector<int64_t>& sizes_bytes) {
  const int64_t ranks = group.size();
  const double memcpy_speed = memcpy_bytes_per_s(group);
  std::vector<CommBenchmark> results;
  for (int64_t bytes : sizes_bytes) {
    const int64_t slice = std::max<int64_t>(1, bytes / 4 / ranks);  // f32 elements
    const Tensor whole = group.allocate({slice * ranks}, DType::f32), part = Tensor::zeros({slice});
    const double share = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
    const struct {
      const char* op;
      double factor;
      std::function<comm::Work()> call;
    } cases[] = {
        {"all_reduce", 2 * share, [&] { return group.all_reduce(whole); }},
        {"reduce_scatter", share, [&] { return group.reduce_scatter(part, whole); }},
        {"all_gather", share, [&] { return group.all_gather(whole, part); }},
        {"broadcast", 1, [&] { return group.broadcast(whole, 0); }},
    };
    for (const auto& c : cases) {
      whole.zero_();  // sums of sums must not run into infinity, which some processors add more slowly
      const double us = time_us(group, whole.bytes(), c.call);
      const double speed = ranks == 1 ? 0 : c.factor * static_cast<double>(whole.bytes()) / (us * 1e-6);
      results.push_back({.op = c.op, .bytes = whole.bytes(), .us = us, .bus_gb_per_s = speed / 1e9, .of_memcpy = speed / memcpy_speed});
    }
  }
  return results;
}

}  // namespace lockstep::train
