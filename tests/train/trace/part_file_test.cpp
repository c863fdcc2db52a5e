// A rank's file of the timeline, and what becomes of the files of all ranks.
#include "train/trace/part_file.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_dir.h"
#include "train/trace/merge.h"

namespace lockstep::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr trace::Kind kOp{
    "op", "gemm", {{{"m"}, {"dtype", trace::Form::dtype}, {"last", trace::Form::flag}}}};

trace::Event event(int64_t begin, int64_t end, const char* name = nullptr) {
  return {.kind = &kOp,
          .name = name,
          .begin_ns = begin,
          .end_ns = end,
          .flops = 12,
          .bytes = 34,
          .values = {3, static_cast<int64_t>(DType::bf16), 1}};
}

class PartFiles : public testing::Test {
 protected:
  std::string file() const { return dir_.path() + "/t.json"; }
  PartOptions options(int rank) const {
    return {.path = part_path(file(), rank), .rank = rank, .process = str("rank ", rank)};
  }
  void write(int rank, const std::vector<trace::Event>& events) const {
    PartFile part(options(rank));
    part.take({1, "main"}, events);
  }
  nlohmann::json merged() const { return nlohmann::json::parse(std::ifstream(file())); }
  // Those that are no metadata.
  static std::vector<nlohmann::json> events_of(const nlohmann::json& all) {
    std::vector<nlohmann::json> events;
    for (const auto& each : all["traceEvents"])
      if (each["ph"] != "M") events.push_back(each);
    return events;
  }
  test::TempDir dir_;
};

TEST_F(PartFiles, AnEventSaysAllThatIsKnown) {
  write(0, {event(1'234'567, 1'300'001)});
  merge_parts(file(), 1);
  const auto events = events_of(merged());
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0], nlohmann::json::parse(R"({"ph":"X","cat":"op","name":"gemm","pid":0,
      "tid":1,"ts":1234.567,"dur":65.434,"args":{"m":3,"dtype":"bf16","last":true,"flops":12,
      "bytes":34}})"));
}

TEST_F(PartFiles, NamesMayHoldAnything) {
  write(0, {event(1, 2, "a \"quoted\" \\ name\n")});
  merge_parts(file(), 1);
  EXPECT_EQ(events_of(merged()).at(0)["name"], "a \"quoted\" \\ name\n");
}

TEST_F(PartFiles, TimesAreThoseOfRankZero) {
  auto shifted = options(1);
  shifted.shift_ns = -5'000;
  {
    PartFile part(shifted);
    part.take({1, "main"}, std::vector{event(1'000, 2'000)});
  }
  merge_parts(file(), 2);
  EXPECT_EQ(events_of(merged()).at(0)["ts"], -4.0);
}

TEST_F(PartFiles, FilesOfAllRanksBecomeOne) {
  write(0, {event(1, 2)});
  write(2, {event(3, 4)});
  const Merged result = merge_parts(file(), 3);
  EXPECT_THAT(result.ranks, ElementsAre(0, 2));
  EXPECT_THAT(result.missing, ElementsAre(1));
  EXPECT_EQ(events_of(merged()).size(), 2U);
  EXPECT_FALSE(std::filesystem::exists(part_path(file(), 0)));
  EXPECT_FALSE(std::filesystem::exists(part_path(file(), 2)));
}

TEST_F(PartFiles, TheLastLineOfAKilledRankIsLeftOut) {
  write(0, {event(1, 2), event(3, 4)});
  const std::string path = part_path(file(), 0);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 10);
  merge_parts(file(), 1);
  EXPECT_EQ(events_of(merged()).size(), 1U);
}

TEST_F(PartFiles, ARestartedRankKeepsWhatItsFirstProcessWrote) {
  write(0, {event(1, 2)});
  const std::string path = part_path(file(), 0);
  std::ofstream(path, std::ios::app) << R"({"ph":"X","cat)";  // killed in the middle of a write
  auto again = options(0);
  again.append = true;
  {
    PartFile part(again);
    part.take({1, "main"}, std::vector{event(3, 4)});
  }
  merge_parts(file(), 1);
  EXPECT_EQ(events_of(merged()).size(), 2U);
}

TEST_F(PartFiles, AtTheLimitTheTimelineEndsAndSaysSo) {
  auto small = options(0);
  small.limit_bytes = 2'000;
  PartFile part(small);
  EXPECT_THAT(part.ended(), IsEmpty());
  for (int i = 0; i < 100; ++i) part.take({1, "main"}, std::vector{event(i, i + 1)});
  EXPECT_THAT(part.ended(), HasSubstr("rank 0"));
  EXPECT_THAT(part.ended(), HasSubstr("--trace-mb"));
  EXPECT_LE(std::filesystem::file_size(small.path), 2'000U);
  merge_parts(file(), 1);
  EXPECT_GT(events_of(merged()).size(), 3U);
}

TEST_F(PartFiles, AFullDiskEndsTheTimelineAndSaysSo) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "skipped: there is no /dev/full";
  const auto error = test::error_of([] { PartFile part({.path = "/dev/full", .process = "x"}); });
  EXPECT_THAT(error, HasSubstr("No space left"));
  EXPECT_THAT(error, HasSubstr("/dev/full"));
}

TEST_F(PartFiles, AFolderThatIsNotThereIsRefused) {
  EXPECT_THROW(check_trace_file(dir_.path() + "/none/t.json"), UsageError);
  EXPECT_THROW(check_trace_file(dir_.path()), UsageError);
  EXPECT_NO_THROW(check_trace_file(file()));
}

TEST_F(PartFiles, WhatAnEarlierRunLeftIsRemoved) {
  write(0, {event(1, 2)});
  write(17, {event(1, 2)});
  std::ofstream(file() + ".rank-x") << "of somebody else";
  remove_parts(file());
  EXPECT_FALSE(std::filesystem::exists(part_path(file(), 0)));
  EXPECT_FALSE(std::filesystem::exists(part_path(file(), 17)));
  EXPECT_TRUE(std::filesystem::exists(file() + ".rank-x"));
}

}  // namespace
}  // namespace lockstep::train
