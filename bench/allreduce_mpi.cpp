// Compares all-reduce in shared memory with Open MPI's own MPI_Allreduce, in the same processes, in
// turn. scripts/compare_mpi starts it:
//
//   mpirun -np RANKS bench_allreduce_mpi [--json]
//
// It sums f32 in place. Each rank writes its tensor before every call, as a backward pass does.
// Otherwise the parts that a rank sums would be in its own cache already. A round makes many calls,
// back to back. Its time is that of the slowest rank, minus that of a round that only writes.
// Rounds of the ways alternate, so that a machine whose speed drifts is fair to all. The figures
// are medians over rounds, in microseconds a call.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <mpi.h>
#include <nlohmann/json.hpp>

#include "comm/process_group.h"
#include "comm/store.h"
#include "core/base/clock.h"
#include "core/base/error.h"

namespace lockstep {
namespace {

// As much of a store as one group of the shm backend needs to meet, where no rank is late: rank 0
// says which meeting it is and where the memory lies, and each of the others asks once for both;
// then all wait once until all have joined.
class BroadcastStore final : public comm::Store {
 public:
  explicit BroadcastStore(int rank) : rank_(rank) {}
  std::string compare_and_set(const std::string&, const std::string&,
                              const std::string& desired) override {
    return share(desired);
  }
  void set(const std::string& key, const std::string& value) override {
    if (key.ends_with("/shm")) share(value);
  }
  std::string get(const std::string&, Duration) override { return share(""); }
  void wait(const std::vector<std::string>&, Duration) override { MPI_Barrier(MPI_COMM_WORLD); }
  int64_t add(const std::string&, int64_t delta) override { return delta; }
  void remove(const std::vector<std::string>&) override {}

 private:
  // Rank 0's value, on every rank.
  std::string share(const std::string& value) const {
    char text[512] = {};
    check(value.size() < sizeof text, "[bench] too long for this store: ", value);
    if (rank_ == 0) std::strcpy(text, value.c_str());
    MPI_Bcast(text, sizeof text, MPI_CHAR, 0, MPI_COMM_WORLD);
    return text;
  }
  const int rank_;
};

struct Way {
  Tensor tensor;
  std::function<void()> call;
  std::vector<double> rounds_us = {};
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// The first way only writes.
std::vector<double> measure(std::vector<Way>& ways, int64_t bytes) {
  constexpr int kRounds = 11;
  const auto calls = std::clamp<int64_t>((8 << 20) / bytes, 2, 200);
  for (int round = -1; round < kRounds; ++round) {  // the first round is a warm-up
    for (Way& way : ways) {
      MPI_Barrier(MPI_COMM_WORLD);
      const auto start = Clock::now();
      for (int64_t i = 0; i < calls; ++i) {
        std::memset(way.tensor.raw(), 0, static_cast<size_t>(bytes));
        way.call();
      }
      double us = seconds(Clock::now() - start) * 1e6 / static_cast<double>(calls);
      MPI_Allreduce(MPI_IN_PLACE, &us, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
      if (round >= 0) way.rounds_us.push_back(us);
    }
  }
  std::vector<double> us;
  for (size_t i = 1; i < ways.size(); ++i)
    us.push_back(median(ways[i].rounds_us) - median(ways[0].rounds_us));
  return us;
}

void bench(int rank, int size, bool json) {
  const auto group = comm::create("shm", std::make_shared<BroadcastStore>(rank), rank, size);
  nlohmann::ordered_json out = {{"ranks", size}, {"results", nlohmann::ordered_json::array()}};
  if (rank == 0 && !json)
    std::printf(
        "| bytes | Open MPI µs | shm, ordinary µs | shm, allocate()d µs | faster by | "
        "|\n|---|---|---|---|---|---|\n");
  for (const int64_t bytes : {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 25 << 20}) {
    const int64_t n = bytes / 4;
    const Tensor theirs = Tensor::zeros({n}), ordinary = Tensor::zeros({n}),
                 allocated = group->allocate({n}, DType::f32);
    std::vector<Way> ways = {
        {ordinary, [] {}},
        {theirs,
         [&] {
           MPI_Allreduce(MPI_IN_PLACE, theirs.raw(), static_cast<int>(n), MPI_FLOAT, MPI_SUM,
                         MPI_COMM_WORLD);
         }},
        {ordinary, [&] { group->all_reduce(ordinary).wait(); }},
        {allocated, [&] { group->all_reduce(allocated).wait(); }},
    };
    const auto us = measure(ways, bytes);
    const double mpi = us[0], plain = us[1], shared = us[2];
    out["results"].push_back(
        {{"bytes", bytes}, {"mpi_us", mpi}, {"ordinary_us", plain}, {"allocated_us", shared}});
    if (rank == 0 && !json) {
      std::printf("| %lld | %.1f | %.1f | %.1f | %.2f× | %.2f× |\n", static_cast<long long>(bytes),
                  mpi, plain, shared, mpi / plain, mpi / shared);
      std::fflush(stdout);
    }
  }
  if (rank == 0 && json) std::printf("%s\n", out.dump().c_str());
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  int provided = 0, rank = 0, size = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const bool json = argc == 2 && std::string(argv[1]) == "--json";
  if ((argc > 1 && !json) || size < 2) {
    if (rank == 0)
      std::fprintf(stderr,
                   "usage: mpirun -np RANKS bench_allreduce_mpi [--json], with at least 2 ranks\n");
    MPI_Finalize();
    return 2;
  }
  lockstep::bench(rank, size, json);
  MPI_Finalize();
}
