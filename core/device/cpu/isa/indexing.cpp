#include "core/device/cpu/isa/isa.h"
#include "core/device/cpu/pieces.h"
#include "core/device/cpu/simd.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr int64_t kColumns = 128;  // columns of the table per piece of the backward pass

template <typename T>
void gather(int64_t rows, int64_t n, const float* table, const int32_t* ids, T* y) {
  for_ranges(rows, kElementwiseGrain / (n + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for_vectors(n, [&](int64_t i, int64_t lanes) {
        store_at(y + r * n + i, load_at(table + ids[r] * n + i, lanes), lanes);
      });
  });
}

// Pieces are cut along the columns, so that each processes the rows in order.
template <typename T>
void scatter_add(int64_t rows, int64_t n, int64_t vocab, const int32_t* ids, const T* dy,
                 float* dtable, bool accumulate) {
  for_ranges(n, kColumns, [&](int64_t begin, int64_t end) {
    const int64_t width = end - begin;
    if (!accumulate)
      for (int64_t v = 0; v < vocab; ++v)
        memset(dtable + v * n + begin, 0, static_cast<size_t>(width) * sizeof(float));
    for (int64_t r = 0; r < rows; ++r) {
      float* out = dtable + ids[r] * n + begin;
      for_vectors(width, [&](int64_t i, int64_t lanes) {
        store_at(out + i, load_at(out + i, lanes) + load_at(dy + r * n + begin + i, lanes), lanes);
      });
    }
  });
}

}  // namespace

void embedding(DType dtype, int64_t rows, int64_t n, int64_t, const float* table,
               const int32_t* ids, void* y) {
  if (dtype == DType::f32) return gather(rows, n, table, ids, static_cast<float*>(y));
  if (dtype != DType::bf16) unsupported_dtype("embedding", dtype);
  gather(rows, n, table, ids, static_cast<Bf16*>(y));
}

void embedding_backward(DType dtype, int64_t rows, int64_t n, int64_t vocab, const int32_t* ids,
                        const void* dy, float* dtable, bool accumulate) {
  if (dtype == DType::f32)
    return scatter_add(rows, n, vocab, ids, static_cast<const float*>(dy), dtable, accumulate);
  if (dtype != DType::bf16) unsupported_dtype("embedding_backward", dtype);
  scatter_add(rows, n, vocab, ids, static_cast<const Bf16*>(dy), dtable, accumulate);
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
