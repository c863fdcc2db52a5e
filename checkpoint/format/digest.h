// SHA-256, and the digest of a model's weights. (Uses OpenSSL's EVP, which uses the processor's SHA
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

// A hash being computed. Not thread-safe. Can be moved, not copied.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  // Returns 64 lower-case hex digits and ends the hash: no update() after it.
  std::string hex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string sha256_hex(std::string_view text);

// Computes the digest of weights, one tensor at a time (docs/checkpoint.md defines the bytes).
// Names must come in ascending order of their bytes, or it throws UsageError. For sharded weights,
// gather a tensor, add() it and release it.
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
// Digest of whole tensors in any order; sorts them by name. UsageError for duplicate names.
std::string weights_sha256(std::span<const NamedTensor> tensors);

}  // namespace lockstep::checkpoint
