#include "comm/process_group.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>

#include "comm/engine/engine.h"
#include "comm/engine/failure_note.h"
#include "comm/engine/work_state.h"
#include "comm/reduce/reduce_kernels.h"

namespace lockstep::comm {
namespace {

// `role`: "tensor", "input tensor", "output tensor".
void check_tensor(const Tensor& tensor, std::string_view role, Op op, Device device) {
  check(tensor.defined(), "[", name_of(op), "] the ", role, " is undefined");
  check(tensor.is_contiguous(), "[", name_of(op), "] the ", role, " must be contiguous, got ",
        tensor, " with strides ", tensor.strides());
  check(tensor.device() == device, "[", name_of(op), "] the ", role, " must be on ", device,
        ", the group's device, got ", tensor.device());
}

void check_pair(const Tensor& big, std::string_view big_role, const Tensor& small,
                std::string_view small_role, int64_t factor, Op op) {
  check(big.dtype() == small.dtype(), "[", name_of(op), "] ", big_role, " and ", small_role,
        " must have one dtype, got ", big, " and ", small);
  check(big.numel() == factor * small.numel(), "[", name_of(op), "] ", big_role, " must hold ",
        factor, " times the elements of ", small_role, " (one slice a rank), got ", big, " and ",
        small);
}

bool overlap(const Tensor& a, const Tensor& b) {
  const auto* first = static_cast<const std::byte*>(a.raw());
  const auto* second = static_cast<const std::byte*>(b.raw());
  return a.bytes() > 0 && b.bytes() > 0 && first < second + b.bytes() && second < first + a.bytes();
}

// A small tensor may share memory with a big one only as the slice of this rank.
void check_overlap(const Tensor& big, const Tensor& small, int rank, Op op) {
  const auto* slice = static_cast<const std::byte*>(big.raw()) + rank * small.bytes();
  check(!overlap(big, small) || small.raw() == slice, "[", name_of(op),
        "] input and output overlap, but not as slice ", rank,
        " of the larger one, which is this rank's");
}

}  // namespace

class ProcessGroup::Impl {
 public:
  Impl(std::unique_ptr<Backend> backend, const GroupOptions& options,
       std::unique_ptr<ProcessGroup> host_group)
      : host(std::move(host_group)),
        engine(std::make_shared<Engine>(std::move(backend), options)),
        rank(engine->backend().rank()),
        size(engine->backend().size()),
        default_tree(size),
        exceptions(std::uncaught_exceptions()) {
    const bool on_cpu = device().type == DeviceType::cpu;
    check(on_cpu == (host == nullptr), "[comm] group '", options.name, "' is on ", device(),
          ", so ",
          on_cpu ? "it is its own host group; none may be given" : "it needs a host group");
    if (!host) return;
    check(host->impl_->device() == kCpu && host->rank() == rank && host->size() == size,
          "[comm] rank ", rank, " of ", size, " of group '", options.name,
          "' needs its like on the CPU, got rank ", host->rank(), " of ", host->size(), " on ",
          host->impl_->device());
    Engine::couple(engine, host->impl_->engine);
  }

  ~Impl() {
    // Unwinding from an error, this rank will not make the calls that its pending ones are waiting
    // for.
    if (std::uncaught_exceptions() > exceptions) {
      note_failure();
      engine->abort(
          str("rank ", rank, " left group '", engine->options().name, "' because of an error"));
    }
    engine->close();
  }

  Device device() const { return engine->backend().device(); }

  void check_rank(int r, std::string_view role, Op op) const {
    check(r >= 0 && r < size, "[", name_of(op), "] ", role, " must be a rank in [0, ", size,
          "), got ", r);
  }

  // But for what the engine adds when it takes the call: the group and the call's number.
  Fingerprint fingerprint(Op op, DType dtype, int64_t count, int root) const {
    Fingerprint f;
    f.count = count;
    f.op = op;
    f.dtype = dtype;
    f.root = root;
    if (op == Op::send || op == Op::recv) {
      f.root = op == Op::send ? rank : root;
      f.op = Op::send;
    }
    return f;
  }

