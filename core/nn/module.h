// Module: a named tree of parameters, buffers and sub-modules. Modules know nothing of parallelism.
//
// The usual module takes one Variable and returns one:
//
//   Variable forward(const Variable& x) override { return ops::gelu((*linear_)(x)); }
//
// A module that takes or returns several overrides forward_all() instead:
//
//   Variables forward_all(const Variables& in) override {          // x, mask (may be undefined)
//     const Variable y = (*attention_)(in.at(0), in.at(1));        // several inputs, one output
//     const Variables state = cache_->call({y, in.at(2)});         // several outputs
//     return {y, state.at(0)};
//   }
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/autograd/hook_list.h"
#include "core/autograd/variable.h"

namespace lockstep::nn {

// What a module takes or returns, in its order. Optional ones may be undefined; any may be
// constants, or integers (tokens, masks).
using Variables = std::vector<Variable>;

// Not copyable: parameters are shared handles, and a copy would silently train the same weights.
// Not thread-safe.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // Runs forward_all() and the hooks around it: pre-hooks in order of registration, post-hooks
  // likewise.
  Variables call(Variables inputs);
  // The same where one Variable comes back. Throws UsageError where other than one does.
  template <std::convertible_to<Variable>... Inputs>
  Variable operator()(const Inputs&... inputs) {
    return single(call({Variable(inputs)...}));
  }

  // The module's name in the tree it was registered into ("blocks.0"); empty for the root.
  const std::string& path() const { return path_; }

  // Parameters in order of registration, depth first. Their names are full ones, from the root
  // ("blocks.0.qkv.weight"). A parameter that several modules share appears once, under the name
  // that its own module gave it.
  std::vector<Parameter> parameters() const;
  // Those that this module itself registered, shared ones included.
  std::vector<Parameter> own_parameters() const;
  // Tensors that belong to the state but are not trained. Those of a module that is registered
  // twice appear once.
  std::vector<std::pair<std::string, Tensor>> buffers() const;
  // Direct children with their names.
  const std::vector<std::pair<std::string, std::shared_ptr<Module>>>& children() const {
    return children_;
  }

  void zero_grad() const;
  // Sets every parameter below to its layer's initial values. Each draws from a stream of its own,
  // keyed by `seed` and its full name, so that its values depend on nothing else. Call it on the
  // root, once the tree is complete: weights are 0 before. Throws UsageError where two names would
  // draw the same values.
  void initialize(uint64_t seed);
  // Gives memory and initial values to all parameters below that have none (nn::DeferredInit),
  // after initialize().
  void materialize() const;
  // Turns dropout on (the default) or off, in this module and below.
  void train(bool on = true);
  bool training() const { return training_; }

  // Whether the forward pass is computed again in backward instead of keeping its activations
  // (core/nn/recompute.h): the same bits for less memory and a second forward pass. Hooks of this
  // module run once, outside of what is recomputed; those of modules below run again with it. The
  // module must outlive backward, in the same training().
  void set_recompute(bool on = true) { recompute_ = on; }
  bool recomputes() const { return recompute_; }

  // Hooks see all inputs and outputs, and may put others in their place: what the pre-hooks leave
  // in `inputs` is what forward takes, and what the post-hooks leave in `outputs` is what the
  // caller gets. HookList says what happens where a hook adds or removes some. No handle is needed
  // to keep a hook. Throws UsageError on an empty function.
  using PreHook = std::function<void(Module&, Variables& inputs)>;
  using PostHook = std::function<void(Module&, const Variables& inputs, Variables& outputs)>;
  HookHandle add_forward_pre_hook(PreHook hook);
  HookHandle add_forward_post_hook(PostHook hook);

 protected:
  // A module overrides one of the two. By default, forward_all() takes one input, which must be
  // defined, and returns what forward() makes of it. Throws UsageError on other inputs, and where a
  // module overrides neither.
  virtual Variable forward(const Variable& input);
  virtual Variables forward_all(const Variables& inputs);
  // Sets initial values, after the children set theirs: a module may overrule its children. init.h
  // has the usual ones.
  virtual void reset_parameters(uint64_t /*seed*/) {}

  // Names are local; full names come from the tree. Each throws UsageError on a name already taken,
  // an empty one or one with a '.', one that no checkpoint could hold, on something undefined, and
  // on a module that holds this one. A parameter gets its full name from the module that registers
  // it as its own.
  Parameter register_parameter(std::string name, Tensor data);
  void register_shared_parameter(std::string name, Parameter parameter);  // tied weights
  Tensor register_buffer(std::string name, Tensor data);
  template <typename M>
  std::shared_ptr<M> register_module(std::string name, std::shared_ptr<M> module) {
    add_child(std::move(name), module);
    return module;
  }

 private:
  Variable single(Variables outputs) const;
  void add_child(std::string name, std::shared_ptr<Module> module);
  void check_new_name(const std::string& name) const;
  bool holds(const Module& other) const;
  void set_path(const std::string& path);
  std::string full_name(const std::string& local) const {
    return path_.empty() ? local : path_ + "." + local;
  }

  struct Entry {
    std::string name;
    Parameter parameter;
    bool shared;  // named by another module
  };
  std::string path_;
  std::vector<Entry> parameters_;
  std::vector<std::pair<std::string, Tensor>> buffers_;
  std::vector<std::pair<std::string, std::shared_ptr<Module>>> children_;
  HookList<PreHook> pre_hooks_;
  HookList<PostHook> post_hooks_;
  bool training_ = true;
  bool recompute_ = false;
};

}  // namespace lockstep::nn
