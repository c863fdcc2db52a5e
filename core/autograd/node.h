// What an operation records: where the gradients of its inputs go, and how to compute them. For
// authors of operations.
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

// The place that gathers the gradient of one input of a Node.
class Edge {
 public:
  Edge() = default;
  explicit Edge(const Variable& input);

  // False for constants and frozen leaves. Their gradient need not be computed.
  bool needed() const { return target_ != nullptr; }
  // Adds a computed gradient, in the input's shape and dtype. It may be shared with others, because
  // it is not written to.
  void add(const Tensor& gradient) const;
  // Lets `write` compute the gradient directly in its place. dst is contiguous, in the input's
  // shape and dtype. If `accumulate`, `write` must add instead of overwriting.
  void write(const std::function<void(const Tensor& dst, bool accumulate)>& write) const;
  // The same for a gradient that can be computed in place. If nothing is gathered yet and nobody
  // else uses `gradient` (that of the operation's output), `dst` is its memory.
  void write_over(const Tensor& gradient,
                  const std::function<void(const Tensor& dst, bool accumulate)>& write) const;

  const std::shared_ptr<detail::GradState>& target() const { return target_; }

 private:
  std::shared_ptr<detail::GradState> target_;
};

// One recorded operation with one output. Derived classes keep what backward needs (tensors as
// SavedTensor) and drop it in release().
class Node {
 public:
  Node(std::string_view op, std::vector<Variable> inputs);
  virtual ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // Adds to or writes each needed edge. `gradient` is that of the output: contiguous, with its
  // shape and dtype.
  virtual void backward(const Tensor& gradient) = 0;
  // Drops saved tensors. Called right after backward().
  virtual void release() = 0;

  std::string_view op() const { return op_; }  // "linear"; a string literal
  uint64_t sequence() const { return sequence_; }
  const std::vector<Edge>& edges() const { return edges_; }
  const Edge& edge(size_t i) const { return edges_[i]; }
  bool released() const { return released_; }

  // `run` is called just before backward(), if a gradient comes here. An exception ends the pass.
  // The hook that was added last runs first. Hooks are dropped with the saved tensors.
  void add_pre_hook(std::function<void()> run) { pre_hooks_.push_back(std::move(run)); }
  void run_pre_hooks() const;

  // Tells how to compute the output again; see recomputable().
  void set_recipe(const Tensor& output, std::function<Tensor()> again);
  // Empty if there is no recipe, or if `output` no longer holds the values that the operation
  // computed.
  std::function<Tensor()> recipe_for(const Tensor& output) const;

  void mark_released();

  // A lower bound of the next node's sequence.
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

// Whether an operation on these inputs must be recorded.
bool must_record(const std::vector<Variable>& inputs);

// Where the gradient of a variable is gathered. It is separate from the values, so that a recorded
// graph keeps no value alive that no backward needs.
struct GradState {
  Shape shape;
  DType dtype = DType::f32;
  Device device;
  std::shared_ptr<Node> node;  // what computed the variable; null for leaves
  // For a leaf: the gradient's memory; grad_valid says whether it holds a gradient. For a computed
  // variable, during backward(): the sum of what its consumers have sent so far.
  Tensor grad;
  bool grad_valid = false;
  bool grad_shared = false;  // came through add(): others may hold the same storage
  // The rest is for leaves only.
  uint64_t grad_changes = 0;     // number of additions and writes
  bool grad_incomplete = false;  // a failed backward() added a part to an earlier gradient
  std::weak_ptr<VariableImpl> owner;
  HookList<Parameter::GradHook> hooks, takers;
  Parameter::GradSource source;  // provides the gradient's memory; empty: the allocator does
  std::string elsewhere;  // where the gradient is while its memory is away; only with `source`
};

// The state behind a Variable: its value, and the state of its gradient.
struct VariableImpl {
  Tensor data;
  bool requires_grad = false;
  std::shared_ptr<GradState> grad;  // never null
  std::string name;
  // A leaf's values in another dtype, which ops::PrecisionScope uses instead of `data`. Undefined
  // if there is none. The scope makes and drops it, unless it exists already (FSDP gathers in that
  // dtype).
  Tensor compute_copy;
  uint64_t compute_copy_version = 0;   // version of `data` when the scope made the copy
  uint64_t replaced = 0;               // how often set_data() was called
  Parameter::Initializer initializer;  // parameters only; empty until declared
  std::unique_ptr<ShardSpec> slice;    // parameters only; null: whole
};

// The message about changed values that backward needs. `op`: "linear". `tensor`: "'fc.weight'
// f32[4, 4]". `by`: "copy_".
std::string changed_in_place(std::string_view op, std::string_view tensor, std::string_view by);

// Remembers the values that a variable held at one time, without keeping their memory, which may be
// taken away and brought back.
class ValueMark {
 public:
  ValueMark() = default;
  ValueMark(std::string_view op, const Variable& variable);
  // Throws UsageError that names `op` and the variable if they were changed or replaced since.
  void check_unchanged(const VariableImpl& now) const;
  // The same if the variable, a `dtype` of `shape`, may be gone while others own its memory.
  void check_unchanged(DType dtype, const Shape& shape) const;
  // The memory, while it has an owner.
  std::shared_ptr<Storage> storage() const { return storage_.lock(); }

 private:
  std::string_view op_;  // the operation that read them
  std::weak_ptr<Storage> storage_;
  uint64_t version_ = 0, replaced_ = 0;
};

// Logs what operations of this thread read while it lives. A recomputation runs them again later
// and must find the same values. Scopes nest. An outer log also contains the reads of an inner one.
class InputLog {
 public:
  // Leaves out the results of nodes `oldest` or younger (by sequence).
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

    void check_unchanged() const;  // throws UsageError if they changed since
  };
  // The inputs whose variable or memory is alive. `outputs` are the results of the operations. A
  // variable that viewed their memory and is gone does not count as an input.
  std::vector<Input> take(const std::vector<Variable>& outputs);

  static void note(std::string_view op, const std::vector<Variable>& inputs);

 private:
  void add(std::string_view op, const Variable& input);

  std::vector<Input> inputs_;
  // By address. An earlier variable may have had the same one.
  std::unordered_map<const VariableImpl*, size_t> latest_;
  uint64_t oldest_;
  InputLog* outer_;
};

// Differentiates the part of a graph above nodes older than `oldest` (by sequence). `roots`:
// results of the part's operations, each once, with its gradient. Gradients that leave the part
// stay at its inputs, and no hooks run. For operations whose backward is itself a graph, and which
// hold edges to those inputs.
using Roots = std::vector<std::pair<Variable, Tensor>>;
void backward_part(const Roots& roots, uint64_t oldest);

}  // namespace detail

// For operations whose backward is a function:
//   record("scale", data, {x}, [...](const Tensor& g, const Node& n) { ... })
// Returns a constant if nothing needs a gradient. The function's captures are what backward needs.
// Keep tensors that others may change as SavedTensor.
using BackwardFn = std::function<void(const Tensor& gradient, const Node& node)>;
Variable record(std::string_view op, Tensor result, std::vector<Variable> inputs,
                BackwardFn backward);

// For operations that are cheap compared to the memory of their result, and keep what they made it
// from. `again` computes the values of `result` again, contiguous, from what is kept anyway. An
// operation that needs these values for its backward then keeps `again` instead of them
// (SavedInput). Returns `result`.
Variable recomputable(Variable result, std::function<Tensor()> again);

}  // namespace lockstep
