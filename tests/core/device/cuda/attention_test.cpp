#include "core/base/log.h"
#include "core/device/cuda/attention_library.h"
#include "tests/core/device/cuda/against_cpu.h"
#include "tests/support/error_of.h"

namespace lockstep::testing {
namespace {

class CudaAttention : public CudaTest {};

struct Case {
  int64_t batch, time, heads, dim;
  bool causal = true;
  int64_t shift = 0;
  int64_t group = 1;  // query heads that share a key head

  int64_t kv_heads() const { return heads / group; }
  int64_t width() const { return (heads + 2 * kv_heads()) * dim; }
  // Where k and v begin in a row.
  int64_t keys() const { return heads * dim; }
  int64_t values() const { return (heads + kv_heads()) * dim; }
};

// q, k and v lie side by side in each row, as a fused projection leaves them.
AttentionArgs args_of(const Case& c, DType dtype, const void* q, const void* k, const void* v) {
  return {.batch = c.batch,
          .time = c.time,
          .heads = c.heads,
          .kv_heads = c.kv_heads(),
          .head_dim = c.dim,
          .dtype = dtype,
          .q = q,
          .k = k,
          .v = v,
          .stride_batch = c.time * c.width(),
          .stride_time = c.width(),
          .stride_head = c.dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(c.dim)),
          .causal = c.causal};
}

template <class T>
struct Results {
  std::vector<float> out, lse, gradients;
};

// By the kernel table, which asks the library first, or by lockstep's own kernels alone.
enum class By : uint8_t { table, tiles };

// Both passes on a device, with inputs of type T.
template <class T>
Results<T> run(const Case& c, Device device, const std::vector<T>& qkv, const std::vector<T>& dout,
               By by = By::table) {
  const int64_t rows = c.batch * c.time, inputs = rows * c.width(),
                outputs = rows * c.heads * c.dim;
  const auto place = [&](int64_t n) {
    return Tensor::full({n + c.shift}, 5.0, dtype_of<T>(), device).narrow(0, c.shift, n);
  };
  const Tensor x = place(inputs), g = place(outputs), out = place(outputs), dx = place(inputs);
  x.copy_(Tensor::from(qkv, {inputs}));
  g.copy_(Tensor::from(dout, {outputs}));
  const Tensor lse = Tensor::full({c.batch * c.heads * c.time}, 5.0, DType::f32, device);
  T *p = x.data<T>(), *d = dx.data<T>();
  const AttentionArgs args = args_of(c, dtype_of<T>(), p, p + c.keys(), p + c.values());
  const Queue& q = current_queue(device);
  T* dk = d + c.keys();
  T* dv = d + c.values();
  if (by == By::table) {
    kernels(device).attention(q, args, out.raw(), lse.data<float>());
    kernels(device).attention_backward(q, args, out.raw(), lse.data<float>(), g.raw(), d, dk, dv);
  } else {
    cuda::tiled_attention(q, args, out.raw(), lse.data<float>());
    cuda::tiled_attention_backward(q, args, out.raw(), lse.data<float>(), g.raw(), d, dk, dv);
  }
  return {out.to_vector<float>(), lse.to_vector<float>(), dx.to_vector<float>()};
}

void expect_close(const std::vector<float>& got, const std::vector<float>& want, double tolerance,
                  const char* what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], tolerance * std::max(1.0f, std::abs(want[i])))
        << what << ", element " << i << " of " << got.size();
}

// The CPU computes in f32 from the same inputs: its own kernels for bf16 round the weights.
template <class T>
void check_attention(const Case& c, By by) {
  SCOPED_TRACE(str(c.batch, "x", c.time, "x", c.heads, "/", c.group, "x", c.dim,
                   c.causal ? " causal " : " ", dtype_of<T>()));
  const int64_t rows = c.batch * c.time;
  const auto qkv = random<T>(rows * c.width(), 1, -2, 2),
             dout = random<T>(rows * c.heads * c.dim, 2);
  const auto got = run<T>(c, kCuda, qkv, dout, by);
  const auto want = run<float>(c, kCpu, std::vector<float>(qkv.begin(), qkv.end()),
                               std::vector<float>(dout.begin(), dout.end()));
  const bool exact = std::is_same_v<T, float>;
  // f16 rounds eight times as finely.
  const double finer = std::is_same_v<T, Float16> ? 8 : 1;
  expect_close(got.out, want.out, exact ? 3e-6 : 1.0 / 256 / finer, "out");
  expect_close(got.lse, want.lse, 3e-6, "lse");
  expect_close(got.gradients, want.gradients, exact ? 2e-5 : 1.0 / 64 / finer, "gradients");
}

// Around one tile of queries and keys, and around the columns of each kernel's head sizes.
const Case kCases[] = {{0, 3, 2, 4},
                       {1, 1, 1, 1},
                       {1, 3, 2, 5},
                       {2, 64, 1, 16},
                       {1, 65, 2, 33},
                       {1, 130, 1, 64},
                       {1, 70, 1, 100},
                       {1, 66, 1, 128},
                       {1, 40, 2, 192},
                       {1, 70, 1, 256},
                       {2, 100, 2, 8, false},
                       {1, 129, 1, 65, false},
                       {1, 70, 3, 32, true, 1},
                       {1, 30, 1, 64, true, 2},
                       {2, 70, 4, 16, true, 0, 2},
                       {1, 66, 6, 80, true, 0, 6},
                       {1, 40, 4, 8, false, 0, 2}};

