// Two ranks, as threads, take three DDP steps with different data and must end with the same
// weights.
#include <cstdio>
#include <exception>
#include <thread>
#include <vector>

#include <comm/local/hash_store.h>
#include <core/base/build_info.h>
#include <core/nn/layers.h>
#include <core/ops/functions.h>
#include <core/optim/optimizer.h>
#include <ddp/ddp.h>

using namespace lockstep;

namespace {

constexpr int kRanks = 2;

std::vector<float> train(int rank, const std::shared_ptr<comm::Store>& store) {
  std::shared_ptr<comm::ProcessGroup> group = comm::create("local", store, rank, kRanks);
  nn::Linear model(3, 2);
  model.initialize(/*seed=*/static_cast<uint64_t>(rank));
  ddp::DistributedDataParallel ddp(model.parameters(), model.buffers(), group);
  auto optimizer = optim::make_sgd(model.parameters());
  for (int step = 0; step < 3; ++step) {
    const Variable input(Tensor::full({4, 3}, rank + 1));
    ddp.backward(ops::mean(ops::square(model(input))));
    ddp.finish();
    optimizer->step(0.1f);
    optimizer->zero_grad();
  }
  return model.weight.data().to_vector<float>();
}

}  // namespace

int main() {
  const auto store = std::make_shared<comm::HashStore>();
  std::vector<std::vector<float>> weights(kRanks);
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < kRanks; ++rank)
      threads.emplace_back([&, rank] {
        try {
          weights[rank] = train(rank, store);
        } catch (const std::exception& error) {
          std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
        }
      });
  }
  if (weights[0].empty() || weights[0] != weights[1]) return 1;
  std::printf("lockstep %s: all ranks agree\n", build_info::kVersion);
}
