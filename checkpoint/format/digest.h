// SHA-256, and the digest of a model's weights. (OpenSSL's EVP: uses the processor's SHA
// instructions.)
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "core/tensor/tensor.h"

namespace lockstep::checkpoint {

// One hash under way. Not thread-safe; moves, but does not copy.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  // 64 lower-case hex digits. Ends the hash: no update() after it.
  std::string hex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string sha256_hex(std::string_view text);

// The digest of weights, one tensor at a time (docs/checkpoint.md defines the bytes). Names must
// come in ascending order of their bytes: UsageError otherwise. With sharded weights, gather a
// tensor, add() it, let it go.
class WeightsDigest {
 public:
  void add(std::string_view name, const Tensor& full);
  std::string hex() { return hash_.hex(); }

 private:
  Sha256 hash_;
  std::string last_name_;
  bool any_ = false;
};

using NamedTensor = std::pair<std::string, Tensor>;
// Of full tensors in any order; sorts them by name. UsageError on duplicate names.
std::string weights_sha256(std::span<const NamedTensor> tensors);

}  // namespace lockstep::checkpoint
