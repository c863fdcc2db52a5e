#include "ddp/ddp.h"

#include <algorithm>
#include <numeric>
#include <unordered_set>

#include "comm/peer_failure.h"
#include "core/base/sum_tree.h"
#include "data_parallel/same_model.h"
#include "ddp/usable_model.h"

namespace lockstep::ddp {
namespace {

using data_parallel::names_of, data_parallel::no_gradient_reached;

constexpr size_t kFrozen = static_cast<size_t>(-1);  // in trained_index_

bool gradient_lies_at(const Parameter& parameter, const void* place) {
  const Tensor buffer = parameter.grad_buffer();
  return buffer.defined() && buffer.raw() == place;
}

// Runs `call`. Its errors are prefixed with what was being done.
template <typename Call, typename What>
void doing(const What& what, const Call& call) {
  try {
    call();
  } catch (const Error& e) {
    std::rethrow_exception(comm::reworded(e, str("[ddp] ", what(), ": ", e.what())));
  }
}

}  // namespace

DistributedDataParallel::DistributedDataParallel(
    std::vector<Parameter> parameters, std::vector<std::pair<std::string, Tensor>> buffers,
    std::shared_ptr<comm::ProcessGroup> group, Options options)
    : all_(std::move(parameters)),
      trained_index_(all_.size(), kFrozen),
      group_(std::move(group)),
      options_(std::move(options)),
      tree_(options_.micro_batches > 0 ? options_.micro_batches : group_->size(), group_->size()),
      labels_(*group_, all_.size()) {
  check_usable(all_, buffers, *group_);
  data_parallel::check_same_model("ddp", all_, buffers, *group_);
  broadcast_model(all_, buffers, *group_);
  take_trained();
  for (size_t i = 0; i < all_.size(); ++i)
    takers_.emplace_back(all_[i].add_grad_taker([this, i](const Parameter&) { on_gradient(i); }));
}

DistributedDataParallel::~DistributedDataParallel() = default;

// Makes buckets for the parameters that are trained now. Gradients become final roughly in the
// reverse order of registration.
void DistributedDataParallel::take_trained() {
  const bool any =
      std::any_of(all_.begin(), all_.end(), [](const Parameter& p) { return p.requires_grad(); });
  check(any, "[ddp] there is nothing to train: no parameter requires a gradient");
  for (const Parameter& p : parameters_) p.set_grad_buffer({});
  parameters_.clear();
  for (size_t i = 0; i < all_.size(); ++i) {
    trained_index_[i] = all_[i].requires_grad() ? parameters_.size() : kFrozen;
    if (all_[i].requires_grad()) parameters_.push_back(all_[i]);
  }
  std::vector<size_t> order(parameters_.size());
  std::iota(order.rbegin(), order.rend(), size_t{0});
  std::vector<int64_t> bytes;
  for (const Parameter& p : parameters_) bytes.push_back(p.data().bytes());
  build(make_layout(order, bytes, options_.first_bucket_bytes, options_.bucket_bytes));
  rebuilt_ = false;
}

// Before a step, adds or removes parameters that were unfrozen or frozen since the last step. All
// ranks must have changed them alike.
void DistributedDataParallel::follow_freezing() {
  std::vector<Parameter> changed;
  for (size_t i = 0; i < all_.size(); ++i)
    if (all_[i].requires_grad() != (trained_index_[i] != kFrozen)) changed.push_back(all_[i]);
  if (changed.empty()) return;
  doing(
      [&] {
        return str("comparing which parameters are trained, since ", names_of(changed),
                   " changed on rank ", group_->rank(), " (label ", labels_.freezing(), ")");
      },
      [&] { check_same_freezing(all_, *group_, labels_.freezing()); });
  take_trained();
}

// Only the wrapper that was made last receives the gradients.
void DistributedDataParallel::check_taken() {
  for (size_t i = 0; i < all_.size(); ++i)
    if (!all_[i].is_taken_by(takers_[i].handle()))
      fail(str("[ddp] a later DistributedDataParallel or FullyShardedDataParallel has taken over '",
               all_[i].name(), "' on rank ", group_->rank(),
               ": use that one, or destroy it first"));
}

void DistributedDataParallel::build(BucketLayout layout) {
  layout_ = std::move(layout);
  buckets_.clear();
  slots_.resize(parameters_.size());
  for (const Parameter& p : parameters_)
    p.set_grad_buffer({});  // frees the old buckets before the new ones are made
  for (size_t b = 0; b < layout_.size(); ++b) {
    buckets_.emplace_back(layout_[b], parameters_, *group_);
    for (size_t k = 0; k < layout_[b].size(); ++k) slots_[layout_[b][k]] = {b, k};
  }
  for (size_t i = 0; i < parameters_.size(); ++i)
    parameters_[i].set_grad_buffer(buckets_[slots_[i].bucket].total_of(slots_[i].member));
}

void DistributedDataParallel::backward(const Variable& loss) { backward_of(sums_.next(), loss); }

void DistributedDataParallel::backward(const Variable& loss, int64_t micro_batch) {
  const int64_t first = tree_.begin(group_->rank());
  check(micro_batch >= first && micro_batch - first < share(), "[ddp] micro-batch ", micro_batch,
        " is not run by rank ", group_->rank(), ", which has ", first, " to ", first + share() - 1);
  check(!guarded_ && no_sync_depth_ == 0, "[ddp] backward() of micro-batch ", micro_batch,
        ": in a step with no_sync() micro-batches come in order; call backward(loss)");
  check(!sums_.has(micro_batch - first), "[ddp] micro-batch ", micro_batch,
        " had its backward() in this step");
  backward_of(micro_batch - first, loss);
}

void DistributedDataParallel::backward_of(int64_t term, const Variable& loss) {
  check(loss.defined() && loss.data().numel() == 1,
        "[ddp] backward() takes one micro-batch's loss, a single number");
  micro_batch(term, true, [&] {
    if (options_.find_unused_parameters) {
      std::unordered_set<const void*> reached;
      for (const Parameter& leaf : reachable_leaves(loss)) reached.insert(leaf.impl().get());
      std::vector<bool> used;
      for (const Parameter& p : parameters_) used.push_back(reached.count(p.impl().get()) > 0);
      zero_unused(used);
    }
    const double weight = 1.0 / static_cast<double>(uneven_.terms(tree_.leaves()));
    loss.backward(Tensor::full(loss.shape(), weight, loss.dtype(), loss.device()));
  });
}

void DistributedDataParallel::skip() {
  check(uneven_.counted(),
        "[ddp] skip() is for uneven inputs: call active_ranks() at the start of each step on every "
        "rank");
  micro_batch(sums_.next(), false,
              [&] { zero_unused(std::vector<bool>(parameters_.size(), false)); });
}

int DistributedDataParallel::active_ranks(bool have_input) {
  check(tree_.leaves() == group_->size(),
        "[ddp] uneven inputs need one micro-batch a rank and step; this step has ", tree_.leaves(),
        " for ", group_->size(), " ranks");
  check(done_ == 0 && !synchronised_,
        "[ddp] active_ranks() in the middle of a step: call it before the first backward(), and "
        "after the finish() of the step before");
  const Tensor total = data_parallel::UnevenInputs::entry(have_input);
  doing(
      [&] {
        return str("counting the ranks that have input (label ", labels_.active_ranks(), ")");
      },
      [&] { uneven_.count(total, *group_, labels_.active_ranks()).wait(); });
  return uneven_.begin(have_input, total);
}

// Counts the whole micro-batch or, if something throws, nothing of it.
template <typename Differentiate>
void DistributedDataParallel::micro_batch(int64_t term, bool has_input,
                                          const Differentiate& differentiate) {
  begin_micro_batch(term, has_input);
  try {
    differentiate();
    end_micro_batch();
  } catch (...) {
    abandon_micro_batch();
    throw;
  }
}

// Points every gradient at the memory for this micro-batch's sum. That is a level that waits for
// others or, for the last micro-batch, the buffer that is reduced between ranks.
void DistributedDataParallel::begin_micro_batch(int64_t term, bool has_input) {
  check(!synchronised_, "[ddp] backward() after the step's last micro-batch: call finish() first");
  const bool in_order = no_sync_depth_ > 0 || guarded_;
  check(!in_order || sums_.next() == done_,
        "[ddp] no_sync() after a micro-batch out of order: in a step with no_sync() micro-batches "
        "come in order; call backward(loss)");
  if (const std::string wrong = uneven_.contradiction(has_input, group_->rank()); !wrong.empty())
    fail("[ddp] " + wrong);
  settle_abandoned();
  if (done_ == 0) follow_freezing();
  check(buckets_.size() == layout_.size(),
        "[ddp] an earlier call failed to allocate memory for the gradients: wrap the model "
        "anew");
  check_taken();
  last_micro_batch_ = no_sync_depth_ == 0 && (guarded_ || done_ + 1 >= share());
  const int64_t unguarded = in_order ? SumSlots::kUnknown : share();
  place_ = sums_.place(term, last_micro_batch_ && guarded_ ? term + 1 : unguarded);
  gradients_.clear();
  for (size_t i = 0; i < parameters_.size(); ++i)
    gradients_.push_back(
        point_gradient(i, buckets_[slots_[i].bucket].target(slots_[i].member, place_)));
  ready_.assign(parameters_.size(), false);
  if (!last_micro_batch_) return;
  missing_in_bucket_.clear();
  for (const Bucket& bucket : buckets_) missing_in_bucket_.push_back(bucket.members().size());
  next_bucket_ = 0;
  ready_order_.clear();
}

const void* DistributedDataParallel::point_gradient(size_t index, Tensor place) {
  const Parameter& parameter = parameters_[index];
  const void* address = place.raw();
  // Point it only if the place changes: a gradient in `total` keeps its place.
  if (gradient_lies_at(parameter, address))
    parameter.zero_grad();
  else
    parameter.set_grad_buffer(std::move(place));
  return address;
}

void DistributedDataParallel::on_gradient(size_t index_in_all) {
  const Parameter& parameter = all_[index_in_all];
  // A backward() that bypasses this class would be reduced twice or not at all.
  check(!ready_.empty(), "[ddp] call ddp.backward(loss) rather than loss.backward(): '",
        parameter.name(), "' received a gradient outside of a step");
  const size_t index = trained_index_[index_in_all];
  if (index == kFrozen)
    fail(str("[ddp] rank ", group_->rank(), ": '", parameter.name(),
             "' received a gradient, but was frozen when the step began; call ",
             "set_requires_grad() between steps, and before the forward pass"));
  check(parameter.has_grad() && gradient_lies_at(parameter, gradients_[index]),
        "[ddp] the hook of '", parameter.name(),
        "' moved or dropped its gradient: change the values in place");
  gradient_is_final(index);
}

void DistributedDataParallel::gradient_is_final(size_t index) {
  const auto [bucket, member] = slots_[index];
  buckets_[bucket].fold(member, parameters_[index].grad_buffer(), place_);
  mark_ready(index);
}

void DistributedDataParallel::mark_ready(size_t index) {
  ready_[index] = true;
  if (!last_micro_batch_) return;
  ready_order_.push_back(index);
  --missing_in_bucket_[slots_[index].bucket];
  start_ready_buckets();
}

void DistributedDataParallel::start_ready_buckets() {
  while (next_bucket_ < buckets_.size() && missing_in_bucket_[next_bucket_] == 0) {
    const size_t bucket = next_bucket_++;
    const uint64_t label = labels_.bucket(bucket);
    doing([&] { return describe_bucket(bucket, label); },
          [&] {
            reductions_.push_back(
                {options_.comm_hook(buckets_[bucket].total(), *group_, {tree_, label}), label});
          });
  }
}

void DistributedDataParallel::zero_unused(const std::vector<bool>& used) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (used[i]) continue;
    parameters_[i].grad_buffer().zero_();
    parameters_[i].mark_grad_valid();
    gradient_is_final(i);
  }
}

