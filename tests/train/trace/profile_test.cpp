#include "train/trace/profile.h"

#include <gmock/gmock.h>

#include "core/base/error.h"

namespace lockstep::train {
namespace {

using ::testing::HasSubstr;

constexpr trace::Kind kStep{"step", "step"};
constexpr trace::Kind kAdd{"op", "add", {{{"elements"}}}};
constexpr trace::Kind kGemm{.category = "op",
                            .name = "gemm",
                            .fields = {{{"m"}, {"n"}, {"dtype", trace::Form::dtype}}},
                            .by_values = true};
constexpr trace::Kind kWait{"wait", "wait"};
constexpr trace::Kind kCall{"comm", "all_reduce"};

trace::Event took(const trace::Kind& kind, int64_t ns, int64_t flops = 0, int64_t bytes = 0) {
  return {.kind = &kind,
          .begin_ns = 1'000,
          .end_ns = 1'000 + ns,
          .flops = flops,
          .bytes = bytes,
          .values = {8, 16}};
}

// Two steps of 10 ms.
ProfileReport report_of_two_steps() {
  Profile profile;
  const std::vector<trace::Event> step = {
      took(kGemm, 4'000'000, 8'000'000, 1'000), took(kAdd, 1'000'000, 0, 2'000'000),
      took(kAdd, 1'000'000, 0, 2'000'000), took(kWait, 1'000'000), took(kStep, 10'000'000)};
  profile.take({1, "main"}, step);
  profile.take({1, "main"}, step);
  // Beside the steps.
  profile.take({2, "collectives"}, std::vector{took(kCall, 3'000'000), took(kAdd, 9'000'000)});
  return profile.report({.flops_per_s = 4e9, .bytes_per_s = 4e9});
}

TEST(Profile, RowsAddUpToTheStep) {
  const ProfileReport report = report_of_two_steps();
  EXPECT_DOUBLE_EQ(report.step_ms, 10);
  EXPECT_DOUBLE_EQ(report.operations_ms, 6);
  EXPECT_DOUBLE_EQ(report.wait_ms, 1);
  EXPECT_DOUBLE_EQ(report.other_ms, 3);
}

TEST(Profile, ARowSaysSpeedAndPartOfTheLimit) {
  const ProfileReport report = report_of_two_steps();
  ASSERT_EQ(report.operations.size(), 2U);
  const ProfileRow& gemm = report.operations[0];
  EXPECT_EQ(gemm.name, "gemm 8 x 16");
  EXPECT_DOUBLE_EQ(gemm.calls, 1);
  EXPECT_DOUBLE_EQ(gemm.ms, 4);
  EXPECT_DOUBLE_EQ(gemm.share, 0.4);
  EXPECT_DOUBLE_EQ(gemm.gflop_per_s, 2);
  EXPECT_DOUBLE_EQ(gemm.of_limit.value(), 0.5);  // 8 MFLOP take at least 2 ms
  const ProfileRow& add = report.operations[1];
  EXPECT_DOUBLE_EQ(add.calls, 2);
  EXPECT_DOUBLE_EQ(add.gb_per_s, 2);
  EXPECT_DOUBLE_EQ(add.of_limit.value(), 0.5);
}

TEST(Profile, CallsOfOtherThreadsStandApart) {
  const ProfileReport report = report_of_two_steps();
  ASSERT_EQ(report.calls.size(), 1U);
  EXPECT_DOUBLE_EQ(report.calls[0].ms, 1.5);
  EXPECT_THAT(profile_table(report), HasSubstr("not covered"));
}

TEST(Profile, WithoutAStepThereIsNothingToReport) {
  EXPECT_THROW(Profile().report({}), UsageError);
}

}  // namespace
}  // namespace lockstep::train
