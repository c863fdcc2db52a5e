#include "core/base/error.h"
#include "core/device/cuda/entries.h"
#include "core/device/cuda/products.h"
#include "core/device/cuda/workspace.h"

namespace lockstep::cuda {
namespace {

StridedView vector(const void* data, DType dtype, int64_t n) {
  return {const_cast<void*>(data), dtype, {n}, {1}};
}

void clear(const Queue& queue, const GemmArgs& args) {
  if (!args.accumulate) fill(queue, {args.c, args.c_dtype, {args.m, args.n}, {args.ldc, 1}}, 0.0);
}

// C += bias for a product of no terms.
void add_bias(const Queue& queue, const GemmArgs& args) {
  const StridedView c{args.c, args.c_dtype, {args.m, args.n}, {args.ldc, 1}};
  const Workspace converted(queue, static_cast<size_t>(args.n * size_of(args.c_dtype)));
  copy(queue, vector(converted.as<void>(), args.c_dtype, args.n),
       vector(args.bias, DType::f32, args.n));
  binary(queue, BinaryOp::add, c, c,
         {converted.as<void>(), args.c_dtype, {args.m, args.n}, {0, 1}});
}

}  // namespace

std::string text_of(const Product& product) {
  const GemmArgs& a = product.args;
  const auto matrix = [](const GemmOperand& x, int64_t rows, int64_t columns) {
    return str(x.transposed ? "transposed " : "", "[", rows, ", ", columns, "] of rows ", x.ld);
  };
  return str("product of ", a.a.dtype, " ", matrix(a.a, a.m, a.k), " and ", matrix(a.b, a.k, a.n),
             " to ", a.c_dtype, " of rows ", a.ldc, a.accumulate ? ", added" : "",
             product.bias ? ", bias" : "");
}

void gemm(const Queue& queue, const GemmArgs& args) {
  check(args.a.dtype == args.b.dtype && is_floating(args.a.dtype),
        "[gemm] expected matrices of f32, bf16 or f16, both alike, got ", args.a.dtype, " and ",
        args.b.dtype);
  if (args.m == 0 || args.n == 0) return;
  if (args.k == 0) {
    clear(queue, args);
    if (args.bias) add_bias(queue, args);
    return;
  }
  Product product{args, args.bias};
  product.args.bias = nullptr;
  if (!args.bias || args.c_dtype == DType::f32) return multiply(queue, product);
  // cuBLASLt takes a bias of the result's dtype only.
  const Workspace converted(queue, static_cast<size_t>(args.n * size_of(args.c_dtype)));
  copy(queue, vector(converted.as<void>(), args.c_dtype, args.n),
       vector(args.bias, DType::f32, args.n));
  product.bias = converted.as<void>();
  multiply(queue, product);
}

}  // namespace lockstep::cuda
