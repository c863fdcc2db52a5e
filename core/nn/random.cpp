#include "core/nn/random.h"

#include <tuple>

#include "core/base/error.h"
#include "core/device/capture.h"

namespace lockstep::nn {
namespace {
thread_local RandomScope* t_scope = nullptr;
}

uint32_t SiteNames::claim(std::string_view name, const void* owner) {
  const uint32_t site = site_of(name);
  const auto [at, added] = claims_.try_emplace(site, Claim{std::string(name), owner});
  const Claim& claim = at->second;
  check(added || claim.name == name, "[random] '", name, "' and '", claim.name,
        "' would draw the same random numbers, because their names have the same 32-bit hash; "
        "rename one of the modules");
  check(added || claim.owner == owner, "[random] two places that are both named '", name,
        "' would draw the same random numbers; register their models into one module, whose names "
        "differ, or give each a seed of its own");
  return site;
}

RandomScope::RandomScope(uint64_t seed, uint32_t step, uint32_t micro)
    : RandomScope(RandomKey{.seed = seed, .step = step, .micro = micro}) {}
RandomScope::RandomScope(const RandomKey& place)
    : key_(place), names_(&own_names_), outer_(t_scope) {
  check(place.step > 0,
        "[random] steps count from 1, got 0, whose numbers are those of the initial values");
  const auto here = [&](const RandomKey& other) {
    return std::tie(other.seed, other.step, other.micro) ==
           std::tie(place.seed, place.step, place.micro);
  };
  for (const RandomScope* scope = outer_; scope; scope = scope->outer_)
    if (here(scope->key_)) names_ = scope->names_;
  t_scope = this;
}

RandomScope::~RandomScope() { t_scope = outer_; }

RandomKey RandomScope::key(std::string_view name, const void* owner) {
  check(t_scope != nullptr,
        "[random] a training forward pass that draws random numbers (dropout) expected an open "
        "nn::RandomScope; ",
        "open one per micro-batch, or call train(false)");
  check(!name.empty(),
        "[random] a module that draws random numbers (dropout) has no name, and would draw those "
        "of every other one ",
        "without a name; register it into the model with register_module(), and call the model");
  if (!t_scope->key_.device_step)
    Capture::prevent("dropout, whose random numbers depend on the number of the step");
  RandomKey key = t_scope->key_;
  key.site = t_scope->names_->claim(name, owner);
  return key;
}

std::optional<RandomKey> RandomScope::place() {
  return t_scope ? std::optional(t_scope->key_) : std::nullopt;
}

}  // namespace lockstep::nn
