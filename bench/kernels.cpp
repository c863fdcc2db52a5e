// The kernels that take most of a training step, at the shapes of a GPT with 4 sequences of 256
// tokens and width 384. GEMM reports GFLOP/s and its share of the probed peak (onednn.cpp:
// oneDNN's). The others report the bytes that they touch per second, beside memcpy. One thread,
// unless OMP_NUM_THREADS says otherwise.
#include <cstdlib>

#include "bench/measure.h"

namespace lockstep::bench {
namespace {

void report_bytes(benchmark::State& state, int64_t bytes) {
  state.SetBytesProcessed(state.iterations() * bytes);
}

template <typename T>
void gemm(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), depth = state.range(2);
  const bool ta = state.range(3), tb = state.range(4);
  const auto a32 = data(m * depth), b32 = data(depth * n);
  const std::vector<T> a(a32.begin(), a32.end()), b(b32.begin(), b32.end());
  std::vector<float> c(static_cast<size_t>(m * n));
  const DType c_dtype = ta ? DType::f32 : dtype_of<T>();  // gradients of weights are f32
  const GemmArgs args{m,
                      n,
                      depth,
                      {a.data(), dtype_of<T>(), ta ? m : depth, ta},
                      {b.data(), dtype_of<T>(), tb ? depth : n, tb},
                      c.data(),
                      c_dtype,
                      n,
                      false,
                      nullptr,
                      nullptr};
  for (auto _ : state) k().gemm(queue(), args);
  report_rate(state, 2.0 * static_cast<double>(m * n * depth), dtype_of<T>());
}

BENCHMARK(gemm<float>)->Apply(step_shapes);
BENCHMARK(gemm<BFloat16>)->Apply(step_shapes);

struct AttentionData {
  static constexpr int64_t kBatch = 4, kTime = 256, kHeads = 6, kHeadDim = 64;
  std::vector<float> qkv = data(kBatch * kTime * 3 * kDim), out = data(kBatch * kTime * kDim),
                     lse = data(kBatch * kHeads * kTime), grad = qkv;
  AttentionArgs args{kBatch,
                     kTime,
                     kHeads,
                     kHeads,
                     kHeadDim,
                     DType::f32,
                     qkv.data(),
                     qkv.data() + kDim,
                     qkv.data() + 2 * kDim,
                     kTime * 3 * kDim,
                     3 * kDim,
                     kHeadDim,
                     0.125f,
                     true};
  // For one product of the causal half.
  static constexpr double kFlops = 2.0 * kBatch * kHeads * kTime * kTime / 2 * kHeadDim;
};

void attention(benchmark::State& state) {
  AttentionData d;
  for (auto _ : state) k().attention(queue(), d.args, d.out.data(), d.lse.data());
  report_rate(state, 2 * AttentionData::kFlops, DType::f32);
}
BENCHMARK(attention);

void attention_backward(benchmark::State& state) {
  AttentionData d;
  k().attention(queue(), d.args, d.out.data(), d.lse.data());
  for (auto _ : state)
    k().attention_backward(queue(), d.args, d.out.data(), d.lse.data(), d.out.data(), d.grad.data(),
                           d.grad.data() + kDim, d.grad.data() + 2 * kDim);
  report_rate(state, 5 * AttentionData::kFlops, DType::f32);
}
BENCHMARK(attention_backward);

constexpr int64_t kHidden = kTokens * 4 * kDim;

void copy(benchmark::State& state) {
  const auto x = data(kHidden);
  std::vector<float> y(x.size());
  for (auto _ : state) k().copy_bytes(queue(), y.data(), x.data(), kHidden * 4);
  report_bytes(state, 2 * kHidden * 4);
}
BENCHMARK(copy);

void gelu(benchmark::State& state) {
  const auto x = data(kHidden);
  std::vector<float> y(x.size());
  for (auto _ : state) k().unary(queue(), UnaryOp::gelu, DType::f32, kHidden, x.data(), y.data());
  report_bytes(state, 2 * kHidden * 4);
}
BENCHMARK(gelu);

void gelu_backward(benchmark::State& state) {
  const auto x = data(kHidden), dy = data(kHidden);
  std::vector<float> dx(x.size());
  for (auto _ : state)
    k().unary_backward(queue(), UnaryOp::gelu, DType::f32, kHidden, x.data(), dy.data(), dx.data(),
                       false);
  report_bytes(state, 3 * kHidden * 4);
}
BENCHMARK(gelu_backward);

void dropout(benchmark::State& state) {
  const auto x = data(kHidden);
  std::vector<float> y(x.size());
  for (auto _ : state)
    k().dropout(queue(), DType::f32, kHidden, 0.1f, {.seed = 1}, x.data(), y.data(), false);
  report_bytes(state, 2 * kHidden * 4);
}
BENCHMARK(dropout);

void layer_norm(benchmark::State& state) {
  const auto x = data(kTokens * kDim), w = data(kDim);
  std::vector<float> y(x.size()), mean(kTokens), rstd(kTokens);
  for (auto _ : state)
    k().layer_norm(queue(), DType::f32, kTokens, kDim, 1e-5f, x.data(), w.data(), w.data(),
                   y.data(), mean.data(), rstd.data());
  report_bytes(state, 2 * kTokens * kDim * 4);
}
BENCHMARK(layer_norm);

void layer_norm_backward(benchmark::State& state) {
  const auto x = data(kTokens * kDim), w = data(kDim), mean = data(kTokens);
  auto rstd = data(kTokens);
  std::vector<float> dx(x.size()), dw(kDim), db(kDim);
  for (auto _ : state)
    k().layer_norm_backward(queue(), DType::f32, kTokens, kDim, x.data(), w.data(), mean.data(),
                            rstd.data(), x.data(), dx.data(), false, dw.data(), true, db.data(),
                            true);
  report_bytes(state, 3 * kTokens * kDim * 4);
}
BENCHMARK(layer_norm_backward);

void sum_rows(benchmark::State& state) {
  const auto dy = data(kHidden);
  std::vector<float> db(4 * kDim);
  for (auto _ : state)
    k().sum_rows(queue(), DType::f32, kTokens, 4 * kDim, dy.data(), db.data(), true);
  report_bytes(state, kHidden * 4);
}
BENCHMARK(sum_rows);

constexpr int64_t kParameters = 10'844'160;

void square_sums(benchmark::State& state) {
  const auto x = data(kParameters);
  std::vector<double> sums(kParameters / kSquareBlock + 1);
  for (auto _ : state) k().square_sums(queue(), DType::f32, kParameters, x.data(), sums.data());
  report_bytes(state, kParameters * 4);
}
BENCHMARK(square_sums);

void adamw(benchmark::State& state) {
  auto p = data(kParameters), m = data(kParameters), v = std::vector<float>(kParameters, 0.1f);
  const auto g = data(kParameters);
  for (auto _ : state)
    k().adamw(queue(), {kParameters, p.data(), g.data(), m.data(), v.data(), 1e-3f, 0.9f, 0.95f,
                        1e-8f, 0.1f, true, 10, 1.0f});
  report_bytes(state, 7 * kParameters * 4);
}
BENCHMARK(adamw);

}  // namespace
}  // namespace lockstep::bench

int main(int argc, char** argv) {
  if (!std::getenv("OMP_NUM_THREADS")) lockstep::set_num_threads(1);
  benchmark::AddCustomContext("instruction set", lockstep::cpu_instruction_set());
  benchmark::AddCustomContext("peak GFLOP/s of a core, f32",
                              std::to_string(lockstep::probe_peak_gflops(lockstep::DType::f32)));
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
