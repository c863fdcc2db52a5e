#include "tests/core/device/cuda/against_cpu.h"

namespace lockstep::testing {
namespace {

class CudaIndexing : public CudaTest {};

struct Sizes {
  int64_t rows, n, vocab;
};

// Around the keys of one sorted tile, and with runs that have no partner to merge with.
const Sizes kSizes[] = {{0, 4, 3},     {1, 1, 1},      {5, 0, 3},    {3, 7, 2},      {40, 33, 5},
                        {64, 128, 9},  {100, 130, 40}, {1024, 3, 7}, {1025, 5, 1},   {2049, 4, 600},
                        {3000, 8, 50}, {5003, 2, 31},  {70, 768, 9}, {9, 1030, 5000}};

std::vector<int32_t> ids_of(const Sizes& s) {
  std::vector<int32_t> ids;
  for (float v : random<float>(s.rows, 1, 0.0f, static_cast<float>(s.vocab)))
    ids.push_back(static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(v), s.vocab - 1)));
  return ids;
}

template <class T>
void check_embedding(const Sizes& s, int64_t shift = 0) {
  SCOPED_TRACE(str(s.rows, "x", s.n, " of ", s.vocab, " shift ", shift, " ", dtype_of<T>()));
  const Twin<int32_t> ids(ids_of(s));
  const auto table = random_twin<float>(s.vocab * s.n, 2, -1, 1, shift);
  const auto y = random_twin<T>(s.rows * s.n, 3, -1, 1, shift);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.embedding(q, dtype_of<T>(), s.rows, s.n, s.vocab, table.on(d), ids.on(d), y.on(d));
  });
  y.expect_equal();
}

// Rows of one id are added in row order, as the CPU adds them, so the bits are equal.
template <class T>
void check_backward(const Sizes& s, bool accumulate, int64_t shift = 0) {
  SCOPED_TRACE(str(s.rows, "x", s.n, " of ", s.vocab, " shift ", shift, " ", dtype_of<T>()));
  const Twin<int32_t> ids(ids_of(s));
  const auto dy = random_twin<T>(s.rows * s.n, 2, -1, 1, shift);
  const auto dtable = random_twin<float>(s.vocab * s.n, 3, -1, 1, shift);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.embedding_backward(q, dtype_of<T>(), s.rows, s.n, s.vocab, ids.on(d), dy.on(d), dtable.on(d),
                         accumulate);
  });
  dtable.expect_equal();
}

TEST_F(CudaIndexing, Embedding) {
  for (const Sizes& s : kSizes) {
    check_embedding<float>(s);
    check_embedding<BFloat16>(s);
  }
  check_embedding<float>({9, 64, 5}, 1);
  check_embedding<BFloat16>({9, 64, 5}, 3);
}

TEST_F(CudaIndexing, EmbeddingBackward) {
  for (const Sizes& s : kSizes)
    for (bool accumulate : {false, true}) {
      check_backward<float>(s, accumulate);
      check_backward<BFloat16>(s, accumulate);
    }
  check_backward<float>({90, 64, 5}, true, 1);
  check_backward<BFloat16>({90, 64, 5}, false, 3);
}

TEST_F(CudaIndexing, IdsOutOfRangeGiveRowsOfNan) {
  const int64_t n = 70, vocab = 4;
  const Tensor table = Tensor::from(random<float>(vocab * n, 1), {vocab, n}, kCuda);
  const Tensor ids =
      Tensor::from(std::vector<int32_t>{3, -1, 4, 0, INT32_MAX, INT32_MIN}, {6}, kCuda);
  const Tensor y = Tensor::zeros({6 * n}, DType::bf16, kCuda);
  kernels(kCuda).embedding(current_queue(kCuda), DType::bf16, 6, n, vocab, table.data<float>(),
                           ids.data<int32_t>(), y.raw());
  const auto got = y.to_vector<float>();
  for (size_t i = 0; i < got.size(); ++i) {
    const size_t row = i / static_cast<size_t>(n);
    ASSERT_EQ(std::isnan(got[i]), row != 0 && row != 3) << "element " << i;
  }
}

TEST_F(CudaIndexing, IdsOutOfRangeAreLeftOutOfTheGradient) {
  for (int64_t rows : {10, 2500})
    for (bool accumulate : {false, true}) {
      const int64_t n = 5, vocab = 6;
      const auto dy = random<float>(rows * n, 1);
      const auto before = random<float>(vocab * n, 2);
      std::vector<int32_t> ids, good_ids;
      std::vector<float> good_dy;
      for (int64_t r = 0; r < rows; ++r) {
        const int32_t bad[] = {-1, 6, INT32_MAX, INT32_MIN};
        ids.push_back(r % 3 == 1 ? bad[r % 4] : static_cast<int32_t>(r % 7 % vocab));
        if (r % 3 == 1) continue;
        good_ids.push_back(ids.back());
        good_dy.insert(good_dy.end(), dy.begin() + r * n, dy.begin() + (r + 1) * n);
      }
      const Tensor want = Tensor::from(before, {vocab, n});
      kernels(kCpu).embedding_backward(
          current_queue(kCpu), DType::f32, static_cast<int64_t>(good_ids.size()), n, vocab,
          good_ids.data(), good_dy.data(), want.data<float>(), accumulate);
      const Tensor got = Tensor::from(before, {vocab, n}, kCuda);
      const Tensor all_ids = Tensor::from(ids, {rows}, kCuda),
                   all_dy = Tensor::from(dy, {rows, n}, kCuda);
      kernels(kCuda).embedding_backward(current_queue(kCuda), DType::f32, rows, n, vocab,
                                        all_ids.data<int32_t>(), all_dy.raw(), got.data<float>(),
                                        accumulate);
      EXPECT_EQ(got.to_vector<float>(), want.to_vector<float>());
    }
}

}  // namespace
}  // namespace lockstep::testing
