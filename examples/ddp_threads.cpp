#include <cstdio>
#include <thread>

#include "comm/local/hash_store.h"
#include "core/nn/layers.h"
#include "core/ops/functions.h"
#include "core/optim/optimizer.h"
#include "ddp/ddp.h"
using namespace lockstep;

int main() {  // two ranks, here as threads of one process, fit w·x + b to points of 2·x + 1
              // together
  const auto store = std::make_shared<comm::HashStore>();
  const auto train = [&](int rank) {
    nn::Linear model(1, 1);
    ddp::DistributedDataParallel ddp(model.parameters(), model.buffers(),
                                     comm::create("local", store, rank, 2));
    const auto optimizer = optim::make_sgd(model.parameters());
    const double at =
        rank == 0 ? -1 : 2;  // each rank knows one point, which alone leaves w and b open
    const Variable x(Tensor::full({8, 1}, at)), y(Tensor::full({8, 1}, 2 * at + 1));
    for (int step = 0; step < 200; ++step) {
      ddp.backward(
          ops::mean(ops::square(ops::sub(model(x), y))));  // gradients are summed while this runs
      ddp.finish();
      optimizer->step(/*lr=*/0.1f);
      optimizer->zero_grad();
    }
    std::printf("rank %d: w = %.3f, b = %.3f\n", rank, model.weight.data().item(),
                model.bias.data().item());
  };
  std::jthread first(train, 0), second(train, 1);
}
