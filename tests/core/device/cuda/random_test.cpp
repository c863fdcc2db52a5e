#include "tests/core/device/cuda/against_cpu.h"
#include "tests/support/error_of.h"

namespace lockstep::testing {
namespace {

class CudaRandom : public CudaTest {};

const RandomKey kKey{.seed = 0x123456789abcdefu, .step = 3, .micro = 5, .site = 9};
const int64_t kSizes[] = {0, 1, 2, 3, 4, 5, 8, 63, 1000, 5003};
// The last one passes the end of 32 bits of the counter.
const int64_t kFirsts[] = {0, 1, 2, 3, 4, 77, 50004, (int64_t{1} << 34) - 6};

TEST_F(CudaRandom, UniformNumbersAreThePhiloxStream) {
  const Tensor y = Tensor::empty({1001}, DType::f32, kCuda);
  kernels(kCuda).uniform(current_queue(kCuda), 1001, 0.0f, 1.0f, kKey, 0, y.data<float>());
  const auto got = y.to_vector<float>();
  for (uint32_t i = 0; i < 1001; ++i)
    ASSERT_EQ(got[i], uniform_from_bits(philox(kKey, i / 4)[i % 4])) << i;
}

TEST_F(CudaRandom, UniformNumbersAreTheCpus) {
  for (int64_t n : kSizes)
    for (int64_t first : kFirsts)
      for (int64_t shift : {0, 1}) {
        SCOPED_TRACE(str("n ", n, " first ", first, " shift ", shift));
        const auto y = random_twin<float>(n, 1, -1, 1, shift),
                   z = random_twin<float>(n, 2, -1, 1, shift);
        on_both([&](const Kernels& k, const Queue& q, Device d) {
          k.uniform(q, n, 0.0f, 1.0f, kKey, first, y.on(d));
          k.uniform(q, n, -0.3f, 2.7f, kKey, first, z.on(d));
        });
        y.expect_equal();
        z.expect_equal(cpu_fuses() ? Tolerance{} : Tolerance{2e-7});
      }
}

// More counters than threads.
TEST_F(CudaRandom, LongStreams) {
  const auto y = random_twin<float>(4300001, 1);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.uniform(q, y.size(), 0.0f, 1.0f, kKey, 5, y.on(d));
  });
  y.expect_equal();
}

TEST_F(CudaRandom, NormalNumbersAreTheCpus) {
  for (int64_t n : kSizes)
    for (int64_t first : kFirsts)
      for (int64_t shift : {0, 1}) {
        SCOPED_TRACE(str("n ", n, " first ", first, " shift ", shift));
        const auto y = random_twin<float>(n, 1, -1, 1, shift), z = random_twin<float>(n, 2);
        on_both([&](const Kernels& k, const Queue& q, Device d) {
          k.normal(q, n, 0.0f, 1.0f, kKey, first, y.on(d));
          k.normal(q, n, 0.5f, 0.02f, kKey, first, z.on(d));
        });
        y.expect_equal({1e-6});
        z.expect_equal({1e-6, 0.1});
      }
}

template <class T>
void check_dropout(int64_t n, float p, int64_t shift) {
  SCOPED_TRACE(str("n ", n, " p ", p, " shift ", shift, " ", dtype_of<T>()));
  const auto x = random_twin<T>(n, 1, -1, 1, shift), y = random_twin<T>(n, 2),
             sum = random_twin<T>(n, 3);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.dropout(q, dtype_of<T>(), n, p, kKey, x.on(d), y.on(d), false);
    k.dropout(q, dtype_of<T>(), n, p, kKey, x.on(d), sum.on(d), true);
  });
  y.expect_equal();
  sum.expect_equal();
}

TEST_F(CudaRandom, DropoutMasksAreTheCpus) {
  for (int64_t n : kSizes)
    for (float p : {0.0f, 0.1f, 0.5f, 1.0f})
      for (int64_t shift : {0, 1}) {
        check_dropout<float>(n, p, shift);
        check_dropout<BFloat16>(n, p, shift);
      }
}

TEST_F(CudaRandom, WrongDtypesAreNamed) {
  EXPECT_EQ(test::error_of([&] {
              kernels(kCuda).dropout(current_queue(kCuda), DType::i64, 1, 0.5f, kKey, nullptr,
                                     nullptr, false);
            }),
            "[dropout] expected f32, bf16 or f16, got i64");
}

}  // namespace
}  // namespace lockstep::testing