void DistributedDataParallel::end_micro_batch() {
  std::vector<Parameter> missing;
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (!ready_[i]) missing.push_back(parameters_[i]);
  if (!missing.empty()) fail(str("[ddp] ", no_gradient_reached(group_->rank(), missing)));
  ready_.clear();
  ++done_;
  sums_.take(place_);
  guarded_ = guarded_ || no_sync_depth_ > 0;
  synchronised_ = last_micro_batch_;
}

// Sums of earlier micro-batches are in levels that this one did not write to. Buckets that it
// started may still be under way. settle_abandoned() waits for them when their memory is needed
// again, so the caller gets the exception at once.
void DistributedDataParallel::abandon_micro_batch() {
  for (const Parameter& p : parameters_) p.zero_grad();
  ready_.clear();
  last_micro_batch_ = false;
}

void DistributedDataParallel::settle_abandoned() {
  for (size_t i = 0; i < reductions_.size(); ++i) wait_for(reductions_[i], i);
  reductions_.clear();
}

int64_t DistributedDataParallel::share() const {
  return tree_.begin(group_->rank() + 1) - tree_.begin(group_->rank());
}

int64_t DistributedDataParallel::gradient_bytes() const {
  int64_t bytes = 0;
  for (const Bucket& bucket : buckets_)
    bytes += bucket.total().bytes() * (1 + sum_tree::level_count(share()));
  return bytes;
}

