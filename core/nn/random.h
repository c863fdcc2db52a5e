// The random numbers of a model. Streams are named by seed, step, micro-batch and site
// (core/base/philox.h), never by rank or by the order of calls.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "core/base/philox.h"

namespace lockstep::nn {

// The site of a name (a parameter's, a module's path): FNV-1a, 32 bits.
constexpr uint32_t site_of(std::string_view name) {
  uint32_t hash = 0x811C9DC5u;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x01000193u;
  return hash;
}

// Names whose streams differ only by their sites. Two names may have the same site, and two models
// may have the same names. Their numbers would be equal.
class SiteNames {
 public:
  // Returns the site of `name`, from which `owner` draws. May be called repeatedly. Throws
  // UsageError if another name has the site, or another owner has the name. The message gives both
  // names and what to do.
  uint32_t claim(std::string_view name, const void* owner);

 private:
  struct Claim {
    std::string name;
    const void* owner;
  };
  std::unordered_map<uint32_t, Claim> claims_;
};

// While it lives, this thread's forward passes belong to this micro-batch of this step. Steps count
// from 1 (0 is for initialisation). `micro` counts within the step, over all ranks. Scopes nest. An
// inner scope with the same seed, step and micro-batch draws from the same streams and shares the
// names.
class RandomScope {
 public:
  // Throws UsageError for step 0.
  RandomScope(uint64_t seed, uint32_t step, uint32_t micro);
  // The key's site does not matter. With a `device_step` the scope's work may be recorded
  // (core/device/capture.h).
  explicit RandomScope(const RandomKey& place);
  ~RandomScope();
  RandomScope(const RandomScope&) = delete;
  RandomScope& operator=(const RandomScope&) = delete;

  // The stream of `name`, the path of the module `owner`, in the current scope. Throws UsageError:
  // - outside of any scope, because without a step every step would draw the same numbers
  // - if another name of the scope has the same site, or another module the same name
  // - for an empty name
  static RandomKey key(std::string_view name, const void* owner);
  // The current scope, to return to it later. Nothing outside of any.
  static std::optional<RandomKey> place();

 private:
  RandomKey key_;
  SiteNames own_names_;
  SiteNames* names_;  // those of the outermost scope of the same place
  RandomScope* outer_;
};

}  // namespace lockstep::nn
