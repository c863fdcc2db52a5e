#include "checkpoint/format/digest.h"

#include <algorithm>
#include <vector>

#include <openssl/evp.h>

#include "core/base/error.h"

namespace lockstep::checkpoint {

struct Sha256::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  if (!context_->evp || EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr) != 1)
    throw EnvironmentError("[sha256] the cryptographic library cannot compute SHA-256");
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(const void* data, size_t bytes) {
  if (EVP_DigestUpdate(context_->evp, data, bytes) != 1)
    throw EnvironmentError("[sha256] update failed");
}

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_DigestFinal_ex(context_->evp, digest, &size) != 1)
    throw EnvironmentError("[sha256] the end of the hash failed");
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    text += digits[digest[i] >> 4];
    text += digits[digest[i] & 15];
  }
  return text;
}

std::string sha256_hex(std::string_view text) {
  Sha256 hash;
  hash.update(text);
  return hash.hex();
}

void WeightsDigest::add(std::string_view name, const Tensor& full) {
  check(!any_ || last_name_ < name, "[weights_digest] names must ascend: '", name, "' came after '",
        last_name_, "'");
  any_ = true;
  last_name_ = name;
  const Tensor host = full.contiguous().to(kCpu);
  std::string header = str(name, '\0', name_of(host.dtype()), '[');
  for (int i = 0; i < host.dim(); ++i) header += str(i ? "," : "", host.shape()[i]);
  hash_.update(header + "]\n");
  hash_.update(host.raw(), static_cast<size_t>(host.bytes()));
}

std::string weights_sha256(std::span<const NamedTensor> tensors) {
  std::vector<const NamedTensor*> sorted;
  for (const auto& tensor : tensors) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(),
            [](const auto* a, const auto* b) { return a->first < b->first; });
  WeightsDigest digest;
  for (const auto* tensor : sorted) digest.add(tensor->first, tensor->second);
  return digest.hex();
}

}  // namespace lockstep::checkpoint
