// Kernels that record: they compute the same bits, and say what work they did.
#include "core/device/traced_kernels.h"

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "core/device/queue.h"
#include "core/trace/trace.h"

namespace lockstep {
namespace {

class Kept : public trace::Sink {
 public:
  void take(const trace::ThreadInfo&, std::span<const trace::Event> batch) override {
    events.insert(events.end(), batch.begin(), batch.end());
  }
  std::vector<trace::Event> events;
};

TEST(TracedKernels, NoneIsMissing) {
  std::vector<void*> entries(sizeof(Kernels) / sizeof(void*));
  std::memcpy(entries.data(), &traced_kernels(), sizeof(Kernels));
  EXPECT_THAT(entries, testing::Each(testing::Ne(nullptr)));
}

std::vector<float> product(std::vector<float> a, std::vector<float> b, int64_t m, int64_t n,
                           int64_t k) {
  std::vector<float> c(static_cast<size_t>(m * n));
  kernels(kCpu).gemm(current_queue(kCpu), {.m = m,
                                           .n = n,
                                           .k = k,
                                           .a = {a.data(), DType::f32, k, false},
                                           .b = {b.data(), DType::f32, k, true},
                                           .c = c.data(),
                                           .c_dtype = DType::f32,
                                           .ldc = n,
                                           .accumulate = false,
                                           .bias = nullptr});
  return c;
}

TEST(TracedKernels, AProductHasTheSameBitsAndSaysItsWork) {
  constexpr int64_t m = 5, n = 7, k = 11;
  std::vector<float> a(m * k), b(n * k);
  std::iota(a.begin(), a.end(), 0.5f);
  std::iota(b.begin(), b.end(), -3.25f);
  const auto plain = product(a, b, m, n, k);
  Kept kept;
  trace::start(kept);
  const auto traced = product(a, b, m, n, k);
  trace::stop();
  EXPECT_EQ(plain, traced);
  ASSERT_EQ(kept.events.size(), 1U);
  const trace::Event& event = kept.events[0];
  EXPECT_STREQ(event.name, "gemm nt");
  EXPECT_EQ(event.flops, 2 * m * n * k);
  EXPECT_EQ(event.bytes, 4 * (m * k + n * k + m * n));
  EXPECT_EQ(event.values[0], m);
  EXPECT_EQ(event.values[1], n);
  EXPECT_EQ(event.values[2], k);
  EXPECT_FALSE(event.queued);
}

TEST(TracedKernels, CausalAttentionCountsHalfOfItsScores) {
  constexpr int64_t t = 4, d = 2;
  std::vector<float> qkv(3 * t * d, 0.5f), out(t * d), lse(t);
  const AttentionArgs args{.batch = 1,
                           .time = t,
                           .heads = 1,
                           .kv_heads = 1,
                           .head_dim = d,
                           .dtype = DType::f32,
                           .q = qkv.data(),
                           .k = qkv.data() + d,
                           .v = qkv.data() + 2 * d,
                           .stride_batch = 3 * t * d,
                           .stride_time = 3 * d,
                           .stride_head = d,
                           .scale = 1.0f,
                           .causal = true};
  Kept kept;
  trace::start(kept);
  kernels(kCpu).attention(current_queue(kCpu), args, out.data(), lse.data());
  trace::stop();
  ASSERT_EQ(kept.events.size(), 1U);
  EXPECT_EQ(kept.events[0].flops, 2 * 2 * t * t * d / 2);  // two products, two operations each
  EXPECT_EQ(kept.events[0].bytes, 4 * 4 * t * d);          // q, k, v and out
}

}  // namespace
}  // namespace lockstep
