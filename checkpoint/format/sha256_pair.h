// SHA-256 (FIPS 180-4) of two streams at once. The processor's SHA instructions wait for each other
// within a stream; those of a second one fill the gaps, so that a core hashes nearly twice the
// bytes in the same time. Without these instructions: OpenSSL, one after another.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/format/digest.h"

namespace lockstep::checkpoint {

enum class Sha256Path : uint8_t { fastest, openssl };

// Two hashes under way. Not thread-safe; moves, but does not copy.
class Sha256Pair {
 public:
  explicit Sha256Pair(Sha256Path path = Sha256Path::fastest);

  // Adds bytes to both; either may have none. Together they are fast as far as they are of one
  // size: what one has more is hashed alone.
  void update(const void* first, size_t first_bytes, const void* second, size_t second_bytes);
  // 64 lower-case hex digits each. Ends the hashes: no update() after it.
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
  // Fills the begun block up, and hashes it once it is full; what is left of the bytes begins a
  // block.
  static void fill_block(Stream& stream, const uint8_t*& data, size_t& bytes);
  static std::string end(Stream& stream);

  std::array<Stream, 2> streams_;
  std::vector<Sha256> openssl_;  // in place of the streams
};

}  // namespace lockstep::checkpoint
