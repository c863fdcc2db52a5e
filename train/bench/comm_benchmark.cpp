#include "train/bench/comm_benchmark.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "train/bench/measure.h"

namespace lockstep::train {
namespace {

double memcpy_us(comm::ProcessGroup& group, int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  std::vector<char> from(size, 1), to(size, 2);
  return call_us(group, bytes, [&] {
    std::memcpy(to.data(), from.data(), size);
    asm volatile("" : : "r"(to.data()) : "memory");  // keeps the compiler from removing the copy
  });
}

// Measures all operations on tensors of one size and kind.
void bench_ops(comm::ProcessGroup& group, int64_t slice, bool allocated, double memcpy_us,
               std::vector<CommBenchmark>& results) {
  const auto tensor = [&](int64_t n) {
    return allocated ? group.allocate({n}, DType::f32) : Tensor::zeros({n});
  };
  const int64_t ranks = group.size();
  const Tensor whole = tensor(slice * ranks), part = tensor(slice);
  const double share = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
  const struct {
    const char* op;
    double factor;
    Tensor input;  // undefined means that this rank gives no data
    std::function<comm::Work()> call;
  } cases[] = {
      {"all_reduce", 2 * share, whole, [&] { return group.all_reduce(whole); }},
      {"reduce_scatter", share, whole, [&] { return group.reduce_scatter(part, whole); }},
      {"all_gather", share, part, [&] { return group.all_gather(whole, part); }},
      {"broadcast", ranks == 1 ? 0.0 : 1.0, group.rank() == 0 ? whole : Tensor(),
       [&] { return group.broadcast(whole, 0); }},
  };
  for (const auto& c : cases) {
    // Writes zeros: repeated sums must not reach infinity, because some CPUs add infinities slowly.
    const auto write = [&] {
      if (c.input.defined()) std::memset(c.input.raw(), 0, static_cast<size_t>(c.input.bytes()));
    };
    const double writing_us = call_us(group, whole.bytes(), write);
    const double both_us = call_us(group, whole.bytes(), [&] {
      write();
      c.call().wait();
    });
    const double us = std::max(both_us - writing_us, 0.1);
    results.push_back({.op = c.op,
                       .allocated = allocated,
                       .bytes = whole.bytes(),
                       .us = us,
                       .bus_gb_per_s = c.factor * static_cast<double>(whole.bytes()) / us / 1e3,
                       .memcpy_us = memcpy_us,
                       .of_memcpy = memcpy_us / us});
  }
}

}  // namespace

std::vector<CommBenchmark> bench_comm(comm::ProcessGroup& group,
                                      const std::vector<int64_t>& sizes_bytes) {
  std::vector<CommBenchmark> results;
  for (const int64_t bytes : sizes_bytes) {
    const int64_t slice = std::max<int64_t>(1, bytes / 4 / group.size());
    const double copy_us = memcpy_us(group, slice * 4 * group.size());
    for (const bool allocated : {true, false}) bench_ops(group, slice, allocated, copy_us, results);
  }
  std::stable_sort(results.begin(), results.end(),
                   [](const auto& a, const auto& b) { return a.op < b.op; });
  return results;
}

}  // namespace lockstep::train
