// Two ranks fit w·x + b to points of 2·x + 1 together. Here they are threads of one process.
#include <cstdio>
#include <thread>

#include "comm/local/hash_store.h"
#include "core/nn/layers.h"
#include "core/ops/functions.h"
#include "core/optim/optimizer.h"
#include "ddp/ddp.h"
using namespace lockstep;

int main() {
  const auto store = std::make_shared<comm::HashStore>();
  const auto train = [&](int rank) {
    nn::Linear model(1, 1);
    const std::shared_ptr<comm::ProcessGroup> group = comm::create("local", store, rank, 2);
    ddp::DistributedDataParallel ddp(model.parameters(), model.buffers(), group);
    const auto optimizer = optim::make_sgd(model.parameters());
    // Each rank knows one point, which alone does not determine w and b.
    const double at = rank == 0 ? -1 : 2;
    const Variable x(Tensor::full({8, 1}, at)), y(Tensor::full({8, 1}, 2 * at + 1));
    for (int step = 0; step < 200; ++step) {
      const Variable loss = ops::mean(ops::square(ops::sub(model(x), y)));
      ddp.backward(loss);  // gradients are summed while this runs
      ddp.finish();
      optimizer->step(/*lr=*/0.1f);
      optimizer->zero_grad();
    }
    const float w = model.weight.data().item(), b = model.bias.data().item();
    std::printf("rank %d: w = %.3f, b = %.3f\n", rank, w, b);
  };
  std::jthread first(train, 0), second(train, 1);
}
