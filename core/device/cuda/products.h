// Matrix products of a CUDA device. core/device/cuda/toolkit runs them through cuBLASLt, and
// core/device/cuda/sim on the CPU's kernels.
#pragma once

#include <string>

#include "core/device/kernels.h"

namespace lockstep::cuda {

struct Product {
  GemmArgs args;               // without its bias
  const void* bias = nullptr;  // [N] of c_dtype, added to each row; or null
  // f32 [M], 16-byte aligned: becomes the sums of op(A)'s rows over k. Not beside a bias, and only
  // with an f32 C. Or null.
  float* sums = nullptr;
};

// "product of f32 [8, 16] and transposed [16, 32] to f32, bias", for the record of a run.
std::string text_of(const Product& product);

// Loads what multiply() needs, so that a missing library shows at the start. Throws
// EnvironmentError that names it.
void load_products();

// Queues the product. The algorithm depends on shapes, dtypes, alignment and device model alone.
// Throws EnvironmentError if the library is missing or refuses the product. Returns false and
// queues nothing if it refuses one with sums alone, which depends on the same.
bool multiply(const Queue& queue, const Product& product);

}  // namespace lockstep::cuda
