#include "ddp/gradient_hooks.h"

#include "core/autograd/node.h"

namespace lockstep::ddp {
namespace {

const Parameter::GradHook& hook_of(const Parameter& parameter) {
  return parameter.impl()->grad->hook;
}

}  // namespace

void GradientHooks::Hook::operator()(const Parameter& parameter) const {
  const Entry* const mine = entry;
  if (const Parameter::GradHook user = mine->user)
    user(parameter);  // a copy: it may replace itself
  mine->owner->final_(mine->index);
}

GradientHooks::GradientHooks(const std::vector<Parameter>& parameters, Final final)
    : final_(std::move(final)) {
  for (const Parameter& p : parameters) {
    entries_.push_back(std::make_unique<Entry>(Entry{this, entries_.size(), p, {}}));
    take(*entries_.back());
  }
}

GradientHooks::~GradientHooks() {
  for (const auto& entry : entries_) {
    const Hook* hook = hook_of(entry->parameter).target<Hook>();
    if (hook && hook->entry == entry.get()) entry->parameter.set_grad_hook(std::move(entry->user));
  }
}

// What hangs at the parameter is a user's hook, or nothing, or an earlier wrapper's.
void GradientHooks::take(Entry& entry) {
  const Hook* earlier = hook_of(entry.parameter).target<Hook>();
  entry.user = earlier ? earlier->entry->user : hook_of(entry.parameter);
  entry.parameter.set_grad_hook(Hook{&entry});
}

std::optional<size_t> GradientHooks::adopt() {
  for (const auto& entry : entries_) {
    const Hook* hook = hook_of(entry->parameter).target<Hook>();
    if (hook && hook->entry == entry.get()) continue;
    if (hook) return entry->index;
    take(*entry);
  }
  return std::nullopt;
}

}  // namespace lockstep::ddp
