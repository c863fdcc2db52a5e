#include "core/nn/random.h"

#include "core/base/error.h"

namespace lockstep::nn {
namespace {
thread_local RandomScope* t_scope = nullptr;
}

RandomScope::RandomScope(uint64_t seed, uint32_t step, uint32_t micro)
    : RandomScope(RandomKey{.seed = seed, .step = step, .micro = micro}) {}
RandomScope::RandomScope(const RandomKey& place) : key_(place), outer_(t_scope) { t_scope = this; }

RandomScope::~RandomScope() { t_scope = outer_; }

RandomKey RandomScope::key(uint32_t site) {
  check(t_scope != nullptr, "[random] a training forward pass that draws random numbers (dropout) expected an open nn::RandomScope; ",
        "open one per micro-batch, or call train(false)");
  RandomKey key = t_scope->key_;
  key.site = site;
  return key;
}

std::optional<RandomKey> RandomScope::place() { return t_scope ? std::optional(t_scope->key_) : std::nullopt; }

}  // namespace lockstep::nn
