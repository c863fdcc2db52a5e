// A multi-layer perceptron: linear layers with GELU between them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/nn/layers.h"

namespace lockstep::train {

// widths {in, hidden…, out}, at least two. Parameters: layers.N.weight, layers.N.bias.
class Mlp final : public nn::Module {
 public:
  explicit Mlp(const std::vector<int64_t>& widths);

  // Floating-point operations of a forward and backward pass for each row.
  double flops_per_row() const;

 protected:
  // x [..., in] → [..., out].
  Variable forward(const Variable& x) override;

 private:
  std::shared_ptr<nn::Sequential> layers_;
  double weights_ = 0;
};

}  // namespace lockstep::train
