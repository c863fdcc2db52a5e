// What PyTorch does not decide; the arithmetic is compared with PyTorch's in tests/core/parity.
#include <cmath>
#include <limits>

#include <gmock/gmock.h>

#include "core/optim/clip.h"
#include "core/optim/optimizer.h"
#include "core/optim/schedule.h"

namespace lockstep::optim {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

Parameter parameter(const std::string& name, const Shape& shape, float value) {
  return {name, Tensor::full(shape, value)};
}

void give_gradient(const Parameter& p, float value) {
  p.set_grad_buffer(Tensor::full(p.shape(), value));
  p.mark_grad_valid();
}

TEST(Optimizer, ParametersWithoutAGradientStay) {
  const Parameter a = parameter("a", {2, 2}, 1), b = parameter("b", {2, 2}, 1);
  const auto optimizer = make_adamw({a, b}, {.weight_decay = 0.5f});
  give_gradient(a, 1);
  optimizer->step(0.1f);
  EXPECT_THAT(a.data().to_vector<float>(), Each(::testing::Lt(1.0f)));
  EXPECT_THAT(b.data().to_vector<float>(), Each(1.0f));
}

TEST(Optimizer, WeightDecayLeavesVectorsAloneUnlessAsked) {
  const auto after = [](const AdamOptions& options) {
    const Parameter matrix = parameter("m", {1, 1}, 1), vector = parameter("v", {1}, 1);
    const auto optimizer = make_adamw({matrix, vector}, options);
    for (const Parameter& p : {matrix, vector}) give_gradient(p, 0);
    optimizer->step(0.5f);
    return std::pair(matrix.data().item(), vector.data().item());
  };
  EXPECT_EQ(after({.weight_decay = 0.5f}), std::pair(0.75, 1.0));
  EXPECT_EQ(after({.weight_decay = 0.5f, .decays = decay_all}), std::pair(0.75, 0.75));
}

// A rank's slice is flat, whatever the whole is.
TEST(Optimizer, WeightDecayGoesByTheWholeOfASlice) {
  const Parameter matrix = parameter("m", {3}, 1), vector = parameter("v", {3}, 1);
  matrix.set_slice_of({Shape{2, 4}, 4, 3});
  vector.set_slice_of({Shape{8}, 4, 3});
  for (const auto& make : {make_adamw, make_adam}) {
    const auto optimizer = make({matrix, vector}, {.weight_decay = 0.5f});
    for (const Parameter& p : {matrix, vector}) {
      p.data().fill_(1.0);
      give_gradient(p, 0);
    }
    optimizer->step(0.5f);
    EXPECT_THAT(matrix.data().to_vector<float>(), Each(::testing::Lt(1.0f)));
    EXPECT_THAT(vector.data().to_vector<float>(), Each(1.0f));
  }
}

// With bias correction, Adam's first update of a parameter is the learning rate.
TEST(Optimizer, AParameterThatJoinsLateMovesAsAnyOther) {
  for (const auto& make : {make_adamw, make_adam})
    for (const bool resumed : {false, true}) {
      const Parameter early = parameter("early", {2}, 1), late = parameter("late", {2}, 1),
                      alone = parameter("alone", {2}, 1);
      auto optimizer = make({early, late}, {});
      const auto reference = make({alone}, {});
      for (int step = 1; step <= 12; ++step) {
        const float gradient = 1.0f / static_cast<float>(step);
        give_gradient(early, gradient);
        if (step == 6) {  // misses one again
          optimizer->step(0.1f);
          optimizer->zero_grad();
          continue;
        }
        if (step >= 4) {
          give_gradient(late, gradient);
          give_gradient(alone, gradient);
          reference->step(0.1f);
        }
        optimizer->step(0.1f);
        optimizer->zero_grad();
        EXPECT_EQ(late.data().to_vector<float>(), alone.data().to_vector<float>())
            << "step " << step;
        if (!resumed) continue;
        auto next = make({early, late}, {});
        const auto saved = optimizer->state(), target = next->state();
        for (size_t i = 0; i < saved.size(); ++i) target[i].second.copy_(saved[i].second);
        next->set_steps(optimizer->steps(), optimizer->updates_out_of_step());
        optimizer = std::move(next);
      }
      EXPECT_EQ(optimizer->steps(), 12);
      EXPECT_THAT(optimizer->updates_out_of_step(), ElementsAre(::testing::Pair("late", 8)));
      EXPECT_TRUE(reference->updates_out_of_step().empty());
    }
}

// The numbers say what to do when the update runs, and a step that they do not apply is no step.
TEST(Optimizer, ReadsItsNumbersFromMemory) {
  for (const auto& make : {+[](const Parameter& p) { return make_sgd({p}, {.momentum = 0.9f}); },
                           +[](const Parameter& p) { return make_adamw({p}); }}) {
    const Parameter p = parameter("p", {3}, 1), q = parameter("q", {3}, 1);
    const auto told = make(p), reference = make(q);
    StepNumbersOn numbers(kCpu);
    for (int64_t step = 1; step <= 3; ++step) {
      for (const Parameter& each : {p, q}) give_gradient(each, static_cast<float>(step));
      numbers.send({.step = step, .lr = 0.1f, .grad_scale = 0.5f, .apply = 0});
      told->step(numbers);
      told->forget_step();
      numbers.send({.step = step, .lr = 0.1f, .grad_scale = 0.5f, .apply = 1});
      told->step(numbers);
      reference->step(0.1f, 0.5f);
      EXPECT_EQ(p.data().to_vector<float>(), q.data().to_vector<float>());
      EXPECT_EQ(told->steps(), step);
      EXPECT_TRUE(told->updates_out_of_step().empty());
    }
  }
}

TEST(Optimizer, AStepThatIsForgottenWasMissedByNobody) {
  const Parameter p = parameter("p", {1}, 1), never = parameter("never", {1}, 1);
  const auto optimizer = make_adamw({p, never});
  StepNumbersOn numbers(kCpu);
  give_gradient(p, 1);
  optimizer->step(numbers);
  optimizer->forget_step();
  EXPECT_TRUE(optimizer->updates_out_of_step().empty());
  EXPECT_THAT([&] { optimizer->forget_step(); },
              ThrowsMessage<UsageError>(HasSubstr("before any step()")));
  optimizer->step(0.1f);
  EXPECT_THAT(optimizer->updates_out_of_step(), ElementsAre(::testing::Pair("never", 0)));
}

// A recorded step leaves out the same parameters, whether or not the step before counted.
TEST(Optimizer, CountsARecordedStepAfterOneThatIsForgotten) {
  const Parameter p = parameter("p", {1}, 1), never = parameter("never", {1}, 1);
  const auto optimizer = make_adamw({p, never});
  StepNumbersOn numbers(kCpu);
  give_gradient(p, 1);
  optimizer->step(numbers);
  optimizer->forget_step();
  optimizer->count_step();
  EXPECT_EQ(optimizer->steps(), 1);
  EXPECT_THAT(optimizer->updates_out_of_step(), ElementsAre(::testing::Pair("never", 0)));
  optimizer->forget_step();
  optimizer->count_step();
  optimizer->count_step();
  EXPECT_EQ(optimizer->steps(), 2);
  EXPECT_THAT(optimizer->updates_out_of_step(), ElementsAre(::testing::Pair("never", 0)));
}

TEST(Optimizer, UpdatesThatCannotBeAreRefused) {
  const auto optimizer = make_adamw({parameter("a", {1}, 0)});
  optimizer->set_steps(5, {{"a", 2}});
  EXPECT_THAT(
      [&] {
        optimizer->set_steps(9, {{"b", 2}});
      },
      ThrowsMessage<UsageError>(HasSubstr("no parameter is named 'b'")));
  EXPECT_THAT(
      [&] {
        optimizer->set_steps(9, {{"a", 10}});
      },
      ThrowsMessage<UsageError>(HasSubstr("expected 0 to 9 updates of 'a'")));
  EXPECT_THAT([&] { optimizer->set_steps(-1, {}); },
              ThrowsMessage<UsageError>(HasSubstr("got -1")));
  EXPECT_EQ(optimizer->steps(), 5);
  EXPECT_THAT(optimizer->updates_out_of_step(), ElementsAre(::testing::Pair("a", 2)));
  optimizer->set_steps(7, {});  // none of them ever missed one
  EXPECT_TRUE(optimizer->updates_out_of_step().empty());
}

TEST(Optimizer, AStoppedRunGoesOnWithTheSameBits) {
  const auto train = [](bool stop) {
    Parameter p = parameter("p", {3, 5}, 1);
    auto optimizer = make_adamw({p});
    for (int step = 1; step <= 6; ++step) {
      give_gradient(p, 1.0f / static_cast<float>(step));
      optimizer->step(0.1f);
      if (!stop || step != 3) continue;
      // What a checkpoint holds, put into a new optimizer and a new parameter.
      const Parameter fresh("p", p.data().clone());
      auto resumed = make_adamw({fresh});
      const auto saved = optimizer->state(), target = resumed->state();
      for (size_t i = 0; i < saved.size(); ++i) {
        EXPECT_EQ(saved[i].first, target[i].first);
        target[i].second.copy_(saved[i].second);
      }
      resumed->set_steps(optimizer->steps(), optimizer->updates_out_of_step());
      optimizer = std::move(resumed);
      p = fresh;
    }
    return p.data().to_vector<float>();
  };
  EXPECT_EQ(train(true), train(false));
}

TEST(Optimizer, StatesAreNamedAndCounted) {
  const Parameter a = parameter("a", {2}, 1), b = parameter("b", {3, 1}, 1);
  const int64_t before =
      allocator(kCpu).stats().used_bytes[static_cast<size_t>(MemoryCategory::optimizer)];
  const auto adam = make_adam({a, b});
  std::vector<std::string> names;
  for (const auto& [name, tensor] : adam->state()) names.push_back(name);
  EXPECT_THAT(names, ElementsAre("exp_avg.a", "exp_avg.b", "exp_avg_sq.a", "exp_avg_sq.b"));
  EXPECT_EQ(adam->state()[3].second.shape(), b.shape());
  EXPECT_GE(
      allocator(kCpu).stats().used_bytes[static_cast<size_t>(MemoryCategory::optimizer)] - before,
      2 * 5 * 4);
  EXPECT_TRUE(make_sgd({a})->state().empty());
  EXPECT_EQ(make_sgd({a}, {.momentum = 0.5f})->state()[0].first, "momentum.a");
}

TEST(Optimizer, RefusesWhatItCannotTrain) {
  EXPECT_THAT(
      [] {
        make_sgd({parameter("a", {1}, 0), parameter("a", {1}, 0)});
      },
      ThrowsMessage<UsageError>(HasSubstr("two parameters are named 'a'")));
  EXPECT_THAT([] { make_sgd({Parameter("a", Tensor::zeros({1}, DType::bf16))}); },
              ThrowsMessage<UsageError>(HasSubstr("contiguous f32")));
  EXPECT_THAT([] { make_sgd({}, {.nesterov = true}); },
              ThrowsMessage<UsageError>(HasSubstr("nesterov needs a momentum")));
  EXPECT_THAT([] { make_adamw({}, {.beta1 = 1.0f}); },
              ThrowsMessage<UsageError>(HasSubstr("betas within [0, 1)")));
}

TEST(Optimizer, ValuesOfAnotherSizeThanTheirStateAreRefused) {
  const Parameter p = parameter("p", {2}, 1);
  const auto optimizer = make_adamw({p});
  p.set_data(Tensor::full({64}, 1));
  give_gradient(p, 1);
  EXPECT_THAT([&] { optimizer->step(0.1f); },
              ThrowsMessage<UsageError>(HasSubstr("'p' is f32[64], but its state is f32[2]")));
  EXPECT_EQ(optimizer->steps(), 0);
}

// Kernels read dense memory: these would have updated what lies between, or behind.
TEST(Optimizer, ValuesOfAnotherLayoutOrDtypeAreRefused) {
  const Tensor memory = Tensor::full({4, 4}, 1);
  for (const Tensor& values :
       {memory.transpose(0, 1).narrow(0, 0, 2), Tensor::full({1}, 1).expand({2, 4}),
        Tensor::full({2, 4}, 1, DType::bf16)})
    for (const auto& make : {+[](const Parameter& p) { return make_sgd({p}); },
                             +[](const Parameter& p) { return make_adamw({p}); }}) {
      const Parameter first = parameter("first", {1}, 1), p = parameter("p", {2, 4}, 1);
      const auto optimizer = make(p), with_first = make_sgd({p, first});
      p.set_data(values);
      for (const Parameter& each : {first, p})
        each.set_grad_buffer(Tensor::full(each.shape(), 1, each.dtype())), each.mark_grad_valid();
      EXPECT_THAT(
          [&] { optimizer->step(0.5f); },
          ThrowsMessage<UsageError>(AllOf(HasSubstr("expected contiguous f32"), HasSubstr("'p'"))));
      EXPECT_THROW(with_first->step(0.5f), UsageError);
      EXPECT_THAT(first.data().to_vector<float>(), Each(1.0f)) << "a part was updated";
      EXPECT_THAT(values.to_vector<float>(), Each(1.0f));
      EXPECT_EQ(optimizer->steps() + with_first->steps(), 0);
    }
  EXPECT_THAT(memory.to_vector<float>(), Each(1.0f));
}

TEST(Optimizer, AStepOfNoFiniteSizeChangesNothing) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              inf = std::numeric_limits<float>::infinity();
  const Parameter p = parameter("p", {2}, 1);
  give_gradient(p, 1);
  for (const auto& optimizer : {make_sgd({p}), make_adam({p}), make_adamw({p})}) {
    const auto refused = ThrowsMessage<UsageError>(
        AllOf(HasSubstr("expected a finite learning rate and gradient scale"), HasSubstr("skip")));
    for (const float wrong : {nan, inf, -inf}) {
      EXPECT_THAT([&] { optimizer->step(wrong); }, refused);
      EXPECT_THAT([&] { optimizer->step(0.1f, wrong); }, refused);
    }
    EXPECT_THAT(
        [&] { optimizer->step(0.1f, clip_scale(std::numeric_limits<double>::infinity(), 1.0)); },
        refused);
    EXPECT_THAT(p.data().to_vector<float>(), Each(1.0f));
    EXPECT_EQ(optimizer->steps(), 0);
  }
}

