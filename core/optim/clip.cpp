#include "core/optim/clip.h"

#include <cmath>
#include <vector>

#include "core/device/kernels.h"

namespace lockstep::optim {
namespace {

// Halves: the tree depends on the number of terms alone.
double tree_sum(std::span<const double> terms) {
  if (terms.empty()) return 0.0;
  if (terms.size() == 1) return terms[0];
  const size_t half = terms.size() / 2;
  return tree_sum(terms.first(half)) + tree_sum(terms.subspan(half));
}

}  // namespace

double grad_norm(std::span<const Parameter> parameters) {
  std::vector<double> squares;
  squares.reserve(parameters.size());
  for (const Parameter& p : parameters) {
    const Tensor g = p.grad();
    squares.push_back(g.defined() && g.numel() > 0 ? kernels(g.device()).sum_of_squares(g.dtype(), g.numel(), g.raw()) : 0.0);
  }
  return std::sqrt(tree_sum(squares));
}

float clip_scale(double norm, double max_norm) {
  if (max_norm <= 0.0 || norm <= max_norm) return 1.0f;
  return static_cast<float>(max_norm / (norm + 1e-6));  // as PyTorch's clip_grad_norm_
}

}  // namespace lockstep::optim
