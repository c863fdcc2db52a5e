// Proof: how the ranks of a group show each other, in their first message over UCX, that they are
// the ones that met in the group's store.
//
// Rank 0 leaves a random key in the store, and each rank a random number. The store lets in only
// processes of the job. The first message of rank a to rank b then carries HMAC-SHA256 of a, b,
// their numbers, and the group, which only they can compute. Groups that are split off get a key
// from their parent's; the key itself never travels over UCX.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep::comm::ucx {

inline constexpr size_t kKeyBytes = 32;
inline constexpr size_t kNumberBytes = 16;
using Digest = std::array<unsigned char, 32>;

// Random bytes of the system. Throws EnvironmentError.
std::string random_bytes(size_t count);

// What one rank shows another one.
struct Claim {
  uint64_t group = 0;
  uint64_t name = 0;  // hash of the group's name
  uint32_t from = 0, to = 0, size = 0;
  std::string from_number = {}, to_number = {};  // kNumberBytes each
};
// Throws EnvironmentError if OpenSSL fails.
Digest prove(std::string_view key, const Claim& claim);
// Takes the same time wherever the difference is.
bool equal(const Digest& a, const Digest& b);

// The key of a group that is split off, whose ranks know its `group` already.
std::string split_key(std::string_view parent, uint64_t group);

}  // namespace lockstep::comm::ucx
