#include "tests/core/device/reference.h"

namespace lockstep::testing {
namespace {

struct Case {
  int64_t batch, time, heads, dim;
  bool causal = true;
  int64_t group = 1;  // query heads that share a key head

  int64_t kv_heads() const { return heads / group; }
  int64_t width() const { return (heads + 2 * kv_heads()) * dim; }
};

// q, k and v lie side by side in each row, as a fused projection leaves them.
template <typename T>
class Attention {
 public:
  explicit Attention(const Case& c) : c_(c) {
    qkv_ = random<T>(c.batch * c.time * c.width(), 1, -2.0f, 2.0f);
    dout_ = random<T>(c.batch * c.time * c.heads * c.dim, 2);
    args_ = {.batch = c.batch,
             .time = c.time,
             .heads = c.heads,
             .kv_heads = c.kv_heads(),
             .head_dim = c.dim,
             .dtype = dtype_of<T>(),
             .q = qkv_.data(),
             .k = qkv_.data() + keys_at(),
             .v = qkv_.data() + values_at(),
             .stride_batch = c.time * c.width(),
             .stride_time = c.width(),
             .stride_head = c.dim,
             .scale = 1.0f / std::sqrt(static_cast<float>(c.dim)),
             .causal = c.causal};
  }

  // out, then dq, dk, dv as they lie in memory.
  std::vector<T> run(std::vector<float>* lse_out = nullptr) const {
    std::vector<T> out(dout_.size()), grad(qkv_.size(), T(NAN));
    std::vector<float> lse(static_cast<size_t>(c_.batch * c_.heads * c_.time));
    k().attention(queue(), args_, out.data(), lse.data());
    k().attention_backward(queue(), args_, out.data(), lse.data(), dout_.data(), grad.data(),
                           grad.data() + keys_at(), grad.data() + values_at());
    out.insert(out.end(), grad.begin(), grad.end());
    if (lse_out) *lse_out = lse;
    return out;
  }

  std::vector<double> expected(std::vector<double>* lse_out) const {
    std::vector<double> out(dout_.size(), 0.0), grad(qkv_.size(), 0.0);
    for (int64_t b = 0; b < c_.batch; ++b)
      for (int64_t h = 0; h < c_.heads; ++h)
        for (int64_t t = 0; t < c_.time; ++t) one_query(b, h, t, &out, &grad, lse_out);
    out.insert(out.end(), grad.begin(), grad.end());
    return out;
  }

 private:
  // Where k and v begin in a row.
  int64_t keys_at() const { return c_.heads * c_.dim; }
  int64_t values_at() const { return (c_.heads + c_.kv_heads()) * c_.dim; }
  // Head `h` in the part of a row that begins at `part`.
  size_t at(int64_t b, int64_t t, int64_t part, int64_t h) const {
    return static_cast<size_t>((b * c_.time + t) * c_.width() + part + h * c_.dim);
  }
  double in(size_t i) const { return static_cast<float>(qkv_[i]); }

  void one_query(int64_t b, int64_t h, int64_t t, std::vector<double>* out,
                 std::vector<double>* grad, std::vector<double>* lse) const {
    const int64_t keys = c_.causal ? t + 1 : c_.time;
    const auto dim = static_cast<size_t>(c_.dim);
    const size_t q = at(b, t, 0, h),
                 o = static_cast<size_t>(((b * c_.time + t) * c_.heads + h) * c_.dim);
    std::vector<double> p(static_cast<size_t>(keys)), dp(p);
    double sum = 0.0, delta = 0.0;
    for (int64_t s = 0; s < keys; ++s) {
      double dot = 0.0;
      for (size_t d = 0; d < dim; ++d) dot += in(q + d) * in(at(b, s, keys_at(), h / c_.group) + d);
      sum += p[static_cast<size_t>(s)] = std::exp(dot * args_.scale);
    }
    lse->push_back(std::log(sum));
    for (int64_t s = 0; s < keys; ++s) {
      const auto i = static_cast<size_t>(s);
      p[i] /= sum;
      for (size_t d = 0; d < dim; ++d) {
        const double g = static_cast<float>(dout_[o + d]);
        (*out)[o + d] += p[i] * in(at(b, s, values_at(), h / c_.group) + d);
        (*grad)[at(b, s, values_at(), h / c_.group) + d] += p[i] * g;
        dp[i] += g * in(at(b, s, values_at(), h / c_.group) + d);
      }
      delta += p[i] * dp[i];
    }
    for (int64_t s = 0; s < keys; ++s) {
      const auto i = static_cast<size_t>(s);
      const double ds = p[i] * (dp[i] - delta) * args_.scale;
      for (size_t d = 0; d < dim; ++d) {
        (*grad)[q + d] += ds * in(at(b, s, keys_at(), h / c_.group) + d);
        (*grad)[at(b, s, keys_at(), h / c_.group) + d] += ds * in(q + d);
      }
    }
  }

