#include "python/torch/process_group.h"

#include <Python.h>

#include "python/torch/errors.h"
#include "python/torch/label.h"
#include "python/torch/tensors.h"

namespace lockstep::pytorch {

struct ProcessGroup::Names {
  const char* call;     // "all_reduce", as in torch.distributed and in messages
  const char* profile;  // "lockstep:all_reduce"
  c10d::OpType type;
};

namespace {

using Tensors = ProcessGroup::Tensors;

int root_of(int64_t rank, int64_t tensor, std::string_view call) {
  check(tensor == 0, "[torch] ", call, ": a rank has one tensor, got root tensor ", tensor);
  return static_cast<int>(rank);
}

void check_count(size_t count, int ranks, std::string_view call, std::string_view role) {
  check(count == static_cast<size_t>(ranks), "[torch] ", call, ": expected ", ranks, " ", role,
        "s, one a rank, got ", count);
}

// Lists whose tensors all take part as equal slices.
void check_slices(const Tensors& list, const at::Tensor& slice, int ranks, std::string_view call,
                  std::string_view role) {
  check_count(list.size(), ranks, call, role);
  for (const at::Tensor& tensor : list) {
    check_same_type(tensor, slice, call);
    check(tensor.numel() == slice.numel(), "[torch] ", call, ": every ", role, " must have ",
          slice.numel(), " elements, as this rank's tensor, got shape ", ShapeOf{tensor},
          "; use all_to_all for slices of other sizes");
  }
}

void check_whole(const at::Tensor& whole, const at::Tensor& slice, int ranks,
                 std::string_view call) {
  check_same_type(whole, slice, call);
  check(whole.numel() == ranks * slice.numel(), "[torch] ", call, ": expected ", ranks,
        " times the elements of shape ", ShapeOf{slice}, ", got shape ", ShapeOf{whole});
}

// Flat plain memory for one slice a rank: the list's own where it is joined, else new.
at::Tensor flat_like(const Tensors& list) {
  if (at::Tensor joined = joined_in_place(list); joined.defined()) return joined;
  const ValuesOnly guard;
  return at::empty({static_cast<int64_t>(list.size()) * list[0].numel()}, list[0].options());
}

at::Tensor slice_of(const at::Tensor& flat, size_t ranks, size_t rank) {
  const ValuesOnly guard;
  const int64_t n = flat.numel() / static_cast<int64_t>(ranks);
  return flat.narrow(0, static_cast<int64_t>(rank) * n, n);
}

// The values of the list, one slice after the other.
at::Tensor joined(const Tensors& list) {
  const at::Tensor flat = flat_like(list);
  if (flat.is_alias_of(list[0])) return flat;
  const ValuesOnly guard;
  for (size_t r = 0; r < list.size(); ++r)
    slice_of(flat, list.size(), r).copy_(list[r].reshape({-1}));
  return flat;
}

void deliver_slices(Plan& plan, const Tensors& list, const at::Tensor& flat) {
  if (list.empty() || flat.is_alias_of(list[0])) return;
  plan.deliveries.emplace_back([list, flat] {
    const ValuesOnly guard;
    for (size_t r = 0; r < list.size(); ++r)
      list[r].copy_(slice_of(flat, list.size(), r).view(list[r].sizes()));
  });
}

void deliver(Plan& plan, const at::Tensor& to, const at::Tensor& from) {
  if (!from.is_same(to)) plan.deliveries.emplace_back([to, from] { copy_back(to, from); });
}

at::Tensor rows_for(int ranks, int64_t elements) {
  return at::empty({ranks, elements}, at::TensorOptions().dtype(at::kDouble));
}

// The rows of a tensor by rank. Equal ones where `splits` is empty.
Tensors rows_of(const at::Tensor& tensor, const std::vector<int64_t>& splits, int ranks,
                std::string_view role) {
  check(tensor.dim() > 0, "[torch] all_to_all: the ", role, " must have rows, got a scalar");
  const int64_t rows = tensor.size(0);
  check(!splits.empty() || rows % ranks == 0, "[torch] all_to_all: the ", role, " has ", rows,
        " rows, which do not divide by ", ranks, " ranks; give the split sizes");
  std::vector<int64_t> sizes = splits;
  if (sizes.empty()) sizes.assign(static_cast<size_t>(ranks), rows / ranks);
  check_count(sizes.size(), ranks, "all_to_all", "split size");
  int64_t sum = 0;
  for (const int64_t size : sizes) {
    check(size >= 0, "[torch] all_to_all: a split size of the ", role, " is ", size,
          "; expected 0 or more");
    sum += size;
  }
  check(sum == rows, "[torch] all_to_all: the split sizes of the ", role, " add up to ", sum,
        ", but it has ", rows, " rows");
  const ValuesOnly guard;
  return tensor.split_with_sizes(sizes, 0);
}

}  // namespace

ProcessGroup::ProcessGroup(std::shared_ptr<Core> core)
    : c10d::ProcessGroup(core->group().rank(), core->group().size()),
      core_(std::move(core)),
      group_(core_->group()) {
  init();
}

ProcessGroup::~ProcessGroup() {
  // Ending the threads may take time, and what they run may need Python.
  if (Py_IsInitialized() && PyGILState_Check()) {
    PyThreadState* const python = PyEval_SaveThread();
    core_.reset();
    PyEval_RestoreThread(python);
  }
}

void ProcessGroup::check_call(const Names& names) const { core_->check_usable(names.call); }

ProcessGroup::WorkHandle ProcessGroup::start(const Names& names, const Tensors& inputs,
                                             Tensors outputs, Plan plan,
                                             std::chrono::milliseconds timeout) {
  ++calls_;
  const std::weak_ptr<Core> core = core_;
  const auto give_up = [core](const std::string& reason) {
    if (const auto alive = core.lock()) alive->abort(reason);
  };
  // c10d says -1 or 0 where the caller gave no limit.
  const Duration limit = timeout > timeout.zero() ? Duration(timeout) : Duration::zero();
  return c10::make_intrusive<CallWork>(rank_, names.type, names.profile, inputs, std::move(outputs),
                                       std::move(plan), limit, core_->workers(), give_up);
}

ProcessGroup::WorkHandle ProcessGroup::broadcast(Tensors& tensors,
                                                 const c10d::BroadcastOptions& options) {
  static constexpr Names names{"broadcast", "lockstep:broadcast", c10d::OpType::BROADCAST};
  check_call(names);
  const at::Tensor tensor = only(tensors, names.call, "tensor");
  const int root = root_of(options.rootRank, options.rootTensor, names.call);
  const at::Tensor values = plain(tensor);
  Plan plan;
  plan.works.push_back(group_.broadcast(wrap(values), root, label_of(tensor.scalar_type())));
  deliver(plan, tensor, values);
  return start(names, tensors, tensors, std::move(plan), options.timeout);
}

void ProcessGroup::add_all_reduce(Plan& plan, const at::Tensor& tensor,
                                  const Reduction& reduction) {
  const at::Tensor carrier = to_carrier(tensor, reduction);
  const uint64_t label = label_of(tensor.scalar_type(), reduction);
  if (!reduces_natively(tensor.scalar_type())) {
    const at::Tensor rows = rows_for(size_, carrier.numel());
    plan.works.push_back(group_.all_gather(wrap(rows), wrap(carrier), label));
    plan.deliveries.emplace_back([=, ranks = size_] {
      from_carrier(tensor, reduce_rows(rows, reduction), reduction, ranks);
    });
    return;
  }
  plan.works.push_back(group_.all_reduce(wrap(carrier), {.op = reduction.op, .label = label}));
  if (reduction.average || !carrier.is_same(tensor))
    plan.deliveries.emplace_back(
        [=, ranks = size_] { from_carrier(tensor, carrier, reduction, ranks); });
}

ProcessGroup::WorkHandle ProcessGroup::allreduce(Tensors& tensors,
                                                 const c10d::AllreduceOptions& options) {
  static constexpr Names names{"all_reduce", "lockstep:all_reduce", c10d::OpType::ALLREDUCE};
  check_call(names);
  const at::Tensor tensor = only(tensors, names.call, "tensor");
  Plan plan;
  add_all_reduce(plan, tensor, reduction_of(options.reduceOp, tensor.scalar_type(), names.call));
  return start(names, tensors, tensors, std::move(plan), options.timeout);
}

ProcessGroup::WorkHandle ProcessGroup::allreduce_coalesced(
    Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) {
  static constexpr Names names{"all_reduce_coalesced", "lockstep:all_reduce",
                               c10d::OpType::ALLREDUCE_COALESCED};
  check_call(names);
  std::vector<Reduction> reductions;
  for (const at::Tensor& tensor : tensors) {
    check_tensor(tensor, names.call, "tensor");
    reductions.push_back(reduction_of(options.reduceOp, tensor.scalar_type(), names.call));
  }
  Plan plan;
  for (size_t i = 0; i < tensors.size(); ++i) add_all_reduce(plan, tensors[i], reductions[i]);
  return start(names, tensors, tensors, std::move(plan), options.timeout);
}

ProcessGroup::WorkHandle ProcessGroup::reduce(Tensors& tensors,
                                              const c10d::ReduceOptions& options) {
  static constexpr Names names{"reduce", "lockstep:reduce", c10d::OpType::REDUCE};
  check_call(names);
  const at::Tensor tensor = only(tensors, names.call, "tensor");
  const int root = root_of(options.rootRank, options.rootTensor, names.call);
  const auto reduction = reduction_of(options.reduceOp, tensor.scalar_type(), names.call);
  const at::Tensor carrier = to_carrier(tensor, reduction);
  const uint64_t label = label_of(tensor.scalar_type(), reduction);
  Plan plan;
  at::Tensor rows;
  if (reduces_natively(tensor.scalar_type())) {
    plan.works.push_back(group_.reduce(wrap(carrier), root, {.op = reduction.op, .label = label}));
  } else {
    if (rank_ == root) rows = rows_for(size_, carrier.numel());
    plan.works.push_back(
        group_.gather(rows.defined() ? wrap(rows) : Tensor(), wrap(carrier), root, label));
  }
  if (rank_ == root)
    plan.deliveries.emplace_back([=, ranks = size_] {
      from_carrier(tensor, rows.defined() ? reduce_rows(rows, reduction) : carrier, reduction,
                   ranks);
    });
  return start(names, tensors, tensors, std::move(plan), options.timeout);
}

void ProcessGroup::add_all_gather(Plan& plan, const Tensors& outputs, const at::Tensor& input,
                                  const Names& names) {
  check_slices(outputs, input, size_, names.call, "output tensor");
  const at::Tensor flat = flat_like(outputs);
  plan.works.push_back(
      group_.all_gather(wrap(flat), wrap(plain(input)), label_of(input.scalar_type())));
  deliver_slices(plan, outputs, flat);
}

ProcessGroup::WorkHandle ProcessGroup::allgather(TensorLists& outputs, Tensors& inputs,
                                                 const c10d::AllgatherOptions& options) {
  static constexpr Names names{"all_gather", "lockstep:all_gather", c10d::OpType::ALLGATHER};
  check_call(names);
  const at::Tensor input = only(inputs, names.call, "input tensor");
  const Tensors& list = only(outputs, names.call, "output tensor");
  Plan plan;
  add_all_gather(plan, list, input, names);
  return start(names, inputs, list, std::move(plan), options.timeout);
}

ProcessGroup::WorkHandle ProcessGroup::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                       const c10d::AllgatherOptions& options) {
  static constexpr Names names{"all_gather_into_tensor", "lockstep:_all_gather_base",
                               c10d::OpType::_ALLGATHER_BASE};
  check_call(names);
  check_tensor(output, names.call, "output tensor");
  check_tensor(input, names.call, "input tensor");
  check_whole(output, input, size_, names.call);
  const at::Tensor flat = plain_like(output);
  Plan plan;
  plan.works.push_back(
      group_.all_gather(wrap(flat), wrap(plain(input)), label_of(input.scalar_type())));
  deliver(plan, output, flat);
  return start(names, {input}, {output}, std::move(plan), options.timeout);
}

