#include "comm/ucx/proof.h"

#include <cerrno>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include "core/base/error.h"

namespace lockstep::comm::ucx {
namespace {

Digest hmac(std::string_view key, std::string_view text) {
  Digest digest{};
  unsigned size = 0;
  if (!::HMAC(::EVP_sha256(), key.data(), static_cast<int>(key.size()),
              reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data(),
              &size) ||
      size != digest.size())
    throw EnvironmentError("[ucx] OpenSSL cannot compute HMAC-SHA256");
  return digest;
}

void put(std::string& text, uint64_t number) {
  for (int shift = 0; shift < 64; shift += 8) text += static_cast<char>(number >> shift & 255);
}

}  // namespace

std::string random_bytes(size_t count) {
  std::string bytes(count, '\0');
  if (::getrandom(bytes.data(), count, 0) != static_cast<ssize_t>(count))
    throw EnvironmentError("[ucx] getrandom: " + errno_text(errno));
  return bytes;
}

Digest prove(std::string_view key, const Claim& claim) {
  std::string text = "lockstep ucx hello 2";
  for (const uint64_t number :
       {claim.group, claim.name, uint64_t{claim.from}, uint64_t{claim.to}, uint64_t{claim.size}})
    put(text, number);
  return hmac(key, text + claim.from_number + claim.to_number);
}

bool equal(const Digest& a, const Digest& b) {
  return ::CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string split_key(std::string_view parent, uint64_t group) {
  std::string text = "lockstep ucx split 2";
  put(text, group);
  const Digest digest = hmac(parent, text);
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

}  // namespace lockstep::comm::ucx
