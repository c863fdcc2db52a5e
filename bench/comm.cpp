// Micro-benchmark of all_reduce in shared memory: bench_comm [RANKS] [BACKEND].
// Forks the ranks and prints, per size, the median and the best time of a call that is waited for at once, and the bus
// bandwidth 2·(W-1)/W · bytes / median, for ordinary tensors and for tensors from ProcessGroup::allocate().
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "comm/process_group.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"

namespace {

using namespace lockstep;

struct Times {
  double median, best;
};

// Seconds of one call, on the slowest rank.
Times time_of(comm::ProcessGroup& group, const Tensor& tensor, int rounds) {
  std::vector<double> times;
  for (int i = 0; i < rounds + 3; ++i) {
    group.barrier().wait();
    const auto start = Clock::now();
    group.all_reduce(tensor).wait();
    if (i >= 3) times.push_back(seconds(Clock::now() - start));
  }
  std::sort(times.begin(), times.end());
  const Tensor slowest =
      Tensor::from<float>({static_cast<float>(times[static_cast<size_t>(rounds / 2)]), static_cast<float>(times[0])}, {2});
  group.all_reduce(slowest, {.op = comm::ReduceOp::max}).wait();
  return {slowest.data<float>()[0], slowest.data<float>()[1]};
}

void measure(comm::ProcessGroup& group) {
  if (group.rank() == 0) std::printf("%10s %6s | %-28s | %-28s\n", "", "", "ordinary tensors", "allocated by the group");
  if (group.rank() == 0)
    std::printf("%10s %6s | %9s %9s %8s | %9s %9s %8s\n", "bytes", "dtype", "median us", "best us", "GB/s", "median us", "best us", "GB/s");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (int64_t bytes = 4 << 10; bytes <= 64 << 20; bytes *= 4) {
      const Shape shape{bytes / size_of(dtype)};
      const int rounds = bytes <= 1 << 20 ? 200 : 30;
      const Times ordinary = time_of(group, Tensor::zeros(shape, dtype), rounds);
      const Times allocated = time_of(group, group.allocate(shape, dtype), rounds);
      const double bus_bytes = 2.0 * (group.size() - 1) / group.size() * static_cast<double>(bytes);
      if (group.rank() == 0)
        std::printf("%10ld %6s | %9.1f %9.1f %8.2f | %9.1f %9.1f %8.2f\n", static_cast<long>(bytes), std::string(name_of(dtype)).c_str(),
                    ordinary.median * 1e6, ordinary.best * 1e6, bus_bytes / ordinary.median / 1e9, allocated.median * 1e6,
                    allocated.best * 1e6, bus_bytes / allocated.median / 1e9);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2;
  const std::string backend = argc > 2 ? argv[2] : "shm";
  const auto store = std::make_shared<test::ForkStore>();
  const auto ends = test::fork_ranks(ranks, [&](int rank) {
    const auto group = comm::create(backend, store, rank, ranks);
    measure(*group);
  });
  return std::all_of(ends.begin(), ends.end(), [](const test::RankEnd& end) { return end.exit_code == 0; }) ? 0 : 1;
}