ProcessGroup::WorkHandle ProcessGroup::allgather_coalesced(TensorLists& outputs, Tensors& inputs,
                                                           const c10d::AllgatherOptions& options) {
  static constexpr Names names{"all_gather_coalesced", "lockstep:all_gather",
                               c10d::OpType::ALLGATHER_COALESCED};
  check_call(names);
  check_count(outputs.size(), size_, names.call, "output list");
  TensorLists by_input(inputs.size());
  Tensors results;
  for (const Tensors& list : outputs) {
    check(list.size() == inputs.size(), "[torch] ", names.call, ": expected ", inputs.size(),
          " tensors in every output list, as there are inputs, got ", list.size());
    for (size_t i = 0; i < list.size(); ++i) {
      check_tensor(list[i], names.call, "output tensor");
      by_input[i].push_back(list[i]);
      results.push_back(list[i]);
    }
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    check_tensor(inputs[i], names.call, "input tensor");
    check_slices(by_input[i], inputs[i], size_, names.call, "output tensor");
  }
  Plan plan;
  for (size_t i = 0; i < inputs.size(); ++i) add_all_gather(plan, by_input[i], inputs[i], names);
  return start(names, inputs, results, std::move(plan), options.timeout);
}

ProcessGroup::WorkHandle ProcessGroup::gather(TensorLists& outputs, Tensors& inputs,
                                              const c10d::GatherOptions& options) {
  static constexpr Names names{"gather", "lockstep:gather", c10d::OpType::GATHER};
  check_call(names);
  const at::Tensor input = only(inputs, names.call, "input tensor");
  const int root = root_of(options.rootRank, 0, names.call);
  Tensors list;
  at::Tensor flat;
  if (rank_ == root) {
    list = only(outputs, names.call, "output tensor");
    check_slices(list, input, size_, names.call, "output tensor");
    flat = flat_like(list);
  } else {
    check(outputs.empty(), "[torch] gather: rank ", rank_, " is not the root (", root,
          ") and must give no output list");
  }
  Plan plan;
  plan.works.push_back(group_.gather(flat.defined() ? wrap(flat) : Tensor(), wrap(plain(input)),
                                     root, label_of(input.scalar_type())));
  if (flat.defined()) deliver_slices(plan, list, flat);
  return start(names, inputs, list, std::move(plan), options.timeout);
}

