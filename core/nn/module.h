// Module: a named tree of parameters, buffers and sub-modules. Modules know nothing of parallelism.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/autograd/variable.h"

namespace lockstep::nn {

// Not copyable: parameters are shared handles, and a copy would silently train the same weights.
// Not thread-safe.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // Runs the hooks around forward(): pre-hooks in order of registration, post-hooks likewise.
  Variable operator()(const Variable& input);

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

  // Whether forward() is computed again in backward instead of keeping its activations
  // (core/nn/recompute.h): the same bits for less memory and a second forward pass. Hooks of this
  // module run once, outside of what is recomputed; those of modules below run again with it. The
  // module must outlive backward, in the same training().
  void set_recompute(bool on = true) { recompute_ = on; }
  bool recomputes() const { return recompute_; }

  using PreHook = std::function<void(Module&, const Variable& input)>;
  // Returns the output to pass on.
  using PostHook = std::function<Variable(Module&, const Variable& output)>;
  // A hook is no empty function.
  void add_forward_pre_hook(PreHook hook);
  void add_forward_post_hook(PostHook hook);

 protected:
  virtual Variable forward(const Variable& input) = 0;
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
  std::vector<PreHook> pre_hooks_;
  std::vector<PostHook> post_hooks_;
  bool training_ = true;
  bool recompute_ = false;
};

}  // namespace lockstep::nn
