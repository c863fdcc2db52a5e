#include "ddp/ddp.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <unordered_set>

#include "core/device/kernels.h"
#include "ddp/same_model.h"

namespace lockstep::ddp {
namespace {

constexpr int kTotal = -1;  // the level that is reduced between ranks

void add_into(const Tensor& into, const Tensor& value) {
  kernels(into.device()).axpby(DType::f32, into.numel(), 1.0f, value.raw(), 1.0f, into.raw());
}

int trailing_ones(int64_t i) { return __builtin_ctzll(~static_cast<uint64_t>(i)); }

std::string names(const std::vector<Parameter>& parameters, const std::vector<bool>& present) {
  std::string out;
  int64_t listed = 0, missing = 0;
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (present[i]) continue;
    if (++missing <= 8) out += (listed++ ? ", '" : "'") + parameters[i].name() + "'";
  }
  return missing > 8 ? str(out, " and ", missing - 8, " more") : out;
}

}  // namespace

DistributedDataParallel::DistributedDataParallel(std::vector<Parameter> parameters, std::vector<std::pair<std::string, Tensor>> buffers,
                                                 std::shared_ptr<comm::ProcessGroup> group, Options options)
    : group_(std::move(group)),
      options_(std::move(options)),
      tree_(options_.micro_batches > 0 ? options_.micro_batches : group_->size(), group_->size()) {
  for (const Parameter& p : parameters)
    check(p.dtype() == DType::f32, "[ddp] parameter '", p.name(), "' is ", p.data(),
          ", but gradients are summed in f32: keep f32 parameters and compute in bf16 through ops::PrecisionScope");
  check_same_model(parameters, buffers, *group_);
  broadcast_model(parameters, buffers, *group_);

  for (const Parameter& p : parameters)
    if (p.requires_grad()) parameters_.push_back(p);
  check(!parameters_.empty(), "[ddp] there is nothing to train: no parameter requires a gradient");

  // Gradients become final roughly in the reverse order of registration.
  std::vector<size_t> order(parameters_.size());
  std::iota(order.rbegin(), order.rend(), size_t{0});
  std::vector<int64_t> bytes;
  for (const Parameter& p : parameters_) bytes.push_back(p.data().bytes());
  build(make_layout(order, bytes, options_.first_bucket_bytes, options_.bucket_bytes));
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].set_grad_hook([this, i](const Parameter&) { on_gradient(i); });
}

DistributedDataParallel::~DistributedDataParallel() {
  for (const Parameter& p : parameters_) p.set_grad_hook({});
}

void DistributedDataParallel::build(BucketLayout layout) {
  layout_ = std::move(layout);
  buckets_.clear();
  slots_.resize(parameters_.size());
  for (const Parameter& p : parameters_) p.set_grad_buffer({});  // frees the old buckets before the new ones are made
  for (size_t b = 0; b < layout_.size(); ++b) {
    buckets_.emplace_back(layout_[b], parameters_, *group_);
    for (size_t k = 0; k < layout_[b].size(); ++k) slots_[layout_[b][k]] = {b, k};
  }
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].set_grad_buffer(buckets_[slots_[i].bucket].view(slots_[i].member, kTotal));
}

void DistributedDataParallel::backward(const Variable& loss) {
  check(loss.defined() && loss.data().numel() == 1, "[ddp] backward() takes one micro-batch's loss, a single number");
  begin_micro_batch();
  if (options_.find_unused_parameters) {
    std::unordered_set<const void*> reached;
    for (const Parameter& leaf : reachable_leaves(loss)) reached.insert(leaf.impl().get());
    std::vector<bool> used;
    for (const Parameter& p : parameters_) used.push_back(reached.count(p.impl().get()) > 0);
    zero_unused(used);
  }
  const double weight = 1.0 / static_cast<double>(active_ranks_ > 0 ? active_ranks_ : tree_.leaves());
  loss.backward(Tensor::full(loss.shape(), weight, loss.dtype(), loss.device()));
  end_micro_batch();
}

void DistributedDataParallel::skip() {
  check(active_ranks_ > 0, "[ddp] skip() is for uneven inputs: call active_ranks() at the start of each step on every rank");
  begin_micro_batch();
  zero_unused(std::vector<bool>(parameters_.size(), false));
  end_micro_batch();
}

int DistributedDataParallel::active_ranks(bool have_input) {
  check(tree_.leaves() == group_->size(), "[ddp] uneven inputs need one micro-batch a rank and step; this step has ", tree_.leaves(),
        " for ", group_->size(), " ranks");
  const Tensor count = Tensor::full({1}, have_input ? 1 : 0, DType::i32);
  group_->all_reduce(count).wait();
  active_ranks_ = static_cast<int>(count.item());
  return active_ranks_;
}

// Points every gradient at the memory in which this micro-batch's sum belongs. Micro-batch i of the share goes to the level
// that a binary counter would carry into, so that no sum is ever copied; the last one goes to what is reduced between ranks.
void DistributedDataParallel::begin_micro_batch() {
  check(!synchronised_, "[ddp] backward() after the step's last micro-batch: call finish() first");
  const int64_t share = tree_.begin(group_->rank() + 1) - tree_.begin(group_->rank());
  guarded_ = guarded_ || no_sync_depth_ > 0;
  last_micro_batch_ = no_sync_depth_ == 0 && (guarded_ || micro_index_ + 1 >= share);
  const int level = last_micro_batch_ ? kTotal : trailing_ones(micro_index_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    // Only where it changes: a gradient that sits in `total` is pointed there once.
    Tensor target = buckets_[slots_[i].bucket].view(slots_[i].member, level);
    if (parameters_[i].grad_buffer().raw() != target.raw())
      parameters_[i].set_grad_buffer(std::move(target));
    else
      parameters_[i].zero_grad();
  }
  ready_.assign(parameters_.size(), false);
  if (!last_micro_batch_) return;
  missing_in_bucket_.clear();
  for (const Bucket& bucket : buckets_) missing_in_bucket_.push_back(bucket.members().size());
  next_bucket_ = 0;
  pending_.clear();
  ready_order_.clear();
}

