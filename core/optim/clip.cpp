#include "core/optim/clip.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <unordered_map>

#include "core/base/sum_tree.h"

namespace lockstep::optim {
namespace {

// A rank that holds no gradients has nothing to sum.
Device device_of(std::span<const Parameter> parameters) {
  return parameters.empty() ? kCpu : parameters.front().device();
}

int64_t block_count(int64_t numel) { return (numel + kSquareBlock - 1) / kSquareBlock; }

}  // namespace

NormBlocks::NormBlocks(std::span<const int64_t> numels, Device device)
    : numels_(numels.begin(), numels.end()) {
  int64_t blocks = 0;
  for (const int64_t numel : numels_) {
    first_block_.push_back(blocks);
    blocks += block_count(numel);
  }
  MemoryScope scope(MemoryCategory::buffers);
  sums_ = Tensor::zeros({blocks}, DType::i64, device);
}

void NormBlocks::set(size_t index, const Tensor& gradient, int64_t offset) {
  check(index < numels_.size(), "[grad_norm] parameter ", index, " of ", numels_.size());
  const int64_t numel = numels_[index], end = offset + gradient.numel();
  check(gradient.is_contiguous() && offset >= 0 && end <= numel && offset % kSquareBlock == 0 &&
            (end == numel || end % kSquareBlock == 0),
        "[grad_norm] expected contiguous slices that begin and end at multiples of ", kSquareBlock,
        " elements or with the parameter, got [", offset, ", ", end, ") of ", numel);
  check(!bits_.defined(), "[grad_norm] set() must come before bits() and norm()");
  check(gradient.device() == sums_.device(), "[grad_norm] expected gradients on ", sums_.device(),
        ", got one on ", gradient.device());
  if (gradient.numel() == 0) return;
  int64_t* sums = sums_.data<int64_t>() + first_block_[index] + offset / kSquareBlock;
  kernels(gradient.device())
      .square_sums(current_queue(gradient.device()), gradient.dtype(), gradient.numel(),
                   gradient.raw(), reinterpret_cast<double*>(sums));
}

const Tensor& NormBlocks::bits() {
  if (!bits_.defined()) bits_ = sums_.to(kCpu);
  return bits_;
}

double NormBlocks::norm() {
  std::vector<double> sums(static_cast<size_t>(bits().numel()));
  if (sums.empty()) return 0.0;
  std::memcpy(sums.data(), bits_.raw(), sums.size() * sizeof(double));
  return std::sqrt(sum_tree::combine(sums.data(), std::ssize(sums), std::plus<double>()));
}

double grad_norm(std::span<const Parameter> parameters) {
  std::vector<int64_t> numels;
  for (const Parameter& p : parameters) {
    check(!p.is_slice(), "[grad_norm] '", p.name(), "' is ", p.slice(),
          ", and other ranks hold the rest: their norms would differ. Call grad_norm(whole, held, ",
          "or_over_ranks) with the model's parameters and the slices");
    numels.push_back(p.data().numel());
  }
  NormBlocks blocks(numels, device_of(parameters));
  for (size_t i = 0; i < parameters.size(); ++i)
    if (const Tensor gradient = parameters[i].grad(); gradient.defined()) blocks.set(i, gradient);
  return blocks.norm();
}

double grad_norm(std::span<const Parameter> whole, std::span<const Parameter> held,
                 const std::function<void(const Tensor& bits)>& or_over_ranks) {
  std::vector<int64_t> numels;
  std::unordered_map<std::string, size_t> index;
  for (const Parameter& p : whole) {
    check(index.emplace(p.name(), numels.size()).second, "[grad_norm] two parameters are named '",
          p.name(), "'; slices go by name");
    numels.push_back(p.slice().global_shape().numel());
  }
  NormBlocks blocks(numels, device_of(held));
  for (const Parameter& p : held) {
    const auto found = index.find(p.name());
    check(found != index.end() && p.slice().global_shape().numel() == numels[found->second],
          "[grad_norm] '", p.name(), "' of shape ", p.slice().global_shape(),
          " is none of the model's parameters");
    check(!p.slice().is_box(), "[grad_norm] '", p.name(), "' is ", p.slice(),
          ", but squares are summed over runs of the flattened parameter; hold a run of it");
    if (const Tensor gradient = p.grad(); gradient.defined())
      blocks.set(found->second, gradient, p.slice().offset());
  }
  or_over_ranks(blocks.bits());
  return blocks.norm();
}

float clip_scale(double norm, double max_norm) {
  check(!std::isnan(max_norm), "[clip_scale] expected the largest norm, or 0 for no clipping, got ",
        max_norm);
  if (!std::isfinite(norm))
    return std::numeric_limits<float>::quiet_NaN();  // not 0, which would hide it
  if (max_norm <= 0.0 || norm <= max_norm) return 1.0f;
  return static_cast<float>(max_norm / (norm + 1e-6));  // as PyTorch's clip_grad_norm_ does
}

}  // namespace lockstep::optim
