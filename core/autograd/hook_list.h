// HookList: functions that run when something happens, in the order in which they were added, each
// removable on its own. Not thread-safe.
#pragma once

#include <memory>
#include <utility>
#include <vector>

namespace lockstep {

namespace detail {
struct AnyHook {
  virtual ~AnyHook() = default;
  bool removed = false;
};
using AnyHooks = std::vector<std::shared_ptr<AnyHook>>;
}  // namespace detail

// One hook of a list. Copies mean the same hook. The hook stays when its handles go; ScopedHook is
// for the opposite.
class HookHandle {
 public:
  HookHandle() = default;  // no hook
  HookHandle(std::weak_ptr<detail::AnyHooks> list, std::weak_ptr<detail::AnyHook> hook)
      : list_(std::move(list)), hook_(std::move(hook)) {}

  // The hook does not run any more. No effect where it was removed, or where its list is gone.
  void remove() const {
    const auto hook = hook_.lock();
    const auto list = list_.lock();
    if (!hook || !list) return;
    hook->removed = true;
    std::erase(*list, hook);
  }
  bool is(const std::shared_ptr<detail::AnyHook>& hook) const {
    return hook && hook_.lock() == hook;
  }

 private:
  std::weak_ptr<detail::AnyHooks> list_;
  std::weak_ptr<detail::AnyHook> hook_;
};

// Removes its hook when it goes.
class ScopedHook {
 public:
  ScopedHook() = default;
  explicit ScopedHook(HookHandle hook) : hook_(std::move(hook)) {}
  ~ScopedHook() { hook_.remove(); }
  ScopedHook(ScopedHook&& other) noexcept : hook_(std::exchange(other.hook_, {})) {}
  ScopedHook& operator=(ScopedHook&& other) noexcept {
    if (this != &other) {
      hook_.remove();
      hook_ = std::exchange(other.hook_, {});
    }
    return *this;
  }
  const HookHandle& handle() const { return hook_; }

 private:
  HookHandle hook_;
};

// `F`: a std::function.
template <typename F>
class HookList {
 public:
  HookHandle add(F run) {
    if (!hooks_) hooks_ = std::make_shared<detail::AnyHooks>();
    hooks_->push_back(std::make_shared<Hook>(std::move(run)));
    return {hooks_, hooks_->back()};
  }
  bool empty() const { return !hooks_ || hooks_->empty(); }

  // call(run) for each hook. A hook may add hooks to this list, which run from the next time on,
  // and remove any, itself included: one that has not run yet does not run. Where a hook throws,
  // the later ones do not run.
  template <typename Call>
  void for_each(const Call& call) const {
    if (empty()) return;
    const detail::AnyHooks now = *hooks_;  // keeps a hook alive that removes itself
    for (const auto& hook : now)
      if (!hook->removed) call(static_cast<const Hook&>(*hook).run);
  }
  // The same for the hook that was added last, if there is one.
  template <typename Call>
  void for_newest(const Call& call) const {
    if (empty()) return;
    const auto newest = hooks_->back();
    call(static_cast<const Hook&>(*newest).run);
  }
  bool is_newest(const HookHandle& hook) const { return !empty() && hook.is(hooks_->back()); }

 private:
  struct Hook final : detail::AnyHook {
    explicit Hook(F run_) : run(std::move(run_)) {}
    F run;
  };
  std::shared_ptr<detail::AnyHooks> hooks_;  // null: none was ever added
};

}  // namespace lockstep
