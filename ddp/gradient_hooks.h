// The hooks by which a wrapper learns that gradients are final. A parameter has one hook: these
// keep the one that a user set, whenever that was, and call it first.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "core/autograd/variable.h"

namespace lockstep::ddp {

// One thread, the one that runs backward.
class GradientHooks {
 public:
  using Final = std::function<void(size_t index)>;

  // From here on `final(i)` runs when the gradient of parameters[i] is final. An earlier wrapper of
  // the same parameters loses its hooks to this one.
  GradientHooks(const std::vector<Parameter>& parameters, Final final);
  // Gives back the hooks of users, but leaves those of a later wrapper alone.
  ~GradientHooks();
  GradientHooks(const GradientHooks&) = delete;
  GradientHooks& operator=(const GradientHooks&) = delete;

  // Takes in hooks that users set or removed since the last call. Returns the index of a parameter
  // that a later wrapper has taken over, if there is one.
  std::optional<size_t> adopt();

 private:
  struct Entry {
    const GradientHooks* owner;
    size_t index;
    Parameter parameter;
    Parameter::GradHook user;  // may be empty
  };
  struct Hook {
    const Entry* entry;
    void operator()(const Parameter& parameter) const;
  };
  void take(Entry& entry);

  Final final_;
  std::vector<std::unique_ptr<Entry>> entries_;  // hooks point to them
};

}  // namespace lockstep::ddp
