// Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC'11), implemented by Random123. A number depends only on its key and counter. So
// every rank gets the same number, in any order, for any part of a tensor.
#pragma once

#include <array>
#include <cstdint>

#include <Random123/philox.h>

#include "core/base/half.h"

namespace lockstep {

// Names one stream of random numbers. It never contains a rank: results would then depend on the
// world size.
struct RandomKey {
  uint64_t seed = 0;   // of the run
  uint32_t step = 0;   // 0 for initialisation
  uint32_t micro = 0;  // index of the micro-batch within the step
  uint32_t site = 0;   // which consumer: a parameter, a dropout layer, the data order
  // The step in memory of the device that draws. There it takes the place of `step`, so that work
  // which is recorded once draws anew in each step. Null on a CPU.
  const int64_t* device_step = nullptr;
};

// The four 32-bit numbers at position `index` of the stream.
LOCKSTEP_HOST_DEVICE inline std::array<uint32_t, 4> philox(const RandomKey& key, uint32_t index) {
  const r123::Philox4x32::ctr_type counter{{index, key.site, key.micro, key.step}};
  const r123::Philox4x32::key_type k{
      {static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)}};
  const auto out = r123::Philox4x32()(counter, k);
  return {out[0], out[1], out[2], out[3]};
}

// [0, 1), 24 bits.
LOCKSTEP_HOST_DEVICE inline float uniform_from_bits(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

}  // namespace lockstep
