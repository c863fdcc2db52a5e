// Kernels over many tensors, and of a step's numbers: the bits of one tensor at a time, and of a
// CPU.
#include <cmath>
#include <limits>

#include <gmock/gmock.h>

#include "core/base/sum_tree.h"
#include "core/optim/clip.h"
#include "core/optim/device_rows.h"
#include "core/optim/optimizer.h"
#include "core/optim/step_numbers_on.h"
#include "tests/core/device/cuda/against_cpu.h"

namespace lockstep::testing {
namespace {

class CudaMany : public CudaTest {};

// Around the sizes of a pack, a block of threads and a piece.
const std::vector<int64_t> kSizes = {1, 3, 4, 5, 1023, 1024, 1025, 4095, 4096, 4097, 9001};

// An optimizer's tensors on the device: one of each size, in two equal copies.
struct Tensors {
  std::vector<Tensor> param, grad, first, second;
};
Tensors tensors(int64_t shift) {
  Tensors made;
  const auto one = [&](int64_t n, uint32_t site, float low) {
    return Tensor::from(random<float>(n + shift, site, low, 1.0f), {n + shift}, kCuda)
        .narrow(0, shift, n);
  };
  for (const int64_t n : kSizes) {
    made.param.push_back(one(n, 1, -1));
    made.grad.push_back(one(n, 2, -1));
    made.first.push_back(one(n, 3, -1));
    made.second.push_back(one(n, 4, 0));
  }
  return made;
}
void expect_same(const Tensors& got, const Tensors& want) {
  for (size_t i = 0; i < kSizes.size(); ++i) {
    SCOPED_TRACE(str("tensor ", i, " of ", kSizes[i], " elements"));
    EXPECT_EQ(got.param[i].to_vector<float>(), want.param[i].to_vector<float>());
    EXPECT_EQ(got.first[i].to_vector<float>(), want.first[i].to_vector<float>());
    EXPECT_EQ(got.second[i].to_vector<float>(), want.second[i].to_vector<float>());
  }
}

float decay_of(size_t i) { return i % 2 == 0 ? 0.1f : 0.0f; }
int64_t missed_by(size_t i) { return i % 3 == 0 ? 2 : 0; }

void adamw_many(const Tensors& t, const StepNumbers& values) {
  std::vector<AdamWRow> rows;
  for (size_t i = 0; i < kSizes.size(); ++i)
    rows.push_back({t.param[i].data<float>(), t.grad[i].data<float>(), t.first[i].data<float>(),
                    t.second[i].data<float>(), kSizes[i], 0, missed_by(i), decay_of(i)});
  optim::DeviceRows<AdamWRow> table;
  table.set(rows, kManyPiece, kCuda);
  const optim::StepNumbersOn numbers(kCuda);
  numbers.send(values);
  kernels(kCuda).adamw_many(current_queue(kCuda), {table.rows(), table.count(), table.pieces(),
                                                   0.9f, 0.95f, 1e-8f, true, numbers.on_device()});
}

void sgd_many(const Tensors& t, const StepNumbers& values, float momentum, bool nesterov) {
  std::vector<SgdRow> rows;
  for (size_t i = 0; i < kSizes.size(); ++i)
    rows.push_back({t.param[i].data<float>(), t.grad[i].data<float>(),
                    momentum > 0 ? t.first[i].data<float>() : nullptr, kSizes[i], 0, decay_of(i)});
  optim::DeviceRows<SgdRow> table;
  table.set(rows, kManyPiece, kCuda);
  const optim::StepNumbersOn numbers(kCuda);
  numbers.send(values);
  kernels(kCuda).sgd_many(current_queue(kCuda), {table.rows(), table.count(), table.pieces(),
                                                 momentum, nesterov, numbers.on_device()});
}

constexpr StepNumbers kNumbers{.step = 1234, .lr = 3e-4f, .grad_scale = 0.37f, .apply = 1};

TEST_F(CudaMany, AdamWHasTheBitsOfOneTensorAtATime) {
  for (const int64_t shift : {0, 1}) {
    const Tensors many = tensors(shift), single = tensors(shift);
    adamw_many(many, kNumbers);
    for (size_t i = 0; i < kSizes.size(); ++i)
      kernels(kCuda).adamw(
          current_queue(kCuda),
          {kSizes[i], single.param[i].data<float>(), single.grad[i].data<float>(),
           single.first[i].data<float>(), single.second[i].data<float>(), kNumbers.lr, 0.9f, 0.95f,
           1e-8f, decay_of(i), true, kNumbers.step - missed_by(i), kNumbers.grad_scale});
    expect_same(many, single);
  }
}

TEST_F(CudaMany, SgdHasTheBitsOfOneTensorAtATime) {
  for (const int64_t shift : {0, 1})
    for (const float momentum : {0.0f, 0.9f})
      for (const bool nesterov : {false, true}) {
        const Tensors many = tensors(shift), single = tensors(shift);
        sgd_many(many, kNumbers, momentum, nesterov);
        for (size_t i = 0; i < kSizes.size(); ++i)
          kernels(kCuda).sgd(
              current_queue(kCuda),
              {kSizes[i], single.param[i].data<float>(), single.grad[i].data<float>(),
               momentum > 0 ? single.first[i].data<float>() : nullptr, kNumbers.lr, momentum,
               decay_of(i), nesterov, false, kNumbers.grad_scale});
        expect_same(many, single);
      }
}

TEST_F(CudaMany, AStepThatIsNotAppliedChangesNothing) {
  StepNumbers refused = kNumbers;
  refused.apply = 0;
  const Tensors before = tensors(0), tried = tensors(0);
  adamw_many(tried, refused);
  sgd_many(tried, refused, 0.9f, true);
  expect_same(tried, before);
}

TEST_F(CudaMany, SquareSumsHaveTheBitsOfOneTensorAtATime) {
  const Tensors t = tensors(1);
  int64_t blocks = 0;
  for (const int64_t n : kSizes) blocks += (n + kSquareBlock - 1) / kSquareBlock;
  const Tensor many = Tensor::zeros({blocks}, DType::i64, kCuda);
  const Tensor single = Tensor::zeros({blocks}, DType::i64, kCuda);
  const auto sums = [](const Tensor& tensor) { return reinterpret_cast<double*>(tensor.raw()); };
  std::vector<SquareSumsRow> rows;
  int64_t at = 0;
  for (const Tensor& grad : t.grad) {
    rows.push_back({grad.raw(), sums(many) + at, grad.numel(), 0});
    kernels(kCuda).square_sums(current_queue(kCuda), DType::f32, grad.numel(), grad.raw(),
                               sums(single) + at);
    at += (grad.numel() + kSquareBlock - 1) / kSquareBlock;
  }
  optim::DeviceRows<SquareSumsRow> table;
  table.set(rows, kSquareBlock, kCuda);
  EXPECT_EQ(table.pieces(), blocks);
  kernels(kCuda).square_sums_many(current_queue(kCuda),
                                  {DType::f32, table.rows(), table.count(), table.pieces()});
  EXPECT_EQ(many.to_vector<int64_t>(), single.to_vector<int64_t>());
}

// The host is steps ahead of the device here.
TEST_F(CudaMany, EachStepGetsItsOwnNumbers) {
  for (int tries = 0; tries < 20; ++tries) {
    const Tensor values = Tensor::zeros({5}, DType::f32, kCuda);
    const Parameter p("p", values);
    p.set_grad_buffer(Tensor::full({5}, 1.0, DType::f32, kCuda));
    p.mark_grad_valid();
    const auto optimizer = optim::make_sgd({p});
    for (const float lr : {1.0f, 16.0f, 256.0f}) optimizer->step(lr);
    EXPECT_EQ(values.to_vector<float>(), std::vector<float>(5, -273.0f));
  }
}

TEST_F(CudaMany, AnOptimizerIsOfOneDevice) {
  const Parameter here("here", Tensor::zeros({2})),
      there("there", Tensor::zeros({2}, DType::f32, kCuda));
  EXPECT_THAT(
      [&] {
        optim::make_adamw({here, there});
      },
      ::testing::ThrowsMessage<UsageError>(::testing::HasSubstr(
          "expected parameters on one device, got 'here' on cpu and 'there' on cuda:0")));
  const optim::StepNumbersOn numbers(kCpu);
  EXPECT_THAT([&] { optim::make_sgd({there})->step(numbers); },
              ::testing::ThrowsMessage<UsageError>(::testing::HasSubstr("got them on cpu")));
}

// ---- the numbers of a step ----

StepNumbers closed(Device device, const std::vector<double>& squares,
                   const std::vector<float>& losses, const StepNumbers& before) {
  std::vector<int64_t> bits(squares.size());
  if (!squares.empty()) std::memcpy(bits.data(), squares.data(), squares.size() * sizeof(double));
  const Tensor on_device = Tensor::from(bits, {std::ssize(bits)}, device);
  const Tensor values = Tensor::from(losses, {std::ssize(losses)}, device);
  optim::StepNumbersOn numbers(device);
  numbers.send(before);
  kernels(device).close_step(current_queue(device),
                             {reinterpret_cast<double*>(on_device.raw()), on_device.numel(),
                              values.data<float>(), values.numel(), numbers.on_device()});
  numbers.fetch();
  return numbers.read();
}

std::vector<double> squares_of(int64_t n) {
  std::vector<double> squares;
  for (const float x : random<float>(n, 7, 0, 3)) squares.push_back(std::exp(5.0 * x));
  return squares;
}

TEST_F(CudaMany, ClosingAStepHasTheBitsOfTheHost) {
  for (const int64_t n : {0, 1, 2, 3, 7, 255, 256, 1023, 1024, 1025, 3000, 5119, 1100000})
    for (const double max_norm : {0.0, 1.0, 1e30}) {
      SCOPED_TRACE(str(n, " blocks, max_norm ", max_norm));
      const int64_t leaves = n == 1100000 ? 2000 : n % 300 + 1;
      std::vector<double> squares = squares_of(n);
      std::vector<float> losses = random<float>(leaves, 8, 0, 9);
      const StepNumbers before{.max_norm = max_norm, .step = 5, .lr = 0.25f};
      const StepNumbers got = closed(kCuda, squares, losses, before);
      const StepNumbers cpu = closed(kCpu, squares, losses, before);
      const double sum = n == 0 ? 0.0 : sum_tree::combine(squares.data(), n, std::plus<double>());
      EXPECT_EQ(got.norm, std::sqrt(sum));
      EXPECT_EQ(got.grad_scale, optim::clip_scale(got.norm, max_norm));
      EXPECT_EQ(got.loss, sum_tree::combine(losses.data(), leaves, std::plus<float>()));
      EXPECT_EQ(got.apply, 1);
      EXPECT_EQ(got.step, 5);
      EXPECT_EQ(got.lr, 0.25f);
      EXPECT_EQ(std::memcmp(&got, &cpu, sizeof(got)), 0);
    }
}

TEST_F(CudaMany, TheNormIsOfUnscaledGradients) {
  const StepNumbers got = closed(kCuda, {9 * 256.0 * 256.0, 16 * 256.0 * 256.0}, {1.0f},
                                 {.max_norm = 1.0, .unscale = 1.0f / 256});
  EXPECT_EQ(got.norm, 5.0);
  EXPECT_EQ(got.grad_scale, optim::clip_scale(5.0, 1.0) / 256);
}

TEST_F(CudaMany, AStepThatIsNotFiniteIsNotApplied) {
  const double inf = std::numeric_limits<double>::infinity();
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  for (const Device device : {kCpu, kCuda}) {
    EXPECT_EQ(closed(device, {1.0, inf}, {1.0f}, {}).apply, 0);
    EXPECT_TRUE(std::isnan(closed(device, {1.0, inf}, {1.0f}, {}).grad_scale));
    EXPECT_EQ(closed(device, {1.0, std::nan("")}, {1.0f}, {}).apply, 0);
    EXPECT_EQ(closed(device, {1.0}, {1.0f, nan}, {}).apply, 0);
    EXPECT_EQ(closed(device, {1.0}, {3e38f, 3e38f}, {}).apply, 0);  // the sum is infinite
    EXPECT_EQ(closed(device, {1.0}, {3e38f, 1.0f}, {}).apply, 1);
  }
}

}  // namespace
}  // namespace lockstep::testing