void DistributedDataParallel::on_gradient(size_t index) {
  // A backward() that did not come through us would be reduced twice or not at all.
  check(!ready_.empty(), "[ddp] call ddp.backward(loss) rather than loss.backward(): '", parameters_[index].name(),
        "' received a gradient outside of a step");
  fold_levels(index);
  mark_ready(index);
}

// The binary counter: adds the sums of the micro-batches before this one that complete a pair with it. The last micro-batch
// adds all that is left, smallest first.
void DistributedDataParallel::fold_levels(size_t index) {
  Bucket& bucket = buckets_[slots_[index].bucket];
  const Tensor sum = parameters_[index].grad_buffer();
  const uint64_t carried = last_micro_batch_ ? static_cast<uint64_t>(micro_index_) : (uint64_t{1} << trailing_ones(micro_index_)) - 1;
  for (int level = 0; (carried >> level) != 0; ++level)
    if ((carried >> level) & 1) add_into(sum, bucket.view(slots_[index].member, level));
}

void DistributedDataParallel::mark_ready(size_t index) {
  ready_[index] = true;
  if (!last_micro_batch_) return;
  ready_order_.push_back(index);
  --missing_in_bucket_[slots_[index].bucket];
  start_ready_buckets();
}

void DistributedDataParallel::start_ready_buckets() {
  while (next_bucket_ < buckets_.size() && missing_in_bucket_[next_bucket_] == 0)
    pending_.push_back(options_.comm_hook(buckets_[next_bucket_++].total(), *group_, tree_));
}

void DistributedDataParallel::zero_unused(const std::vector<bool>& used) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (used[i]) continue;
    parameters_[i].grad_buffer().zero_();
    parameters_[i].mark_grad_valid();
    on_gradient(i);
  }
}

void DistributedDataParallel::end_micro_batch() {
  if (std::find(ready_.begin(), ready_.end(), false) != ready_.end())
    fail(str("[ddp] rank ", group_->rank(), ": no gradient reached ", names(parameters_, ready_),
             " in this micro-batch; if that is meant, set find_unused_parameters, otherwise check the model's forward()"));
  ready_.clear();
  ++micro_index_;
  synchronised_ = last_micro_batch_;
}

int64_t DistributedDataParallel::gradient_bytes() const {
  const int64_t share = tree_.begin(group_->rank() + 1) - tree_.begin(group_->rank());
  const int64_t levels = share > 1 ? std::bit_width(static_cast<uint64_t>(share - 1)) : 0;
  int64_t bytes = 0;
  for (const Bucket& bucket : buckets_) bytes += bucket.total().bytes() * (1 + levels);
  return bytes;
}

void DistributedDataParallel::finish() {
  check(synchronised_, "[ddp] finish() before the step's last micro-batch: this rank ran ", micro_index_, " of ",
        tree_.begin(group_->rank() + 1) - tree_.begin(group_->rank()));
  exposed_ = Duration::zero();
  for (const PendingReduction& reduction : pending_) {
    const auto start = Clock::now();
    reduction.work.wait();
    if (reduction.finish) reduction.finish();
    exposed_ += std::chrono::duration_cast<Duration>(Clock::now() - start);
  }
  pending_.clear();
  micro_index_ = 0;
  synchronised_ = guarded_ = false;
  if (!std::exchange(rebuilt_, true)) rebuild_in_ready_order();
}

// The ranks may have seen different orders (a slow op, an unused parameter), so rank 0's counts. The step's gradients move
// along: the optimizer has yet to read them.
void DistributedDataParallel::rebuild_in_ready_order() {
  std::vector<int32_t> seen(ready_order_.begin(), ready_order_.end());
  const Tensor shared = Tensor::from(seen, {static_cast<int64_t>(seen.size())});
  group_->broadcast(shared, 0).wait();
  std::vector<size_t> order;
  for (int32_t index : shared.to_vector<int32_t>()) order.push_back(static_cast<size_t>(index));
  std::vector<int64_t> bytes;
  for (const Parameter& p : parameters_) bytes.push_back(p.data().bytes());
  BucketLayout layout = make_layout(order, bytes, options_.first_bucket_bytes, options_.bucket_bytes);
  if (layout == layout_) return;

  // For a moment both layouts exist; the activations of the first step, which sit in the cache, make room for that.
  allocator(parameters_.front().device()).release_cached();
  std::vector<Tensor> gradients;
  for (const Parameter& p : parameters_) gradients.push_back(p.grad());
  build(std::move(layout));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].grad_buffer().copy_(gradients[i]);
    parameters_[i].mark_grad_valid();
    gradients[i] = Tensor();
  }
  // The old buckets must not stay in the cache: nobody will ask for their sizes again.
  allocator(parameters_.front().device()).release_cached();
}

// The other ranks wait in collectives that this one will never join.
void DistributedDataParallel::fail(const std::string& message) {
  group_->abort(message);
  throw UsageError(message);
}

}  // namespace lockstep::ddp
