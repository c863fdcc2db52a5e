// What an operation records: where its inputs' gradients go, and how to compute them. For those who
// write operations.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/autograd/saved_tensor.h"
#include "core/autograd/variable.h"

namespace lockstep {

// The place where the gradient of one input of a Node is gathered.
class Edge {
 public:
  Edge() = default;
  explicit Edge(const Variable& input);

  // False for constants and frozen leaves: their gradient need not be computed.
  bool needed() const { return target_ != nullptr; }
  // Adds a gradient that is already computed, in the input's shape and dtype. It may be shared with
  // others: it is not written to.
  void add(const Tensor& gradient) const;
  // Lets `write` compute the gradient straight into its place: dst is contiguous, in the input's
  // shape and dtype; `accumulate` tells it to add rather than to overwrite.
  void write(const std::function<void(const Tensor& dst, bool accumulate)>& write) const;
  // The same for what can be computed in place: where nothing is gathered yet and nobody else looks
  // at `gradient`, that of the operation's output, `dst` is its memory.
  void write_over(const Tensor& gradient,
                  const std::function<void(const Tensor& dst, bool accumulate)>& write) const;

  const std::shared_ptr<detail::GradState>& target() const { return target_; }

 private:
  std::shared_ptr<detail::GradState> target_;
};

// One recorded operation with one output. Derived classes keep what backward needs, tensors as
// SavedTensor, and drop it in release().
class Node {
 public:
  Node(std::string_view op, std::vector<Variable> inputs);
  virtual ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // Given the gradient of the output (contiguous, its shape and dtype), adds to or writes each
  // needed edge.
  virtual void backward(const Tensor& gradient) = 0;
  // Drops saved tensors; called right after backward().
  virtual void release() = 0;

  std::string_view op() const { return op_; }  // "linear"; a string literal
  uint64_t sequence() const { return sequence_; }
  const std::vector<Edge>& edges() const { return edges_; }
  const Edge& edge(size_t i) const { return edges_[i]; }
  bool released() const { return released_; }

  // `run` runs just before backward(), if a gradient comes here: what it throws ends the pass. The
  // one that was added last runs first. Dropped with the saved tensors.
  void add_pre_hook(std::function<void()> run) { pre_hooks_.push_back(std::move(run)); }
  void run_pre_hooks() const;

  // How to compute the output again; see recomputable().
  void set_recipe(const Tensor& output, std::function<Tensor()> again);
  // Empty where there is none, or where `output` no longer holds the values that the operation
  // gave.
  std::function<Tensor()> recipe_for(const Tensor& output) const;

  void mark_released();

  // What the next node's sequence will be at least.
  static uint64_t next_sequence();

