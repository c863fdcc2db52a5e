#include "core/nn/module.h"

#include <ostream>
#include <unordered_set>

#include "core/autograd/node.h"
#include "core/base/byte_text.h"
#include "core/nn/init.h"
#include "core/nn/recompute.h"
#include "core/trace/trace.h"

namespace lockstep::nn {
namespace {

// Named by the module.
constexpr trace::Kind kForward{"forward", "forward"};

using Modes = std::vector<std::pair<const Module*, bool>>;

void add_modes(const Module& module, Modes& modes) {
  modes.emplace_back(&module, module.training());
  for (const auto& child : module.children()) add_modes(*child.second, modes);
}

void check_modes(const Modes& modes) {
  for (const auto& [module, training] : modes)
    check(module->training() == training, "[recompute] '", module->path(),
          "' was switched by train() between forward and backward");
}

// Makes a forward pass repeatable for backward. All modules must then have today's training() flag.
RecomputedAll repeatable(const Module& module, RecomputedAll forward) {
  Modes modes;
  add_modes(module, modes);
  return [modes = std::move(modes), forward = std::move(forward)](const Variables& inputs) {
    check_modes(modes);
    return forward(inputs);
  };
}

// A module in a message, whose text is made only if the message is: calls of modules are frequent.
struct Who {
  const std::string& path;
  friend std::ostream& operator<<(std::ostream& out, const Who& who) {
    return who.path.empty() ? out << "the root" : out << "'" << who.path << "'";
  }
};
Who who(const std::string& path) { return {path}; }

}  // namespace

Variables Module::call(Variables inputs) {
  const trace::Span span(kForward, [&] {
    return trace::About{.name = trace::intern(path_.empty() ? "model" : path_)};
  });
  pre_hooks_.for_each([&](const PreHook& hook) { hook(*this, inputs); });
  Variables outputs =
      recompute_
          ? recompute_all(
                inputs, repeatable(*this, [this](const Variables& in) { return forward_all(in); }))
          : forward_all(inputs);
  post_hooks_.for_each([&](const PostHook& hook) { hook(*this, inputs, outputs); });
  return outputs;
}

Variable Module::single(Variables outputs) const {
  check(outputs.size() == 1, "[module] expected one output of ", who(path_), ", got ",
        outputs.size(), ": take them with call()");
  return std::move(outputs.front());
}

Variable Module::forward(const Variable&) {
  throw UsageError(str("[module] ", who(path_),
                       " overrides neither forward() nor forward_all(), and was called"));
}

Variables Module::forward_all(const Variables& inputs) {
  check(inputs.size() == 1, "[module] ", who(path_), " takes one input, got ", inputs.size(),
        ": a module that takes several overrides forward_all()");
  check(inputs.front().defined(), "[module] the input of ", who(path_), " is undefined");
  return {forward(inputs.front())};
}

std::vector<Parameter> Module::parameters() const {
  std::vector<Parameter> found;
  std::unordered_set<const void*> seen;
  const auto visit = [&](const auto& self, const Module& module) -> void {
    for (const Entry& entry : module.parameters_)
      if (seen.insert(entry.parameter.impl().get()).second) found.push_back(entry.parameter);
    for (const auto& child : module.children_) self(self, *child.second);
  };
  visit(visit, *this);
  return found;
}

std::vector<Parameter> Module::own_parameters() const {
  std::vector<Parameter> own;
  for (const Entry& entry : parameters_) own.push_back(entry.parameter);
  return own;
}

std::vector<std::pair<std::string, Tensor>> Module::buffers() const {
  std::vector<std::pair<std::string, Tensor>> found;
  std::unordered_set<const Module*> seen;
  const auto visit = [&](const auto& self, const Module& module) -> void {
    if (!seen.insert(&module).second) return;
    for (const auto& [name, tensor] : module.buffers_)
      found.emplace_back(module.full_name(name), tensor);
    for (const auto& child : module.children_) self(self, *child.second);
  };
  visit(visit, *this);
  return found;
}

void Module::zero_grad() const {
  for (const Parameter& parameter : parameters()) parameter.zero_grad();
}

void Module::initialize(uint64_t seed) {
  const InitialDraws draws;
  for (const auto& child : children_) child.second->initialize(seed);
  reset_parameters(seed);
}

void Module::materialize() const {
  MemoryScope scope(MemoryCategory::parameters);
  for (const Parameter& parameter : parameters()) {
    const auto& storage = parameter.data().storage();
    if (storage->present()) continue;
    check(parameter.impl()->initializer != nullptr, "[module] nothing says how '", parameter.name(),
          "' starts: call initialize(seed) on the model first");
    storage->attach(std::make_shared<Storage>(storage->bytes(), storage->device()));
    parameter.draw_initial(0, parameter.data());
  }
}

void Module::train(bool on) {
  training_ = on;
  for (const auto& child : children_) child.second->train(on);
}

Parameter Module::register_parameter(std::string name, Tensor data) {
  check_new_name(name);
  Parameter parameter(full_name(name), std::move(data));
  parameters_.push_back({std::move(name), parameter, false});
  return parameter;
}

void Module::register_shared_parameter(std::string name, Parameter parameter) {
  check_new_name(name);
  check(parameter.defined(), "[module] the shared parameter '", full_name(name), "' is undefined");
  parameters_.push_back({std::move(name), std::move(parameter), true});
}

Tensor Module::register_buffer(std::string name, Tensor data) {
  check_new_name(name);
  check(data.defined(), "[module] the buffer '", full_name(name), "' is undefined");
  buffers_.emplace_back(std::move(name), data);
  return data;
}

void Module::add_child(std::string name, std::shared_ptr<Module> module) {
  check_new_name(name);
  check(module != nullptr, "[module] the module '", full_name(name), "' is null");
  check(!module->holds(*this), "[module] the module '", full_name(name),
        "' holds the one that it is registered into");
  module->set_path(full_name(name));
  children_.emplace_back(std::move(name), std::move(module));
}

HookHandle Module::add_forward_pre_hook(PreHook hook) {
  check(hook != nullptr, "[module] expected a hook for '", path_, "', got an empty function");
  return pre_hooks_.add(std::move(hook));
}

HookHandle Module::add_forward_post_hook(PostHook hook) {
  check(hook != nullptr, "[module] expected a hook for '", path_, "', got an empty function");
  return post_hooks_.add(std::move(hook));
}

bool Module::holds(const Module& other) const {
  if (this == &other) return true;
  for (const auto& child : children_)
    if (child.second->holds(other)) return true;
  return false;
}

void Module::set_path(const std::string& path) {
  path_ = path;
  for (const Entry& entry : parameters_)
    if (!entry.shared) entry.parameter.set_name(full_name(entry.name));
  for (const auto& [name, child] : children_) child->set_path(full_name(name));
}

void Module::check_new_name(const std::string& name) const {
  check(!name.empty() && name.find('.') == std::string::npos,
        "[module] expected a name without '.', got '", name, "'");
  check(find_no_utf8(name) == std::string::npos && name.find('\n') == std::string::npos &&
            name != "__metadata__",
        "[module] '", text_of_bytes(name),
        "' cannot be a name: checkpoints hold names of UTF-8 without line feeds, and "
        "'__metadata__' is their own");
  bool taken = false;
  for (const Entry& entry : parameters_) taken = taken || entry.name == name;
  for (const auto& buffer : buffers_) taken = taken || buffer.first == name;
  for (const auto& child : children_) taken = taken || child.first == name;
  check(!taken, "[module] '", full_name(name), "' is registered already");
}

}  // namespace lockstep::nn
