// Products of the simulated device come from the CPU's kernels: the simulation is about order and
// memory, and cuBLASLt's own bits cannot be had without a GPU.
#include "core/device/cuda/products.h"

#include <vector>

#include "core/base/half.h"
#include "core/device/cuda/choices.h"
#include "core/device/cuda/sim/launch.h"
#include "core/device/cuda/stream.h"

namespace lockstep::cuda {
namespace {

std::vector<float> floats_of(const void* from, int64_t count) {
  const auto* values = static_cast<const Float16*>(from);
  return {values, values + count};
}

// The elements from a matrix's first to its last.
int64_t extent(int64_t rows, int64_t columns, int64_t ld) { return (rows - 1) * ld + columns; }

// The CPU has no products of f16: they are computed from floats of the same values.
void multiply_halves(GemmArgs args) {
  const auto operand = [](const GemmOperand& x, int64_t rows, int64_t columns) {
    return x.transposed ? floats_of(x.data, extent(columns, rows, x.ld))
                        : floats_of(x.data, extent(rows, columns, x.ld));
  };
  const std::vector<float> a = operand(args.a, args.m, args.k), b = operand(args.b, args.k, args.n);
  args.a = {a.data(), DType::f32, args.a.ld, args.a.transposed};
  args.b = {b.data(), DType::f32, args.b.ld, args.b.transposed};
  if (args.c_dtype == DType::f32) return kernels(kCpu).gemm(current_queue(kCpu), args);
  auto* to = static_cast<Float16*>(args.c);
  std::vector<float> c(static_cast<size_t>(args.m * args.n));
  const int64_t ld = args.ldc;
  args.c = c.data();
  args.c_dtype = DType::f32;
  args.ldc = args.n;
  kernels(kCpu).gemm(current_queue(kCpu), args);
  for (int64_t i = 0; i < args.m; ++i)
    for (int64_t j = 0; j < args.n; ++j)
      to[i * ld + j] = Float16(c[static_cast<size_t>(i * args.n + j)]);
}

// The sums of op(A)'s rows, where A is stored [K, M].
void add_rows(const Product& product) {
  const GemmArgs& args = product.args;
  const auto sum = [&](DType dtype, const void* a) {
    kernels(kCpu).sum_rows(current_queue(kCpu), dtype, args.k, args.m, a, product.sums, false);
  };
  if (args.a.dtype != DType::f16) return sum(args.a.dtype, args.a.data);
  sum(DType::f32, floats_of(args.a.data, args.k * args.m).data());
}

}  // namespace

void load_products() {}

bool multiply(const Queue& queue, const Product& product) {
  // As a library that has no algorithm for some shapes.
  if (product.sums && product.args.n % 2 != 0) return false;
  record_choice(text_of(product), "the CPU's kernels");
  sim::enqueue("gemm", stream_of(queue), [product] {
    GemmArgs args = product.args;
    if (product.sums) add_rows(product);
    std::vector<float> bias;
    if (product.bias && args.c_dtype == DType::bf16) {
      const auto* from = static_cast<const BFloat16*>(product.bias);
      bias.assign(from, from + args.n);
      args.bias = bias.data();
    } else if (product.bias && args.c_dtype == DType::f16) {
      bias = floats_of(product.bias, args.n);
      args.bias = bias.data();
    } else {
      args.bias = static_cast<const float*>(product.bias);
    }
    if (args.a.dtype == DType::f16) return multiply_halves(args);
    kernels(kCpu).gemm(current_queue(kCpu), args);
  });
  return true;
}

}  // namespace lockstep::cuda
