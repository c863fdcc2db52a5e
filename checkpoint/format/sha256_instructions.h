// SHA-256 of whole blocks with the processor's SHA instructions (x86 SHA extensions, Intel's
// manual, volume 2: SHA256RNDS2, SHA256MSG1, SHA256MSG2). Call only on processors that have them:
// Sha256Pair::has_instructions().
#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep::checkpoint {

// Adds `blocks` blocks of 64 bytes to a state of 8 words, a to h in FIPS 180-4.
void sha256_blocks(uint32_t* state, const uint8_t* data, size_t blocks);
// The same for two states with separate data, in about the time of one.
void sha256_blocks_of_two(uint32_t* first, const uint8_t* first_data, uint32_t* second,
                          const uint8_t* second_data, size_t blocks);

}  // namespace lockstep::checkpoint
