// This file is compiled for processors with SHA instructions. It must not instantiate anything that
// other files could share, such as templates of std.
#include "checkpoint/format/sha256_instructions.h"

#include <immintrin.h>

namespace lockstep::checkpoint {
namespace {

// FIPS 180-4, 4.2.2.
alignas(16) constexpr uint32_t kRounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// A state as the instructions need it: words a, b, e, f in one register and c, d, g, h in the
// other. Register names list words from the highest position down.
struct State {
  __m128i abef, cdgh;
};

inline __m128i load(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }

inline State load_state(const uint32_t* words) {
  const __m128i cdab = _mm_shuffle_epi32(load(words), 0xb1),
                efgh = _mm_shuffle_epi32(load(words + 4), 0x1b);
  return {_mm_alignr_epi8(cdab, efgh, 8), _mm_blend_epi16(efgh, cdab, 0xf0)};
}

inline void store_state(const State& state, uint32_t* words) {
  const __m128i feba = _mm_shuffle_epi32(state.abef, 0x1b),
                dchg = _mm_shuffle_epi32(state.cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words + 4), _mm_alignr_epi8(dchg, feba, 8));
}

// Interleaves the steps of all streams, four rounds at a time: while one stream waits for a result,
// the other one computes.
template <int kStreams>
inline void compress(uint32_t* const (&states)[kStreams], const uint8_t* (&data)[kStreams],
                     size_t blocks) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  State state[kStreams];
  for (int s = 0; s < kStreams; ++s) state[s] = load_state(states[s]);
  for (; blocks > 0; --blocks) {
    State at[kStreams];
    __m128i words[kStreams][4];  // the last 16 of the message schedule
    for (int s = 0; s < kStreams; ++s) at[s] = state[s];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i)
#pragma GCC unroll 2
      for (int s = 0; s < kStreams; ++s) {
        __m128i(&w)[4] = words[s];
        if (i < 4) {
          w[i] = _mm_shuffle_epi8(load(data[s] + 16 * i), big_endian);
        } else {
          const __m128i last = w[(i + 3) % 4], before = w[(i + 2) % 4];
          const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]),
                                            _mm_alignr_epi8(last, before, 4));
          w[i % 4] = _mm_sha256msg2_epu32(sum, last);
        }
        const __m128i two = _mm_add_epi32(w[i % 4], load(kRounds + 4 * i));
        at[s].cdgh = _mm_sha256rnds2_epu32(at[s].cdgh, at[s].abef, two);
        at[s].abef = _mm_sha256rnds2_epu32(at[s].abef, at[s].cdgh, _mm_shuffle_epi32(two, 0x0e));
      }
    for (int s = 0; s < kStreams; ++s) {
      state[s].abef = _mm_add_epi32(state[s].abef, at[s].abef);
      state[s].cdgh = _mm_add_epi32(state[s].cdgh, at[s].cdgh);
      data[s] += 64;
    }
  }
  for (int s = 0; s < kStreams; ++s) store_state(state[s], states[s]);
}

}  // namespace

void sha256_blocks(uint32_t* state, const uint8_t* data, size_t blocks) {
  uint32_t* const states[1] = {state};
  const uint8_t* from[1] = {data};
  compress(states, from, blocks);
}

void sha256_blocks_of_two(uint32_t* first, const uint8_t* first_data, uint32_t* second,
                          const uint8_t* second_data, size_t blocks) {
  uint32_t* const states[2] = {first, second};
  const uint8_t* from[2] = {first_data, second_data};
  compress(states, from, blocks);
}

}  // namespace lockstep::checkpoint
