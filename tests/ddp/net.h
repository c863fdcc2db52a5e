// A small model for tests of DDP, and the bits of its gradients.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "core/device/kernels.h"
#include "core/ops/functions.h"
#include "tests/support/run_group.h"

namespace lockstep::ddp::test {

using lockstep::test::expect_success;
using lockstep::test::Group;
using lockstep::test::run_group;

inline Tensor random(const Shape& shape, uint32_t site) {
  Tensor t = Tensor::empty(shape);
  kernels(kCpu).normal(current_queue(kCpu), t.numel(), 0, 1, {.seed = 7, .site = site}, 0,
                       t.data<float>());
  return t;
}

// Two layers; the second one's weight is used twice, and `spare` not at all unless asked for.
struct Net {
  std::vector<Parameter> parameters{{"in.weight", random({16, 8}, 1)},
                                    {"in.bias", random({16}, 2)},
                                    {"out.weight", random({16, 16}, 3)},
                                    {"spare", random({5}, 4)}};
  bool use_spare = true;

  Variable loss(int64_t micro) const {
    const Variable x(random({4, 8}, 100 + static_cast<uint32_t>(micro)));
    Variable h = ops::gelu(ops::linear(x, parameters[0], parameters[1]));
    h = ops::gelu(ops::linear(h, parameters[2], {}));
    h = ops::linear(h, parameters[2], {});
    Variable sum = ops::sum(ops::mul(h, h));
    return use_spare ? ops::add(sum, ops::sum(ops::mul(parameters[3], parameters[3]))) : sum;
  }
};

inline std::vector<uint32_t> bits(const std::vector<Parameter>& parameters) {
  std::vector<uint32_t> out;
  for (const Parameter& p : parameters) {
    if (!p.grad().defined()) continue;
    for (float f : p.grad().to_vector<float>()) out.push_back(std::bit_cast<uint32_t>(f));
  }
  return out;
}

}  // namespace lockstep::ddp::test
