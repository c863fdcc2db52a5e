#include "train/models/mlp.h"

namespace lockstep::train {

Mlp::Mlp(const std::vector<int64_t>& widths) {
  check(widths.size() >= 2, "[mlp] expected at least two widths (in and out), got ", widths.size());
  layers_ = register_module("layers", std::make_shared<nn::Sequential>());
  for (size_t i = 0; i + 1 < widths.size(); ++i) {
    layers_->append(std::make_shared<nn::Linear>(widths[i], widths[i + 1]));
    weights_ += static_cast<double>(widths[i]) * static_cast<double>(widths[i + 1]);
  }
}

Variable Mlp::forward(const Variable& x) {
  Variable value = x;
  for (const auto& [name, layer] : layers_->children()) {
    if (name != "0") value = ops::gelu(value);
    value = (*layer)(value);
  }
  return value;
}

double Mlp::flops_per_row() const { return 6.0 * weights_; }

}  // namespace lockstep::train