ProcessGroup::WorkHandle ProcessGroup::scatter(Tensors& outputs, TensorLists& inputs,
                                               const c10d::ScatterOptions& options) {
  static constexpr Names names{"scatter", "lockstep:scatter", c10d::OpType::SCATTER};
  check_call(names);
  const at::Tensor output = only(outputs, names.call, "output tensor");
  const int root = root_of(options.rootRank, 0, names.call);
  at::Tensor flat;
  if (rank_ == root) {
    const Tensors& list = only(inputs, names.call, "input tensor");
    check_slices(list, output, size_, names.call, "input tensor");
    flat = joined(list);
  } else {
    check(inputs.empty(), "[torch] scatter: rank ", rank_, " is not the root (", root,
          ") and must give no input list");
  }
  const at::Tensor values = plain_like(output);
  Plan plan;
  plan.works.push_back(group_.scatter(wrap(values), flat.defined() ? wrap(flat) : Tensor(), root,
                                      label_of(output.scalar_type())));
  deliver(plan, output, values);
  return start(names, flat.defined() ? inputs[0] : Tensors{}, outputs, std::move(plan),
               options.timeout);
}

// `flat`: plain, one slice a rank.
void ProcessGroup::add_reduce_scatter(Plan& plan, const at::Tensor& output, const at::Tensor& flat,
                                      const Reduction& reduction) {
  const uint64_t label = label_of(output.scalar_type(), reduction);
  const at::Tensor carrier = to_carrier(flat, reduction);
  if (!reduces_natively(output.scalar_type())) {
    const at::Tensor rows = rows_for(size_, carrier.numel() / size_);
    plan.works.push_back(group_.all_to_all(wrap(rows), wrap(carrier), label));
    plan.deliveries.emplace_back([=, ranks = size_] {
      from_carrier(output, reduce_rows(rows, reduction), reduction, ranks);
    });
    return;
  }
  const bool direct = carrier.dtype() == output.dtype() && is_plain(output);
  const at::Tensor sum = direct ? output : at::empty({carrier.numel() / size_}, carrier.options());
  plan.works.push_back(
      group_.reduce_scatter(wrap(sum), wrap(carrier), {.op = reduction.op, .label = label}));
  if (!direct || reduction.average)
    plan.deliveries.emplace_back(
        [=, ranks = size_] { from_carrier(output, sum, reduction, ranks); });
}