TEST_F(CudaAttention, OfFloats) {
  for (const Case& c : kCases) check_attention<float>(c, By::table);
}

TEST_F(CudaAttention, OfBf16) {
  for (const Case& c : kCases) check_attention<BFloat16>(c, By::table);
}

TEST_F(CudaAttention, TilesOfBf16) {
  for (const Case& c : kCases) check_attention<BFloat16>(c, By::tiles);
}

TEST_F(CudaAttention, OfF16) {
  for (const Case& c : kCases) check_attention<Float16>(c, By::table);
}

TEST_F(CudaAttention, TilesOfF16) {
  for (const Case& c : kCases) check_attention<Float16>(c, By::tiles);
}

// Lines of the log that f() leaves.
template <class F>
std::vector<std::string> lines_of(const F& f) {
  std::vector<std::string> lines;
  log::set_sink([&](std::string_view line) { lines.emplace_back(line); });
  f();
  log::set_sink({});
  return lines;
}

TEST_F(CudaAttention, SaysOnceWhyTheLibraryDoesNotCompute) {
  const Case odd{1, 9, 1, 12}, shifted{1, 9, 1, 24, true, 1}, wide{1, 9, 1, 136};
  for (const auto& [c, reason] : {std::pair(odd, "multiples of 8"), std::pair(shifted, "aligned"),
                                  std::pair(wide, "no engine for this head size")}) {
    const auto lines = lines_of([&, c = c] {
      for (int repeat = 0; repeat < 2; ++repeat) check_attention<BFloat16>(c, By::table);
    });
    const size_t passes = c.dim == wide.dim ? 1 : 2;  // its forward pass has an engine
    ASSERT_EQ(lines.size(), passes);
    EXPECT_NE(lines.back().find("attention's backward pass of bf16[1, 9, 1, "), std::string::npos);
    EXPECT_NE(lines.back().find(reason), std::string::npos) << lines.back();
  }
  EXPECT_TRUE(lines_of([] { check_attention<BFloat16>({1, 9, 1, 16}, By::table); }).empty());
  EXPECT_TRUE(lines_of([] { check_attention<float>({1, 9, 1, 12}, By::table); }).empty());
}

// What `lockstep plan` states is what the passes take.
TEST_F(CudaAttention, MemoryThatThePassesTake) {
  const auto check_memory = [](const Case& c, auto zero) {
    using T = decltype(zero);
    const AttentionArgs args = args_of(c, dtype_of<T>(), nullptr, nullptr, nullptr);
    const cuda::AttentionMemory stated = cuda::attention_memory(kCuda.index, args);
    const auto qkv = random<T>(c.batch * c.time * c.width(), 1),
               dout = random<T>(c.batch * c.time * c.heads * c.dim, 2);
    Allocator& memory = allocator(kCuda);
    memory.reset_peak();
    run<T>(c, kCuda, qkv, dout);
    const auto taken = memory.stats().peak_bytes[static_cast<size_t>(MemoryCategory::buffers)];
    EXPECT_EQ(taken, std::max(stated.forward, stated.backward));
  };
  check_memory({1, 70, 2, 16}, BFloat16{});
  check_memory({1, 70, 2, 12}, BFloat16{});
  check_memory({1, 70, 2, 16}, float{});
}

// A query does not see what comes after it, and its bits do not depend on how much that is.
TEST_F(CudaAttention, TheFutureChangesNothing) {
  const Case longer{1, 150, 1, 16}, shorter{1, 80, 1, 16};
  const int64_t width = 16;
  const auto qkv = random<float>(150 * 3 * width, 1), dout = random<float>(150 * width, 2);
  const auto all = run<float>(longer, kCuda, qkv, dout);
  const auto some = run<float>(shorter, kCuda, {qkv.begin(), qkv.begin() + 80 * 3 * width},
                               {dout.begin(), dout.begin() + 80 * width});
  EXPECT_TRUE(std::equal(some.out.begin(), some.out.end(), all.out.begin()));
  EXPECT_TRUE(std::equal(some.lse.begin(), some.lse.end(), all.lse.begin()));
}

// Scores of such a size overflow an exponential without its maximum.
TEST_F(CudaAttention, LargeScores) {
  const Case c{1, 70, 1, 16};
  const auto qkv = random<float>(70 * 3 * 16, 1, -60, 60), dout = random<float>(70 * 16, 2);
  const auto got = run<float>(c, kCuda, qkv, dout), want = run<float>(c, kCpu, qkv, dout);
  expect_close(got.out, want.out, 1e-3, "out");
  expect_close(got.lse, want.lse, 1e-6, "lse");
}

TEST_F(CudaAttention, WhatItDoesNotTake) {
  const Kernels& k = kernels(kCuda);
  const Queue& q = current_queue(kCuda);
  const auto run_of = [&](int64_t dim, DType dtype) {
    return test::error_of([&] {
      k.attention(q, args_of({1, 1, 1, dim}, dtype, nullptr, nullptr, nullptr), nullptr, nullptr);
    });
  };
  EXPECT_EQ(run_of(257, DType::bf16),
            "[attention] expected a head size of at most 256 on a CUDA device, got 257");
  EXPECT_EQ(run_of(60, DType::i32), "[attention] expected f32, bf16 or f16, got i32");
}

}  // namespace
}  // namespace lockstep::testing