  // Everything is checked. `in` and `out` may be undefined where this rank has none.
  Work start(Op op, const Tensor& in, const Tensor& out, DType dtype, int64_t count, int root = -1,
             const ReduceOptions* options = nullptr, uint64_t label = 0) {
    Call call;
    call.fingerprint = fingerprint(op, dtype, count, root);
    call.fingerprint.label = options ? options->label : label;
    call.in = in.defined() ? in.raw() : nullptr;
    call.out = out.defined() ? out.raw() : nullptr;
    call.in_memory = in.storage().get();
    call.out_memory = out.storage().get();
    if (out.defined()) out.mark_changed("a collective");
    call.op = op;
    call.dtype = dtype;
    call.count = count;
    call.root = root;
    call.ready = Event::record(current_queue(device()));
    const ReduceTree* tree = nullptr;
    if (options) {
      tree = options->tree ? options->tree : &default_tree;
      call.reduce_op = options->op;
      call.reduction = engine->options().reduction;
      call.fingerprint.reduce_op = call.reduce_op;
      call.fingerprint.reduction = static_cast<uint8_t>(call.reduction);
      call.fingerprint.tree = tree->digest();
    }
    if (size == 1) {
      return engine->done_here(op, root, call.fingerprint, [&] {
        if (out.defined() && in.defined() && out.raw() != in.raw())
          out.flatten().copy_(in.flatten());
      });
    }
    return engine->submit(call, tree, {in, out});
  }

  void check_reduction(const Tensor& tensor, const ReduceOptions& options, Op op) const {
    check_reducible(tensor.dtype(), options.op);
    check(!options.tree || options.tree->ranks() == size, "[", name_of(op),
          "] the reduce tree is for ", options.tree ? options.tree->ranks() : 0,
          " ranks, but the group has ", size);
  }

