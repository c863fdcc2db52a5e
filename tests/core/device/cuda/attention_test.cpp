#include "tests/core/device/cuda/against_cpu.h"
#include "tests/support/error_of.h"

namespace lockstep::testing {
namespace {

class CudaAttention : public CudaTest {};

struct Case {
  int64_t batch, time, heads, dim;
  bool causal = true;
  int64_t shift = 0;
};

// q, k and v lie side by side in one [B, T, 3, H, D] tensor, as a fused projection leaves them.
AttentionArgs args_of(const Case& c, DType dtype, const void* q, const void* k, const void* v) {
  const int64_t width = c.heads * c.dim;
  return {c.batch,   c.time, c.heads,
          c.dim,     dtype,  q,
          k,         v,      c.time * 3 * width,
          3 * width, c.dim,  1.0f / std::sqrt(static_cast<float>(c.dim)),
          c.causal};
}

template <class T>
struct Results {
  std::vector<float> out, lse, gradients;
};

// Both passes on a device, with inputs of type T.
template <class T>
Results<T> run(const Case& c, Device device, const std::vector<T>& qkv,
               const std::vector<T>& dout) {
  const int64_t width = c.heads * c.dim, numbers = c.batch * c.time * width;
  const auto place = [&](int64_t n) {
    return Tensor::full({n + c.shift}, 5.0, dtype_of<T>(), device).narrow(0, c.shift, n);
  };
  const Tensor x = place(3 * numbers), g = place(numbers), out = place(numbers),
               dx = place(3 * numbers);
  x.copy_(Tensor::from(qkv, {3 * numbers}));
  g.copy_(Tensor::from(dout, {numbers}));
  const Tensor lse = Tensor::full({c.batch * c.heads * c.time}, 5.0, DType::f32, device);
  T *p = x.data<T>(), *d = dx.data<T>();
  const AttentionArgs args = args_of(c, dtype_of<T>(), p, p + width, p + 2 * width);
  const Queue& q = current_queue(device);
  kernels(device).attention(q, args, out.raw(), lse.data<float>());
  kernels(device).attention_backward(q, args, out.raw(), lse.data<float>(), g.raw(), d, d + width,
                                     d + 2 * width);
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
void check_attention(const Case& c) {
  SCOPED_TRACE(str(c.batch, "x", c.time, "x", c.heads, "x", c.dim, c.causal ? " causal " : " ",
                   dtype_of<T>()));
  const int64_t numbers = c.batch * c.time * c.heads * c.dim;
  const auto qkv = random<T>(3 * numbers, 1, -2, 2), dout = random<T>(numbers, 2);
  const auto got = run<T>(c, kCuda, qkv, dout);
  const auto want = run<float>(c, kCpu, std::vector<float>(qkv.begin(), qkv.end()),
                               std::vector<float>(dout.begin(), dout.end()));
  const bool exact = std::is_same_v<T, float>;
  expect_close(got.out, want.out, exact ? 3e-6 : 1.0 / 256, "out");
  expect_close(got.lse, want.lse, 3e-6, "lse");
  expect_close(got.gradients, want.gradients, exact ? 2e-5 : 1.0 / 64, "gradients");
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
                       {1, 30, 1, 64, true, 2}};

TEST_F(CudaAttention, OfFloats) {
  for (const Case& c : kCases) check_attention<float>(c);
}

TEST_F(CudaAttention, OfBf16) {
  for (const Case& c : kCases) check_attention<BFloat16>(c);
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
  EXPECT_EQ(run_of(64, DType::f16), "[attention] expected f32 or bf16, got f16");
}

}  // namespace
}  // namespace lockstep::testing