ProcessGroup::WorkHandle ProcessGroup::reduce_scatter(Tensors& outputs, TensorLists& inputs,
                                                      const c10d::ReduceScatterOptions& options) {
  static constexpr Names names{"reduce_scatter", "lockstep:reduce_scatter",
                               c10d::OpType::REDUCE_SCATTER};
  check_call(names);
  const at::Tensor output = only(outputs, names.call, "output tensor");
  const Tensors& list = only(inputs, names.call, "input tensor");
  check_slices(list, output, size_, names.call, "input tensor");
  const auto reduction = reduction_of(options.reduceOp, output.scalar_type(), names.call);
  Plan plan;
  add_reduce_scatter(plan, output, joined(list), reduction);
  return start(names, list, outputs, std::move(plan), options.timeout);
}

ProcessGroup::WorkHandle ProcessGroup::_reduce_scatter_base(
    at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& options) {
  static constexpr Names names{"reduce_scatter_tensor", "lockstep:_reduce_scatter_base",
                               c10d::OpType::_REDUCE_SCATTER_BASE};
  check_call(names);
  check_tensor(output, names.call, "output tensor");
  check_tensor(input, names.call, "input tensor");
  check_whole(input, output, size_, names.call);
  const auto reduction = reduction_of(options.reduceOp, output.scalar_type(), names.call);
  Plan plan;
  add_reduce_scatter(plan, output, plain(input), reduction);
  return start(names, {input}, {output}, std::move(plan), options.timeout);
}

