// Module: a named tree of parameters, buffers and sub-modules. Modules know nothing of parallelism.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/autograd/variable.h"

namespace lockstep::nn {

// Not copyable: parameters are shared handles, and a copy would silently train the same weights. Not thread-safe.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // Runs the hooks around forward(): pre-hooks in order of registration, post-hooks likewise.
  Variable operator()(const Variable& input);

  // Parameters by full name ("blocks.0.qkv.weight"), in order of registration, depth first. A parameter that several modules
  // share appears once, under its first name.
  std::vector<Parameter> parameters() const;
  // Tensors that belong to the state but are not trained.
  std::vector<std::pair<std::string, Tensor>> buffers() const;
  // Direct children with their names.
  const std::vector<std::pair<std::string, std::shared_ptr<Module>>>& children() const { return children_; }

  void zero_grad() const;
  // Turns dropout on (the default) or off, in this module and below.
  void train(bool on = true);
  bool training() const { return training_; }

  using PreHook = std::function<void(Module&, const Variable& input)>;
  using PostHook = std::function<Variable(Module&, const Variable& output)>;  // returns the output to pass on
  void add_forward_pre_hook(PreHook hook) { pre_hooks_.push_back(std::move(hook)); }
  void add_forward_post_hook(PostHook hook) { post_hooks_.push_back(std::move(hook)); }

 protected:
  virtual Variable forward(const Variable& input) = 0;

  // Names are local; full names come from the tree. Each throws UsageError on a name already taken or one with a '.'.
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

  std::vector<std::pair<std::string, Parameter>> parameters_;
  std::vector<std::pair<std::string, Tensor>> buffers_;
  std::vector<std::pair<std::string, std::shared_ptr<Module>>> children_;
  std::vector<PreHook> pre_hooks_;
  std::vector<PostHook> post_hooks_;
  bool training_ = true;
};

}  // namespace lockstep::nn
