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
  if (!args.bias && !args.rounded_bias) return;
  const StridedView c{args.c, args.c_dtype, {args.m, args.n}, {args.ldc, 1}};
  const auto add = [&](const void* bias) {
    binary(queue, BinaryOp::add, c, c,
           {const_cast<void*>(bias), args.c_dtype, {args.m, args.n}, {0, 1}});
  };
  if (args.rounded_bias) return add(args.rounded_bias);
  const Workspace converted(queue, static_cast<size_t>(args.n * size_of(args.c_dtype)));
  copy(queue, vector(converted.as<void>(), args.c_dtype, args.n),
       vector(args.bias, DType::f32, args.n));
  add(converted.as<void>());
}

// The library's sums overwrite, so sums that are added to others are made aside. Where they go may
// not be aligned as it wants. Returns false if the library does not sum.
bool multiply_with_sums(const Queue& queue, Product product, const LinearGradientsArgs& args) {
  constexpr uintptr_t kAlignment = 16;
  if (!args.accumulate_db && reinterpret_cast<uintptr_t>(args.db) % kAlignment == 0) {
    product.sums = args.db;
    return multiply(queue, product);
  }
  const Workspace aside(queue, static_cast<size_t>(args.n) * sizeof(float));
  product.sums = aside.as<float>();
  if (!multiply(queue, product)) return false;
  axpby(queue, DType::f32, args.n, 1.0f, product.sums, args.accumulate_db ? 1.0f : 0.0f, args.db);
  return true;
}

}  // namespace

std::string text_of(const Product& product) {
  const GemmArgs& a = product.args;
  const auto matrix = [](const GemmOperand& x, int64_t rows, int64_t columns) {
    return str(x.transposed ? "transposed " : "", "[", rows, ", ", columns, "] of rows ", x.ld);
  };
  return str("product of ", a.a.dtype, " ", matrix(a.a, a.m, a.k), " and ", matrix(a.b, a.k, a.n),
             " to ", a.c_dtype, " of rows ", a.ldc, a.accumulate ? ", added" : "",
             product.bias ? ", bias" : "", product.sums ? ", sums of rows" : "");
}

void gemm(const Queue& queue, const GemmArgs& args) {
  check(args.a.dtype == args.b.dtype && is_floating(args.a.dtype),
        "[gemm] expected matrices of f32, bf16 or f16, both alike, got ", args.a.dtype, " and ",
        args.b.dtype);
  if (args.m == 0 || args.n == 0) return;
  if (args.k == 0) {
    clear(queue, args);
    add_bias(queue, args);
    return;
  }
  Product product{args, args.rounded_bias ? args.rounded_bias : args.bias};
  product.args.bias = nullptr;
  product.args.rounded_bias = nullptr;
  if (!args.bias || args.c_dtype == DType::f32) {
    multiply(queue, product);
    return;
  }
  // cuBLASLt takes a bias of the result's dtype only.
  const Workspace converted(queue, static_cast<size_t>(args.n * size_of(args.c_dtype)));
  copy(queue, vector(converted.as<void>(), args.c_dtype, args.n),
       vector(args.bias, DType::f32, args.n));
  product.bias = converted.as<void>();
  multiply(queue, product);
}

void linear_gradients(const Queue& queue, const LinearGradientsArgs& args) {
  GemmArgs product{};
  product.m = args.n, product.n = args.m, product.k = args.rows;
  product.a = {args.dy, args.dtype, args.n, true};
  product.b = {args.x, args.dtype, args.m, false};
  product.c = args.dw, product.c_dtype = DType::f32, product.ldc = args.m;
  product.accumulate = args.accumulate_dw;
  const bool empty = args.n == 0 || args.m == 0 || args.rows == 0;
  if (!empty && multiply_with_sums(queue, {product}, args)) return;
  sum_rows(queue, args.dtype, args.rows, args.n, args.dy, args.db, args.accumulate_db);
  gemm(queue, product);
}

}  // namespace lockstep::cuda
