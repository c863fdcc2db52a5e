// SHA-256 (FIPS 180-4) of two streams at once. Within one stream, SHA instructions wait for each
// other. A second stream fills these gaps, so a core hashes nearly twice the bytes in the same
// time. Without SHA instructions, OpenSSL hashes one stream after the other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/format/digest.h"

namespace lockstep::checkpoint {

enum class Sha256Path : uint8_t { fastest, openssl };

// Two hashes being computed. Not thread-safe. Can be moved, not copied.
class Sha256Pair {
 public:
  explicit Sha256Pair(Sha256Path path = Sha256Path::fastest);

  // Adds bytes to both hashes; either may get none. Only bytes that both have are fast; the rest of
  // the longer one is hashed separately.
  void update(const void* first, size_t first_bytes, const void* second, size_t second_bytes);
  // Returns 64 lower-case hex digits for each and ends the hashes: no update() after it.
  std::array<std::string, 2> hex();

  // Whether this processor has the instructions.
  static bool has_instructions();

 private:
  static constexpr size_t kBlock = 64;
  struct Stream {
    std::array<uint32_t, 8> state;
    std::array<uint8_t, kBlock> begun;  // of a block that is not full yet
    size_t begun_bytes = 0;
    uint64_t bytes = 0;
  };
  // Fills the begun block and hashes it once it is full. The remaining bytes begin a new
  // block.
  static void fill_block(Stream& stream, const uint8_t*& data, size_t& bytes);
  static std::string end(Stream& stream);

  std::array<Stream, 2> streams_;
  std::vector<Sha256> openssl_;  // used instead of the streams
};

}  // namespace lockstep::checkpoint