// to[r] goes to rank r, and from[r] comes from there.
void ProcessGroup::add_exchange(Plan& plan, const Tensors& to, const Tensors& from,
                                at::ScalarType type) {
  Slices slices;
  Tensors landing;
  for (const at::Tensor& tensor : to) slices.to.push_back(wrap(plain(tensor)));
  for (const at::Tensor& tensor : from) {
    landing.push_back(plain_like(tensor));
    slices.from.push_back(wrap(landing.back()));
  }
  const uint64_t label = exchange_label(type);
  // Every rank tells every other one all its sizes, so that all see the same.
  const std::vector<int64_t> mine = sizes_of(slices);
  std::vector<int64_t> copies;
  for (int r = 0; r < size_; ++r) copies.insert(copies.end(), mine.begin(), mine.end());
  const lockstep::Shape shape{static_cast<int64_t>(copies.size())};
  const auto sizes = lockstep::Tensor::zeros(shape, DType::i64);
  const comm::Work announced =
      group_.all_to_all(sizes, lockstep::Tensor::from(copies, shape), label);
  plan.works.push_back(announced);
  plan.exchanges.push_back(core_->exchange().start(announced, sizes, std::move(slices), label));
  for (size_t r = 0; r < from.size(); ++r) deliver(plan, from[r], landing[r]);
}