std::string DistributedDataParallel::describe_bucket(size_t bucket, uint64_t label) const {
  std::vector<Parameter> members;
  for (size_t index : layout_[bucket]) members.push_back(parameters_[index]);
  return str("summing bucket ", bucket, " of ", layout_.size(), " (", names_of(members),
             ") in step ", labels_.step(), " (label ", label, "; this model has labels ",
             labels_.first(), " to ", labels_.last(), ")");
}

void DistributedDataParallel::wait_for(const Reduction& reduction, size_t bucket) const {
  doing([&] { return describe_bucket(bucket, reduction.label); },
        [&] { reduction.pending.work.wait(); });
}

void DistributedDataParallel::finish() {
  check(synchronised_, "[ddp] finish() before the step's last micro-batch: this rank ran ", done_,
        " of ", share());
  if (finished_ == 0) exposed_ = {};
  for (; finished_ < reductions_.size(); ++finished_) {  // continues where an earlier call threw
    const auto start = Clock::now();
    wait_for(reductions_[finished_], finished_);
    if (reductions_[finished_].pending.finish) reductions_[finished_].pending.finish();
    exposed_.add(std::chrono::duration_cast<Duration>(Clock::now() - start));
    exposed_.add(reductions_[finished_].pending.work);
  }
  reductions_.clear();
  finished_ = 0;
  done_ = 0;
  sums_.clear();
  synchronised_ = guarded_ = false;
  uneven_.end_step();
  labels_.next_step();
  // Restore the gradients, whatever happened to them since backward().
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!gradient_lies_at(parameters_[i], gradients_[i]))
      point_gradient(i, buckets_[slots_[i].bucket].total_of(slots_[i].member));
    parameters_[i].mark_grad_valid();
  }
  if (!std::exchange(rebuilt_, true)) rebuild_in_ready_order();
}