TEST(Optimizer, DecaysThatCannotBeAreRefused) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float wrong : {-0.1f, nan}) {
    const auto refused =
        ThrowsMessage<UsageError>(HasSubstr("expected a weight decay of 0 or more, got "));
    EXPECT_THAT([&] { make_adamw({}, {.weight_decay = wrong}); }, refused);
    EXPECT_THAT([&] { make_adam({}, {.weight_decay = wrong}); }, refused);
    EXPECT_THAT([&] { make_sgd({}, {.weight_decay = wrong}); }, refused);
  }
  const auto no_rule =
      ThrowsMessage<UsageError>(HasSubstr("expected a rule for which parameters decay"));
  EXPECT_THAT([] { make_adamw({}, {.decays = {}}); }, no_rule);
  EXPECT_THAT([] { make_sgd({}, {.decays = {}}); }, no_rule);
}

TEST(Clip, ScalesToTheLargestNormAndNeverUp) {
  const Parameter a = parameter("a", {2}, 0), b = parameter("b", {2}, 0),
                  none = parameter("none", {2}, 0);
  give_gradient(a, 3);
  give_gradient(b, -1);
  const std::vector<Parameter> all{a, none, b};
  EXPECT_NEAR(grad_norm(all), std::sqrt(20.0), 1e-9);
  EXPECT_NEAR(clip_scale(20.0, 1.0), 0.05, 1e-6);
  EXPECT_EQ(clip_scale(0.5, 1.0), 1.0f);
  EXPECT_EQ(clip_scale(20.0, 0.0), 1.0f);
  EXPECT_TRUE(std::isnan(clip_scale(std::numeric_limits<double>::quiet_NaN(), 1.0)));
  EXPECT_TRUE(std::isnan(clip_scale(std::numeric_limits<double>::infinity(), 1.0)))
      << "0 would hide it";
  EXPECT_TRUE(std::isnan(clip_scale(std::numeric_limits<double>::infinity(), 0.0)));
  EXPECT_TRUE(std::isnan(clip_scale(std::numeric_limits<double>::quiet_NaN(), 0.0)));
  EXPECT_TRUE(std::isnan(clip_scale(-std::numeric_limits<double>::quiet_NaN(), -1.0)));
  EXPECT_EQ(grad_norm({}), 0.0);
  EXPECT_THAT([] { clip_scale(1.0, std::numeric_limits<double>::quiet_NaN()); },
              ThrowsMessage<UsageError>(HasSubstr("got nan")));
  EXPECT_EQ(clip_scale(20.0, std::numeric_limits<double>::infinity()), 1.0f);
}