  const std::unique_ptr<ProcessGroup> host;  // null: this group is on the CPU itself
  const std::shared_ptr<Engine> engine;
  const int rank;
  const int size;
  const ReduceTree default_tree;
  const int exceptions;
  std::atomic<uint64_t> next_label{uint64_t{1} << 32};  // beyond what callers choose by hand
};

ProcessGroup::ProcessGroup(std::unique_ptr<Backend> backend, GroupOptions options,
                           std::unique_ptr<ProcessGroup> host)
    : impl_(std::make_unique<Impl>(std::move(backend), options, std::move(host))) {}
ProcessGroup::~ProcessGroup() = default;

int ProcessGroup::rank() const { return impl_->rank; }
int ProcessGroup::size() const { return impl_->size; }
const std::string& ProcessGroup::name() const { return impl_->engine->options().name; }
std::string ProcessGroup::backend_name() const { return impl_->engine->backend().name(); }
Device ProcessGroup::device() const { return impl_->device(); }
bool ProcessGroup::queues() const { return impl_->engine->backend().queues(); }

ProcessGroup& ProcessGroup::host() { return impl_->host ? *impl_->host : *this; }

Work ProcessGroup::all_reduce(const Tensor& tensor, const ReduceOptions& options) {
  check_tensor(tensor, "tensor", Op::all_reduce, impl_->device());
  impl_->check_reduction(tensor, options, Op::all_reduce);
  return impl_->start(Op::all_reduce, tensor, tensor, tensor.dtype(), tensor.numel(), -1, &options);
}

Work ProcessGroup::reduce_scatter(const Tensor& output, const Tensor& input,
                                  const ReduceOptions& options) {
  check_tensor(output, "output tensor", Op::reduce_scatter, impl_->device());
  check_tensor(input, "input tensor", Op::reduce_scatter, impl_->device());
  check_pair(input, "input", output, "output", impl_->size, Op::reduce_scatter);
  check_overlap(input, output, impl_->rank, Op::reduce_scatter);
  impl_->check_reduction(input, options, Op::reduce_scatter);
  return impl_->start(Op::reduce_scatter, input, output, output.dtype(), output.numel(), -1,
                      &options);
}

Work ProcessGroup::all_gather(const Tensor& output, const Tensor& input, uint64_t label) {
  check_tensor(output, "output tensor", Op::all_gather, impl_->device());
  check_tensor(input, "input tensor", Op::all_gather, impl_->device());
  check_pair(output, "output", input, "input", impl_->size, Op::all_gather);
  check_overlap(output, input, impl_->rank, Op::all_gather);
  return impl_->start(Op::all_gather, input, output, input.dtype(), input.numel(), -1, nullptr,
                      label);
}

Work ProcessGroup::broadcast(const Tensor& tensor, int root, uint64_t label) {
  check_tensor(tensor, "tensor", Op::broadcast, impl_->device());
  impl_->check_rank(root, "root", Op::broadcast);
  return impl_->start(Op::broadcast, tensor, tensor, tensor.dtype(), tensor.numel(), root, nullptr,
                      label);
}

Work ProcessGroup::reduce(const Tensor& tensor, int root, const ReduceOptions& options) {
  check_tensor(tensor, "tensor", Op::reduce, impl_->device());
  impl_->check_rank(root, "root", Op::reduce);
  impl_->check_reduction(tensor, options, Op::reduce);
  return impl_->start(Op::reduce, tensor, tensor, tensor.dtype(), tensor.numel(), root, &options);
}

Work ProcessGroup::gather(const Tensor& output, const Tensor& input, int root, uint64_t label) {
  check_tensor(input, "input tensor", Op::gather, impl_->device());
  impl_->check_rank(root, "root", Op::gather);
  const bool is_root = root == impl_->rank;
  if (is_root) {
    check_tensor(output, "output tensor", Op::gather, impl_->device());
    check_pair(output, "output", input, "input", impl_->size, Op::gather);
    check_overlap(output, input, impl_->rank, Op::gather);
  }
  return impl_->start(Op::gather, input, is_root ? output : Tensor(), input.dtype(), input.numel(),
                      root, nullptr, label);
}

Work ProcessGroup::scatter(const Tensor& output, const Tensor& input, int root, uint64_t label) {
  check_tensor(output, "output tensor", Op::scatter, impl_->device());
  impl_->check_rank(root, "root", Op::scatter);
  const bool is_root = root == impl_->rank;
  if (is_root) {
    check_tensor(input, "input tensor", Op::scatter, impl_->device());
    check_pair(input, "input", output, "output", impl_->size, Op::scatter);
    check_overlap(input, output, impl_->rank, Op::scatter);
  }
  return impl_->start(Op::scatter, is_root ? input : Tensor(), output, output.dtype(),
                      output.numel(), root, nullptr, label);
}

Work ProcessGroup::all_to_all(const Tensor& output, const Tensor& input, uint64_t label) {
  check_tensor(output, "output tensor", Op::all_to_all, impl_->device());
  check_tensor(input, "input tensor", Op::all_to_all, impl_->device());
  check_pair(output, "output", input, "input", 1, Op::all_to_all);
  check(input.numel() % impl_->size == 0, "[all_to_all] the input's elements must divide into ",
        impl_->size, " slices, one a rank, got ", input);
  check(!overlap(output, input), "[all_to_all] input and output must not overlap");
  return impl_->start(Op::all_to_all, input, output, input.dtype(), input.numel() / impl_->size, -1,
                      nullptr, label);
}

Work ProcessGroup::send(const Tensor& tensor, int destination, uint64_t label) {
  check_tensor(tensor, "tensor", Op::send, impl_->device());
  impl_->check_rank(destination, "destination", Op::send);
  check(destination != impl_->rank, "[send] rank ", destination, " is this rank itself");
  return impl_->start(Op::send, tensor, Tensor(), tensor.dtype(), tensor.numel(), destination,
                      nullptr, label);
}

Work ProcessGroup::recv(const Tensor& tensor, int source, uint64_t label) {
  check_tensor(tensor, "tensor", Op::recv, impl_->device());
  impl_->check_rank(source, "source", Op::recv);
  check(source != impl_->rank, "[recv] rank ", source, " is this rank itself");
  return impl_->start(Op::recv, Tensor(), tensor, tensor.dtype(), tensor.numel(), source, nullptr,
                      label);
}

Work ProcessGroup::barrier() { return impl_->start(Op::barrier, Tensor(), Tensor(), DType::u8, 0); }

uint64_t ProcessGroup::reserve_labels(uint64_t count) { return impl_->next_label.fetch_add(count); }

namespace {

// What each rank asks for in a split, by rank: color and key in turn.
using Wishes = std::vector<int64_t>;

// Which of a group's ranks form the new one, in its order.
std::vector<int> ranks_of(int color, const Wishes& wishes) {
  std::vector<int> ranks;
  for (size_t r = 0; 2 * r < wishes.size(); ++r)
    if (wishes[2 * r] == color) ranks.push_back(static_cast<int>(r));
  std::stable_sort(ranks.begin(), ranks.end(), [&](int a, int b) {
    return wishes[static_cast<size_t>(2 * a + 1)] < wishes[static_cast<size_t>(2 * b + 1)];
  });
  return ranks;
}

// Everybody learns what everybody wants; an all-gather in all but name, so that a split met by
// another call is seen.
void exchange(Backend& backend, const Fingerprint& fingerprint, const Limit& limit,
              Wishes& wishes) {
  const std::array<int64_t, 2> mine{wishes[static_cast<size_t>(2 * backend.rank())],
                                    wishes[static_cast<size_t>(2 * backend.rank() + 1)]};
  Call call{.fingerprint = fingerprint,
            .in = mine.data(),
            .out = wishes.data(),
            .op = Op::all_gather,
            .dtype = DType::i64,
            .count = 2,
            .limit = limit};
  backend.execute(call);
}

}  // namespace

std::unique_ptr<ProcessGroup> ProcessGroup::split(int color, int key) {
  Engine& engine = *impl_->engine;
  const auto mine = static_cast<size_t>(2 * impl_->rank);
  Wishes wishes(static_cast<size_t>(2 * impl_->size));
  wishes[mine] = color;
  wishes[mine + 1] = key;
  // A device cannot read the wishes, so there the host group exchanges them, and splits first.
  std::unique_ptr<ProcessGroup> host;
  if (impl_->host) {
    const Tensor all = Tensor::from(wishes, {2 * impl_->size});
    const auto at = static_cast<int64_t>(mine);
    impl_->host->all_gather(all, all.narrow(0, at, 2)).wait();
    wishes = all.to_vector<int64_t>();
    host = impl_->host->split(color, key);
  }
  SplitPlan plan{.name = {},
                 .color = color,
                 .key = key,
                 .ranks = {},
                 .timeout = engine.options().timeout,
                 .limit = Deadline::after(kLongestLimit)};
  std::unique_ptr<Backend> backend;
  const auto form = [&](const Fingerprint& fingerprint, const WorkState& work) {
    plan.name = str(name(), "/", fingerprint.sequence, ".", color);
    plan.limit = work.limit();
    if (impl_->size > 1 && !impl_->host)
      exchange(engine.backend(), fingerprint, plan.limit, wishes);
    if (color >= 0) {
      plan.ranks = ranks_of(color, wishes);
      plan.rank = static_cast<int>(std::find(plan.ranks.begin(), plan.ranks.end(), impl_->rank) -
                                   plan.ranks.begin());
    }
    backend = engine.backend().split(plan);
    return Event();
  };
  engine.submit_body(impl_->fingerprint(Op::split, DType::i64, 2, -1), form).wait();
  if (!backend) return nullptr;
  GroupOptions options = engine.options();
  options.name = plan.name;
  return std::make_unique<ProcessGroup>(std::move(backend), options, std::move(host));
}

void ProcessGroup::abort(const std::string& reason) {
  impl_->engine->abort(str("rank ", impl_->rank, " aborted group '", name(), "': ", reason));
}

Tensor ProcessGroup::allocate(const Shape& shape, DType dtype) {
  const auto bytes = static_cast<size_t>(shape.numel() * size_of(dtype));
  return Tensor::wrap(impl_->engine->backend().allocate(bytes), shape, dtype);
}

std::vector<std::string> ProcessGroup::recent_calls() const {
  return impl_->engine->recorder().lines();
}

}  // namespace lockstep::comm