// Ranks may have seen different orders (a slow op, an unused parameter), so rank 0's order counts.
// The step's gradients move along, because the optimizer has not read them yet.
void DistributedDataParallel::rebuild_in_ready_order() {
  std::vector<int32_t> seen(ready_order_.begin(), ready_order_.end());
  const Tensor shared = Tensor::from(seen, {static_cast<int64_t>(seen.size())});
  doing(
      [&] {
        return str("sharing the order in which rank 0's gradients became final (label ",
                   labels_.ready_order(), ")");
      },
      [&] { group_->host().broadcast(shared, 0, labels_.ready_order()).wait(); });
  std::vector<size_t> order;
  for (int32_t index : shared.to_vector<int32_t>()) order.push_back(static_cast<size_t>(index));
  std::vector<int64_t> bytes;
  for (const Parameter& p : parameters_) bytes.push_back(p.data().bytes());
  BucketLayout layout =
      make_layout(order, bytes, options_.first_bucket_bytes, options_.bucket_bytes);
  if (layout == layout_) return;

  // For a moment both layouts exist. Release the cached activations of the first step to make room.
  allocator(parameters_.front().device()).release_cached();
  std::vector<Tensor> gradients;
  for (const Parameter& p : parameters_) gradients.push_back(p.grad());
  build(std::move(layout));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].grad_buffer().copy_(gradients[i]);
    parameters_[i].mark_grad_valid();
    gradients[i] = Tensor();
  }
  // The old buckets must not stay in the cache, because nobody asks for their sizes again.
  allocator(parameters_.front().device()).release_cached();
}

// The other ranks wait in collectives that this rank will never join.
void DistributedDataParallel::fail(const std::string& message) {
  group_->abort(message);
  throw UsageError(message);
}

}  // namespace lockstep::ddp
