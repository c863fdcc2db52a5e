// Products of the simulated device come from the CPU's kernels: the simulation is about order and
// memory, and cuBLASLt's own bits cannot be had without a GPU.
#include "core/device/cuda/products.h"

#include <vector>

#include "core/base/half.h"
#include "core/device/cuda/sim/launch.h"
#include "core/device/cuda/stream.h"

namespace lockstep::cuda {

void load_products() {}

void multiply(const Queue& queue, const Product& product) {
  sim::enqueue("gemm", stream_of(queue), [product] {
    GemmArgs args = product.args;
    std::vector<float> bias;
    if (product.bias && args.c_dtype == DType::bf16) {
      const auto* from = static_cast<const BFloat16*>(product.bias);
      bias.assign(from, from + args.n);
      args.bias = bias.data();
    } else {
      args.bias = static_cast<const float*>(product.bias);
    }
    kernels(kCpu).gemm(current_queue(kCpu), args);
  });
}

}  // namespace lockstep::cuda