// Ranks that hold slices: each sets what it holds, and the bitwise or of their vectors is the
// whole's.
TEST(GradNorm, HasTheSameBitsHoweverGradientsAreSliced) {
  const std::vector<int64_t> numels{5 * kSquareBlock + 3, 1,   0,
                                    kSquareBlock,         700, 12 * kSquareBlock};
  std::vector<Parameter> all;
  std::vector<Tensor> gradients;
  for (size_t i = 0; i < numels.size(); ++i) {
    all.push_back(parameter(str("p", i), {numels[i]}, 0));
    gradients.push_back(Tensor::empty({numels[i]}));
    if (numels[i] > 0)
      kernels(kCpu).normal(current_queue(kCpu), numels[i], 0.0f, 1.0f,
                           {.seed = 3, .site = static_cast<uint32_t>(i)}, 0,
                           gradients[i].data<float>());
    all[i].set_grad_buffer(gradients[i]);
    all[i].mark_grad_valid();
  }
  const double want = grad_norm(all);
  EXPECT_GT(want, 0.0);
  for (const int64_t holders : {1, 2, 3, 8}) {
    const Tensor together = NormBlocks(numels).bits();
    for (int64_t holder = 0; holder < holders; ++holder) {
      NormBlocks mine(numels);
      for (size_t i = 0; i < numels.size(); ++i) {
        const int64_t slice = (numels[i] / kSquareBlock / holders + 1) * kSquareBlock;
        const int64_t begin = std::min(numels[i], holder * slice),
                      end = std::min(numels[i], begin + slice);
        if (begin < end) mine.set(i, gradients[i].narrow(0, begin, end - begin), begin);
      }
      const auto bits = mine.bits().span<int64_t>();
      for (size_t b = 0; b < bits.size(); ++b) together.span<int64_t>()[b] |= bits[b];
    }
    NormBlocks whole(numels);
    whole.bits().copy_(together);
    EXPECT_EQ(whole.norm(), want) << holders << " holders";
  }
}