 private:
  std::string_view op_;
  std::vector<Edge> edges_;
  std::vector<std::function<void()>> pre_hooks_;
  std::function<Tensor()> again_;
  std::weak_ptr<Storage> output_;
  uint64_t output_version_ = 0;
  uint64_t sequence_;
  bool released_ = false;
};

namespace detail {

// True where an operation on these inputs must be recorded.
bool must_record(const std::vector<Variable>& inputs);

// Where the gradient of a variable is gathered. Kept apart from the values, so that a recorded
// graph does not keep a value alive that no backward needs.
struct GradState {
  Shape shape;
  DType dtype = DType::f32;
  Device device;
  std::shared_ptr<Node> node;  // what computed the variable; null for leaves
  // For a leaf: the gradient's memory, and whether it holds a gradient. For a computed variable,
  // during backward(): the sum of what its consumers sent so far.
  Tensor grad;
  bool grad_valid = false;
  bool grad_shared = false;  // came through add(): someone else may hold the same storage
  // Leaves only.
  uint64_t grad_changes = 0;     // how often something was added or written
  bool grad_incomplete = false;  // a backward() that failed added a part to an earlier gradient
  std::weak_ptr<VariableImpl> owner;
  HookList<Parameter::GradHook> hooks, takers;
  Parameter::GradSource source;  // where the gradient's memory comes from; empty: the allocator
  std::string elsewhere;  // where the gradient is while its memory is not here; with `source` only
};

// The state behind a Variable: its value, and its gradient's state where it requires one.
struct VariableImpl {
  Tensor data;
  bool requires_grad = false;
  std::shared_ptr<GradState> grad;  // never null
  std::string name;
  // A leaf's values in another dtype, which ops::PrecisionScope uses in place of `data`; undefined
  // where there is none. The scope makes it and drops it, unless it is there already (FSDP:
  // gathered in that dtype).
  Tensor compute_copy;
  uint64_t compute_copy_version = 0;   // that of `data` when the scope made the copy
  uint64_t replaced = 0;               // how often set_data() was called
  Parameter::Initializer initializer;  // parameters only; empty until somebody declares one
  std::unique_ptr<ShardSpec> slice;    // parameters only; null: whole
};

// The message about values that backward needs and that were changed: `op` "linear", `tensor`
// "'fc.weight' f32[4, 4]", `by` "copy_".
std::string changed_in_place(std::string_view op, std::string_view tensor, std::string_view by);

// The values that a variable held at one time, without keeping their memory: it may be taken away
// and brought back.
class ValueMark {
 public:
  ValueMark() = default;
  ValueMark(std::string_view op, const Variable& variable);
  // Throws UsageError, naming `op` and the variable, where they were changed or replaced since.
  void check_unchanged(const VariableImpl& now) const;
  // The same where the variable, a `dtype` of `shape`, may be gone: its memory may have other
  // owners.
  void check_unchanged(DType dtype, const Shape& shape) const;
  // The memory, while somebody owns it.
  std::shared_ptr<Storage> storage() const { return storage_.lock(); }

 private:
  std::string_view op_;  // which read them
  std::weak_ptr<Storage> storage_;
  uint64_t version_ = 0, replaced_ = 0;
};

// What operations read while it lives, on this thread: for who runs them again later
// (recomputation), which must meet the same values. Scopes nest; an outer one also sees what an
// inner one sees.
class InputLog {
 public:
  // Leaves out what nodes `oldest` or younger (by sequence) compute.
  explicit InputLog(uint64_t oldest);
  ~InputLog();
  InputLog(const InputLog&) = delete;
  InputLog& operator=(const InputLog&) = delete;

  struct Input {
    std::weak_ptr<VariableImpl> variable;
    bool requires_grad;
    DType dtype;
    Shape shape;
    ValueMark values;  // as the first operation read them

    void check_unchanged() const;  // throws UsageError where they changed since
  };
  // The inputs whose variable or memory is alive. `outputs` are what the operations computed: a
  // variable that viewed their memory and is gone is none of them.
  std::vector<Input> take(const std::vector<Variable>& outputs);

  static void note(std::string_view op, const std::vector<Variable>& inputs);

 private:
  void add(std::string_view op, const Variable& input);

  std::vector<Input> inputs_;
  std::unordered_map<const VariableImpl*, size_t> latest_;  // by address, which may have had others
  uint64_t oldest_;
  InputLog* outer_;
};

// Differentiates the part of a graph that lies above nodes older than `oldest` (by sequence).
// `roots`: what operations of the part computed, each once, and its gradient. What flows out of the
// part is left at its inputs, and no hooks run: for operations whose backward is a graph of its
// own, and which hold edges to those inputs.
using Roots = std::vector<std::pair<Variable, Tensor>>;
void backward_part(const Roots& roots, uint64_t oldest);

}  // namespace detail

// For operations whose backward is a function: record("scale", data, {x}, [...](const Tensor& g,
// const Node& n) { ... }). Returns a constant when nothing needs a gradient. The function's
// captures are what backward needs; keep tensors that others may change as SavedTensor.
using BackwardFn = std::function<void(const Tensor& gradient, const Node& node)>;
Variable record(std::string_view op, Tensor result, std::vector<Variable> inputs,
                BackwardFn backward);

// For operations that are cheap beside the memory of their result, and keep for backward what it is
// made of: `again` computes the values of `result` once more, contiguous, from what is kept anyway.
// An operation that needs these values for its own backward then keeps `again` in their place
// (SavedInput). Gives back `result`.
Variable recomputable(Variable result, std::function<Tensor()> again);

}  // namespace lockstep