ProcessGroup::WorkHandle ProcessGroup::alltoall_base(at::Tensor& output, at::Tensor& input,
                                                     std::vector<int64_t>& output_splits,
                                                     std::vector<int64_t>& input_splits,
                                                     const c10d::AllToAllOptions& options) {
  static constexpr Names names{"all_to_all", "lockstep:all_to_all", c10d::OpType::ALLTOALL_BASE};
  check_call(names);
  check_tensor(output, names.call, "output tensor");
  check_tensor(input, names.call, "input tensor");
  check_same_type(output, input, names.call);
  const Tensors to = rows_of(input, input_splits, size_, "input tensor");
  const Tensors from = rows_of(output, output_splits, size_, "output tensor");
  Plan plan;
  if (input_splits.empty() && output_splits.empty()) {
    const at::Tensor flat = plain_like(output);
    plan.works.push_back(
        group_.all_to_all(wrap(flat), wrap(plain(input)), label_of(input.scalar_type())));
    deliver(plan, output, flat);
  } else {
    add_exchange(plan, to, from, input.scalar_type());
  }
  return start(names, {input}, {output}, std::move(plan), options.timeout);
}

ProcessGroup::WorkHandle ProcessGroup::alltoall(Tensors& outputs, Tensors& inputs,
                                                const c10d::AllToAllOptions& options) {
  static constexpr Names names{"all_to_all", "lockstep:all_to_all", c10d::OpType::ALLTOALL};
  check_call(names);
  check_count(outputs.size(), size_, names.call, "output tensor");
  check_count(inputs.size(), size_, names.call, "input tensor");
  for (size_t r = 0; r < inputs.size(); ++r) {
    check_tensor(outputs[r], names.call, "output tensor");
    check_tensor(inputs[r], names.call, "input tensor");
    check_same_type(inputs[0], inputs[r], names.call);
    check_same_type(inputs[0], outputs[r], names.call);
  }
  Plan plan;
  add_exchange(plan, inputs, outputs, inputs[0].scalar_type());
  return start(names, inputs, outputs, std::move(plan), options.timeout);
}

ProcessGroup::WorkHandle ProcessGroup::send(Tensors& tensors, int destination, int tag) {
  static constexpr Names names{"send", "lockstep:send", c10d::OpType::SEND};
  check_call(names);
  const at::Tensor tensor = only(tensors, names.call, "tensor");
  check(tag >= 0, "[torch] send: the tag must be 0 or more, got ", tag);
  Plan plan;
  plan.works.push_back(
      group_.send(wrap(plain(tensor)), destination, message_label(tensor.scalar_type(), tag)));
  return start(names, tensors, {}, std::move(plan), c10d::kUnsetTimeout);
}

ProcessGroup::WorkHandle ProcessGroup::recv(Tensors& tensors, int source, int tag) {
  static constexpr Names names{"recv", "lockstep:recv", c10d::OpType::RECV};
  check_call(names);
  const at::Tensor tensor = only(tensors, names.call, "tensor");
  check(tag >= 0, "[torch] recv: the tag must be 0 or more, got ", tag);
  const at::Tensor values = plain_like(tensor);
  Plan plan;
  plan.works.push_back(group_.recv(wrap(values), source, message_label(tensor.scalar_type(), tag)));
  deliver(plan, tensor, values);
  return start(names, {}, tensors, std::move(plan), c10d::kUnsetTimeout);
}

ProcessGroup::WorkHandle ProcessGroup::recvAnysource(Tensors&, int) {
  throw UsageError(
      "[torch] recv: the lockstep backend cannot receive from any rank; name the source (src=)");
}

ProcessGroup::WorkHandle ProcessGroup::barrier(const c10d::BarrierOptions& options) {
  static constexpr Names names{"barrier", "lockstep:barrier", c10d::OpType::BARRIER};
  check_call(names);
  Plan plan;
  plan.works.push_back(group_.barrier());
  return start(names, {}, {}, std::move(plan), options.timeout);
}

// comm names the ranks that have not arrived, all of them, at any limit.
void ProcessGroup::monitoredBarrier(const c10d::BarrierOptions& options, bool) {
  barrier(options)->wait();
}

}  // namespace lockstep::pytorch