// Two ranks, one after the other: what the first holds of the bits is given to the second.
TEST(GradNorm, OfSlicesIsThatOfTheWhole) {
  const Parameter a = parameter("a", {2, kSquareBlock}, 0), b = parameter("b", {5}, 0);
  give_gradient(a, 3);
  give_gradient(b, -2);
  const auto slice = [](const Parameter& whole, int64_t offset, int64_t length) {
    const Parameter p(whole.name(), Tensor::zeros({length}));
    p.set_slice_of({whole.shape(), offset, length});
    give_gradient(p, static_cast<float>(whole.grad().flatten().narrow(0, offset, 1).item()));
    return p;
  };
  const std::vector<Parameter> whole{a, b}, first{slice(a, 0, kSquareBlock)},
      second{slice(b, 0, 5), slice(a, kSquareBlock, kSquareBlock)};
  std::vector<int64_t> seen;
  EXPECT_LT(grad_norm(whole, first, [&](const Tensor& bits) { seen = bits.to_vector<int64_t>(); }),
            grad_norm(whole));
  EXPECT_EQ(grad_norm(whole, second,
                      [&](const Tensor& bits) {
                        for (size_t i = 0; i < seen.size(); ++i) bits.span<int64_t>()[i] |= seen[i];
                      }),
            grad_norm(whole));
  EXPECT_EQ(grad_norm(whole, whole, [](const Tensor&) {}), grad_norm(whole));

  EXPECT_THAT([&] { grad_norm(second); },
              ThrowsMessage<UsageError>(HasSubstr("'b' is elements 0 to 5 of [5]")))
      << "a slice is one also where this rank holds all of it";
  EXPECT_THAT(
      [&] {
        grad_norm({&a, 1}, second, [](const Tensor&) {});
      },
      ThrowsMessage<UsageError>(HasSubstr("'b' of shape [5] is none")));
  EXPECT_THAT(
      [&] {
        a.set_slice_of({a.shape(), 0, 5});
      },
      ThrowsMessage<UsageError>(HasSubstr("which cannot be elements 0 to 5 of [2, ")));
}

