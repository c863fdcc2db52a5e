// oneDNN's matrix products at the same shapes, to compare with ours: dnnl_sgemm, and the matmul
// primitive for bf16 (operands, and results except for the gradients of weights). Built if oneDNN
// is installed.
#include <dnnl.hpp>

#include "bench/measure.h"

namespace lockstep::bench {
namespace {

void gemm_onednn_f32(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), depth = state.range(2);
  const bool ta = state.range(3), tb = state.range(4);
  const auto a = data(m * depth), b = data(depth * n);
  std::vector<float> c(static_cast<size_t>(m * n));
  for (auto _ : state)
    dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, depth, 1.0f, a.data(), ta ? m : depth,
               b.data(), tb ? depth : n, 0.0f, c.data(), n);
  report_rate(state, 2.0 * static_cast<double>(m * n * depth), DType::f32);
}

dnnl::memory::desc matrix(int64_t rows, int64_t columns, bool transposed,
                          dnnl::memory::data_type type) {
  const auto strides = transposed ? dnnl::memory::dims{1, rows} : dnnl::memory::dims{columns, 1};
  return {{rows, columns}, type, strides};
}

void gemm_onednn_bf16(benchmark::State& state) {
  using Type = dnnl::memory::data_type;
  const int64_t m = state.range(0), n = state.range(1), depth = state.range(2);
  const bool ta = state.range(3), tb = state.range(4);
  const auto a32 = data(m * depth), b32 = data(depth * n);
  std::vector<BFloat16> a(a32.begin(), a32.end()), b(b32.begin(), b32.end());
  std::vector<float> c(static_cast<size_t>(m * n));
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const auto a_desc = matrix(m, depth, ta, Type::bf16), b_desc = matrix(depth, n, tb, Type::bf16),
             c_desc = matrix(m, n, false, ta ? Type::f32 : Type::bf16);
  try {
    const dnnl::matmul product({{a_desc, b_desc, c_desc}, engine});
    dnnl::memory left(a_desc, engine, a.data()), right(b_desc, engine, b.data()),
        out(c_desc, engine, c.data());
    for (auto _ : state) {
      product.execute(stream,
                      {{DNNL_ARG_SRC, left}, {DNNL_ARG_WEIGHTS, right}, {DNNL_ARG_DST, out}});
      stream.wait();
    }
    report_rate(state, 2.0 * static_cast<double>(m * n * depth), DType::bf16);
  } catch (const dnnl::error& error) {
    state.SkipWithError(error.what());
  }
}

BENCHMARK(gemm_onednn_f32)->Apply(step_shapes);
BENCHMARK(gemm_onednn_bf16)->Apply(step_shapes);

}  // namespace
}  // namespace lockstep::bench
