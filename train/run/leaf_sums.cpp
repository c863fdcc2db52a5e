#include "train/run/leaf_sums.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "core/base/sum_tree.h"

namespace lockstep::train {
namespace {

constexpr int64_t kFlags = 3;

}  // namespace

float tree_sum(std::span<const float> leaves) {
  if (leaves.empty()) return 0.0f;
  std::vector<float> sums(leaves.begin(), leaves.end());
  return sum_tree::combine(sums.data(), std::ssize(sums), std::plus<float>());
}

Losses::Losses(Device device, int64_t most) {
  const MemoryScope category(MemoryCategory::buffers);
  values_ = Tensor::empty({most}, DType::f32, device);
  host_ = values_;
}

void Losses::add(int64_t leaf, const Tensor& loss) {
  values_.select(0, std::ssize(leaves_)).copy_(loss);
  leaves_.push_back(leaf);
}

Tensor Losses::among(int64_t total, bool refused) const {
  const MemoryScope category(MemoryCategory::buffers);
  const Tensor all = Tensor::zeros({total + 1}, DType::f32, values_.device());
  for (size_t i = 0; i < leaves_.size(); ++i)
    all.select(0, leaves_[i]).copy_(values_.select(0, static_cast<int64_t>(i)));
  if (refused) all.select(0, total).fill_(std::numeric_limits<double>::quiet_NaN());
  return all;
}

void Losses::send() {
  if (values_.device() == kCpu) return;
  const MemoryScope category(MemoryCategory::buffers);
  host_ = Tensor::pinned(values_.shape(), DType::f32, values_.device());
  copied_ = host_.copy_later(values_);
}

std::vector<Leaf> Losses::read() const {
  copied_.synchronize();
  const auto values = host_.span<float>();
  std::vector<Leaf> losses;
  for (size_t i = 0; i < leaves_.size(); ++i) losses.emplace_back(leaves_[i], values[i]);
  return losses;
}

StepFlags agreed(const StepFlags& flags, comm::ProcessGroup& group) {
  LeafSum none({}, 0, flags, group);
  return none.flags();
}

LeafSum::LeafSum(std::span<const Leaf> mine, int64_t total, const StepFlags& flags,
                 comm::ProcessGroup& group, std::span<const float> note)
    : total_(total), values_(Tensor::zeros({total + kFlags + group.size() * std::ssize(note)})) {
  const std::span<float> values = values_.span<float>();
  for (const auto& [leaf, value] : mine) values[static_cast<size_t>(leaf)] = value;
  const auto at = values.subspan(static_cast<size_t>(total));
  at[0] = flags.stop, at[1] = flags.save, at[2] = flags.no_data;
  std::copy(note.begin(), note.end(), at.begin() + kFlags + group.rank() * std::ssize(note));
  work_ = group.host().all_reduce(values_);
}

float LeafSum::sum() {
  work_.wait();
  return tree_sum(std::span<const float>(values_.span<float>()).first(static_cast<size_t>(total_)));
}

StepFlags LeafSum::flags() {
  work_.wait();
  const auto at = values_.span<float>().subspan(static_cast<size_t>(total_));
  return {.stop = at[0] > 0, .save = at[1] > 0, .no_data = at[2] > 0};
}

std::vector<float> LeafSum::notes() {
  work_.wait();
  const auto notes = values_.span<float>().subspan(static_cast<size_t>(total_ + kFlags));
  return {notes.begin(), notes.end()};
}

}  // namespace lockstep::train
