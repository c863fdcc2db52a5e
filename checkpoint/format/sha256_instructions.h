// Blocks of SHA-256 by the processor's SHA instructions (the x86 SHA extensions, Intel's manual,
// volume 2: SHA256RNDS2, SHA256MSG1, SHA256MSG2). For processors that have them only:
// Sha256Pair::has_instructions().
#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep::checkpoint {

// Adds `blocks` blocks of 64 bytes to a state of 8 words, a to h as FIPS 180-4 names them.
void sha256_blocks(uint32_t* state, const uint8_t* data, size_t blocks);
// The same to two states, each of its own data, in about the time of one.
void sha256_blocks_of_two(uint32_t* first, const uint8_t* first_data, uint32_t* second,
                          const uint8_t* second_data, size_t blocks);

}  // namespace lockstep::checkpoint