// One object for all steps: gradients that go leave no sums behind, nor does what ranks wrote into
// the bits.
TEST(GradNorm, StartsAnewForEachStep) {
  const Parameter a = parameter("a", {2 * kSquareBlock}, 0), b = parameter("b", {5}, 0);
  const std::vector<Parameter> all{a, b};
  GradNorm norm(all, all, kCpu);
  for (const bool with_b : {true, false, true}) {
    give_gradient(a, 3);
    give_gradient(b, -2);
    if (!with_b) b.zero_grad();
    NormBlocks& blocks = norm.blocks();
    const auto bits = blocks.bits().span<int64_t>();
    EXPECT_EQ(blocks.norm(), grad_norm(all));
    EXPECT_EQ(bits[2] != 0, with_b);
    std::fill(bits.begin(), bits.end(), -1);
  }
}

// Its elements lie in blocks that other ranks' elements lie in too.
TEST(GradNorm, RefusesSlicesThatAreBoxes) {
  const Parameter whole("w", Tensor::zeros({4, 6})), columns("w", Tensor::zeros({4, 2}));
  columns.set_grad_buffer(Tensor::zeros({4, 2}));
  columns.set_slice_of(ShardSpec::box({4, 6}, {0, 1}, {4, 2}));
  EXPECT_THAT(
      [&] {
        grad_norm({&whole, 1}, {&columns, 1}, [](const Tensor&) {});
      },
      ThrowsMessage<UsageError>(HasSubstr("'w' is [0:4, 1:3] of [4, 6], but squares are summed")));
}

