// What a run's data are: taken at its start, over all bytes, and the same on all ranks.
#include "train/data/data_identity.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "tests/support/error_of.h"
#include "tests/support/run_group.h"
#include "tests/support/temp_dir.h"

namespace lockstep::train {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr int64_t kBytes = 4'000'000;
constexpr size_t kGap = 10'000;  // a byte that no sample holds

class Identity : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return dir_.path() + "/" + name; }
  void write(const std::string& name, char at_gap = 'a') const {
    std::string text(kBytes, 'a');
    text[kGap] = at_gap;
    std::ofstream(path(name), std::ios::binary | std::ios::trunc) << text;
    // Not of this very moment, so that any change is seen.
    std::filesystem::last_write_time(
        path(name), std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  }
  std::unique_ptr<Dataset> open(const std::string& name) const {
    Config config;
    config.data.path = path(name);
    return open_dataset(config);
  }
  static std::shared_ptr<comm::ProcessGroup> alone() {
    return comm::create("local", std::make_shared<comm::HashStore>(), 0, 1);
  }

  const test::TempDir dir_;
};

TEST_F(Identity, IsThatOfTheStart) {
  write("text");
  const auto data = open("text");
  const std::string before = data->identity();
  DataIdentity identity(*data, alone());
  identity.begin();
  ASSERT_TRUE(identity.read_within(std::chrono::minutes(5)));
  write("text", 'b');
  EXPECT_EQ(identity.text(), before);
  EXPECT_NE(open("text")->identity(), before);
}

TEST_F(Identity, MatchesWhatWasSavedByThisVersionAndEarlierOnes) {
  write("text");
  write("other", 'b');
  const auto data = open("text"), other = open("other");
  DataIdentity identity(*data, alone());
  const auto same = [&](const std::string& saved) {
    return identity.compare({.identity = saved, .stamp = {}}).same;
  };
  EXPECT_EQ(same(data->identity()), SameData::yes);
  EXPECT_EQ(same(other->identity()), SameData::no) << "a change between the samples";
  EXPECT_EQ(same(data->sampled_identity()), SameData::yes);
  EXPECT_EQ(same("text, 4000000 bytes, 0123456789abcdef"), SameData::no);
}

// The files did not change since their stamp was saved: nothing is read.
TEST_F(Identity, IsRecalledWhereTheFilesAreTheSame) {
  write("text");
  const auto data = open("text");
  DataIdentity known(*data, alone());
  EXPECT_EQ(known.compare({.identity = "as it was saved", .stamp = data->stamp()}).same,
            SameData::yes);
  EXPECT_EQ(known.text(), "as it was saved");
  EXPECT_EQ(known.noted().stamp, data->stamp());
  DataIdentity unknown(*data, alone());
  const DataComparison compared =
      unknown.compare({.identity = "as it was saved", .stamp = "another stamp"});
  EXPECT_EQ(compared.same, SameData::no);
  EXPECT_EQ(compared.now, data->identity());
}

// Before all was read there are samples alone. Files that have the same stamp are the same all the
// same.
TEST_F(Identity, WhatWasNotReadIsNotedAsThat) {
  write("text");
  std::filesystem::copy_file(path("text"), path("copy"));
  write("copy");
  write("sampled", 'b');
  std::ofstream(path("sampled"), std::ios::binary | std::ios::in) << 'b';
  const auto data = open("text"), copy = open("copy"), other = open("sampled");
  NotedData noted = DataIdentity(*data, alone()).noted();
  EXPECT_EQ(noted.identity, data->sampled_identity());
  EXPECT_EQ(noted.stamp, data->settled() ? data->stamp() : "");
  EXPECT_TRUE(noted.unread);
  noted.stamp = data->stamp();  // as of a file that was not written a moment ago
  DataIdentity again(*data, alone());
  EXPECT_EQ(again.compare(noted).same, SameData::yes);
  EXPECT_EQ(again.text(), data->identity()) << "samples must not pass for all bytes";
  EXPECT_FALSE(again.noted().unread);
  const NotedData unsettled{.identity = noted.identity, .stamp = "", .unread = true};
  EXPECT_EQ(DataIdentity(*data, alone()).compare(unsettled).same, SameData::by_samples);
  EXPECT_EQ(DataIdentity(*copy, alone()).compare(noted).same, SameData::by_samples);
  EXPECT_EQ(DataIdentity(*other, alone()).compare(noted).same, SameData::no);
}

// In the same size and with the times of before: the system's own time of change remains.
TEST_F(Identity, AStampIsOfTheFilesAsTheyAre) {
  write("text");
  const std::string before = open("text")->stamp();
  EXPECT_EQ(open("text")->stamp(), before);
  const auto time = std::filesystem::last_write_time(path("text"));
  std::filesystem::copy_file(path("text"), path("copy"));
  std::filesystem::rename(path("copy"), path("text"));
  std::filesystem::last_write_time(path("text"), time);
  EXPECT_NE(open("text")->stamp(), before);
}

TEST_F(Identity, TheSameBytesAgainAreNoChange) {
  write("text");
  const auto data = open("text");
  DataIdentity identity(*data, alone());
  const std::string before = identity.text();
  std::filesystem::last_write_time(path("text"), std::filesystem::file_time_type::clock::now());
  EXPECT_NE(test::error_of([&] { data->get(1, 0); }), "(no error)");
  EXPECT_TRUE(identity.unchanged());
  EXPECT_EQ(test::error_of([&] { data->get(1, 0); }), "(no error)");
  write("text", 'b');
  EXPECT_FALSE(identity.unchanged());
  std::filesystem::remove(path("text"));
  EXPECT_FALSE(identity.unchanged());
  EXPECT_EQ(identity.text(), before);
}

// Each host may have a copy of its own.
TEST_F(Identity, RanksWithDifferentDataAreNamed) {
  write("text");
  std::filesystem::copy_file(path("text"), path("copy"));
  write("gap", 'b');
  std::ofstream(path("short"), std::ios::binary) << std::string(kBytes - 1, 'a');
  const auto failures = [&](const std::string& of_rank_1) {
    return test::run_group(3, [&](const test::Group& group) {
      const auto data = open(group->rank() == 1 ? of_rank_1 : "text");
      DataIdentity identity(*data, group);
      EXPECT_EQ(identity.text(), data->identity());
    });
  };
  test::expect_success(failures("text"));
  test::expect_success(failures("copy"));
  EXPECT_THAT(failures("short"),
              Each(HasSubstr("the ranks have different data: rank 0 has 'text, 4000000 bytes, ")));
  EXPECT_THAT(
      failures("gap"),
      Each(HasSubstr(
          "the ranks have trained on different data: rank 0 has 'text, 4000000 bytes, xxh3 ")));
}

}  // namespace
}  // namespace lockstep::train
