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
  check(!summed_, "[grad_norm] set() must come before sums(), bits() and norm()");
  check(gradient.device() == sums_.device(), "[grad_norm] expected gradients on ", sums_.device(),
        ", got one on ", gradient.device());
  if (gradient.numel() == 0) return;
  auto* sums = reinterpret_cast<double*>(sums_.data<int64_t>()) + first_block_[index] +
               offset / kSquareBlock;
  set_[gradient.dtype()].push_back(
      {.x = gradient.raw(), .sums = sums, .n = gradient.numel(), .first_piece = 0});
  of_set_.emplace_back(sums, gradient.numel());
  gradients_.push_back(gradient);
}

void NormBlocks::restart() {
  set_.clear();
  of_set_.clear();
  gradients_.clear();
  bits_ = {};
  summed_ = false;
}

const Tensor& NormBlocks::sums() {
  if (summed_) return sums_;
  summed_ = true;
  // Sums of gradients that are no longer there. The first ones begin as 0.
  if (of_set_ != of_sums_ && !of_sums_.empty()) sums_.zero_();
  of_sums_ = of_set_;
  const Device device = sums_.device();
  for (auto& [dtype, set] : set_) {
    DeviceRows<SquareSumsRow>& rows = rows_[dtype];
    rows.set(std::move(set), kSquareBlock, device);
    kernels(device).square_sums_many(
        current_queue(device),
        {.dtype = dtype, .rows = rows.rows(), .count = rows.count(), .pieces = rows.pieces()});
  }
  set_.clear();
  gradients_.clear();  // freed in the order of the queue
  return sums_;
}

const Tensor& NormBlocks::bits() {
  // A copy on a CPU, too: ranks write into it, and sums_ keeps the 0s of what others hold.
  if (!bits_.defined()) bits_ = sums().device() == kCpu ? sums_.clone() : sums_.to(kCpu);
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

namespace {

std::vector<int64_t> numels_of(std::span<const Parameter> whole) {
  std::vector<int64_t> numels;
  for (const Parameter& p : whole) numels.push_back(p.slice().global_shape().numel());
  return numels;
}

}  // namespace

GradNorm::GradNorm(std::span<const Parameter> whole, std::span<const Parameter> held, Device device)
    : held_(held.begin(), held.end()), blocks_(numels_of(whole), device) {
  std::unordered_map<std::string, size_t> index;
  for (const Parameter& p : whole)
    check(index.emplace(p.name(), index.size()).second, "[grad_norm] two parameters are named '",
          p.name(), "'; slices go by name");
  for (const Parameter& p : held_) {
    const auto found = index.find(p.name());
    check(found != index.end() && p.slice().global_shape().numel() ==
                                      whole[found->second].slice().global_shape().numel(),
          "[grad_norm] '", p.name(), "' of shape ", p.slice().global_shape(),
          " is none of the model's parameters");
    check(!p.slice().is_box(), "[grad_norm] '", p.name(), "' is ", p.slice(),
          ", but squares are summed over runs of the flattened parameter; hold a run of it");
    index_.push_back(found->second);
  }
}

NormBlocks& GradNorm::blocks() {
  blocks_.restart();
  for (size_t i = 0; i < held_.size(); ++i)
    if (const Tensor gradient = held_[i].grad(); gradient.defined())
      blocks_.set(index_[i], gradient, held_[i].slice().offset());
  return blocks_;
}

double grad_norm(std::span<const Parameter> whole, std::span<const Parameter> held,
                 const std::function<void(const Tensor& bits)>& or_over_ranks) {
  GradNorm norm(whole, held, device_of(held));
  NormBlocks& blocks = norm.blocks();
  or_over_ranks(blocks.bits());
  return blocks.norm();
}

float clip_scale(double norm, double max_norm) {
  check(!std::isnan(max_norm), "[clip_scale] expected the largest norm, or 0 for no clipping, got ",
        max_norm);
  if (!std::isfinite(norm))
    return std::numeric_limits<float>::quiet_NaN();  // not 0, which would hide it
  return clip_factor(norm, max_norm);
}

}  // namespace lockstep::optim