  Case c_;
  std::vector<T> qkv_, dout_;
  AttentionArgs args_;
};

template <typename T>
void check_case(const Case& c) {
  SCOPED_TRACE(str("B ", c.batch, " T ", c.time, " H ", c.heads, "/", c.group, " D ", c.dim,
                   " causal ", c.causal, " ", dtype_of<T>()));
  const Attention<T> attention(c);
  std::vector<double> want_lse;
  std::vector<float> lse;
  const auto want = attention.expected(&want_lse);
  // The backward pass starts from the stored (rounded) output.
  expect_near(attention.run(&lse), want, std::is_same_v<T, BFloat16> ? 0.02 : 2e-5);
  expect_near(lse, want_lse, 4e-6);
}

TEST(Attention, ValuesAndGradientsForAnyShape) {
  const Case cases[] = {{1, 1, 1, 1},
                        {1, 3, 2, 5},
                        {2, 64, 1, 64},
                        {1, 65, 3, 8},
                        {1, 130, 2, 33},
                        {2, 300, 1, 16},
                        {1, 70, 1, 256},
                        {1, 40, 2, 20, false},
                        {1, 200, 1, 24, false},
                        {2, 70, 4, 16, true, 2},
                        {1, 130, 6, 5, true, 3},
                        {1, 40, 4, 8, false, 4}};
  for (const Case& c : cases) {
    check_case<float>(c);
    check_case<BFloat16>(c);
  }
}

TEST(Attention, LargeScoresDoNotOverflow) {
  const int64_t time = 100;
  std::vector<float> q(static_cast<size_t>(time), 1000.0f), v = random<float>(time, 1),
                                                            out(q.size()), lse(q.size());
  auto keys = random<float>(time, 2);
  const AttentionArgs args{1,           time,     1,    1, 1, DType::f32, q.data(),
                           keys.data(), v.data(), time, 1, 1, 1.0f,       true};
  k().attention(queue(), args, out.data(), lse.data());
  for (float x : out) EXPECT_TRUE(std::isfinite(x));
}

TEST(Attention, NumberOfThreadsDoesNotChangeTheBits) {
  const Attention<float> f32({2, 333, 3, 40});
  const Attention<BFloat16> bf16({3, 100, 2, 33});
  expect_same_bits_for_any_threads([&] { return f32.run(); });
  const Attention<float> shared({2, 70, 6, 8, true, 3});
  expect_same_bits_for_any_threads([&] { return bf16.run(); });
  expect_same_bits_for_any_threads([&] { return shared.run(); });
}

TEST(Attention, ARowDependsOnThePastOnly) {
  // The same bits whether or not the future is there: what training and generation must agree on.
  const auto qkv = random<float>(150 * 3 * 16, 1);
  const auto run = [&](int64_t time) {
    std::vector<float> out(static_cast<size_t>(time * 16)), lse(static_cast<size_t>(time));
    const AttentionArgs args{
        1,        time, 1,  1,     16,  DType::f32, qkv.data(), qkv.data() + 16, qkv.data() + 32,
        150 * 48, 48,   16, 0.25f, true};
    k().attention(queue(), args, out.data(), lse.data());
    return out;
  };
  const auto all = run(150), part = run(70);
  EXPECT_EQ(std::memcmp(all.data(), part.data(), part.size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace lockstep::testing