TEST(GradNorm, RefusesSlicesThatCutABlock) {
  NormBlocks blocks(std::vector<int64_t>{3000});
  EXPECT_THAT([&] { blocks.set(0, Tensor::zeros({500}), 0); },
              ThrowsMessage<UsageError>(HasSubstr("got [0, 500) of 3000")));
  EXPECT_THAT([&] { blocks.set(0, Tensor::zeros({1000}), 2000); },
              ThrowsMessage<UsageError>(HasSubstr("multiples of 1024 elements")));
  EXPECT_THAT([&] { blocks.set(1, Tensor::zeros({0})); },
              ThrowsMessage<UsageError>(HasSubstr("parameter 1 of 1")));
  blocks.set(0, Tensor::full({952}, 2.0), 2048);  // the last block is short
  EXPECT_NEAR(blocks.norm(), std::sqrt(4.0 * 952), 1e-9);
}

TEST(Schedule, WarmsUpThenFallsToItsMinimum) {
  Schedule s{.kind = Schedule::Kind::cosine, .lr = 1.0f, .min_lr = 0.1f, .warmup = 4, .steps = 24};
  EXPECT_FLOAT_EQ(lr_at(s, 1), 0.25f);
  EXPECT_FLOAT_EQ(lr_at(s, 4), 1.0f);
  EXPECT_FLOAT_EQ(lr_at(s, 14), 0.55f);
  EXPECT_FLOAT_EQ(lr_at(s, 24), 0.1f);
  EXPECT_FLOAT_EQ(lr_at(s, 1000), 0.1f);
  s.kind = Schedule::Kind::linear;
  EXPECT_FLOAT_EQ(lr_at(s, 9), 0.775f);
  EXPECT_FLOAT_EQ(lr_at(s, 24), 0.1f);
  s.kind = Schedule::Kind::constant;
  EXPECT_FLOAT_EQ(lr_at(s, 2), 0.5f);
  EXPECT_FLOAT_EQ(lr_at(s, 24), 1.0f);
  EXPECT_FLOAT_EQ(lr_at({.lr = 2.0f}, 1), 2.0f);
}

TEST(Schedule, RefusesWhatCannotBe) {
  EXPECT_THROW(lr_at({}, 0), UsageError);
  EXPECT_THAT([] { lr_at({.kind = Schedule::Kind::linear, .warmup = 5, .steps = 4}, 1); },
              ThrowsMessage<UsageError>(HasSubstr("longer than the run")));
}

}  // namespace
}  // namespace lockstep::optim
