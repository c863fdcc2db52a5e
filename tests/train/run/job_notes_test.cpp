// What ranks that are started again find of those before them.
#include "train/run/job_notes.h"

#include <fstream>

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "tests/support/temp_dir.h"

namespace lockstep::train {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class JobConfig : public testing::Test {
 protected:
  void write(const std::string& text) const { std::ofstream(file_, std::ios::trunc) << text; }
  // The config that a rank gets, and in `warnings_` what it said.
  Config config_of(int rank, int64_t epoch, const std::string& run = "train a.yaml") {
    const JobNotes notes(store_, run, epoch);
    testing::internal::CaptureStderr();
    const Config config = config_of_job(notes, rank, [&] {
      return load_config(file_, std::vector<std::string>{"data.kind=random"});
    });
    warnings_ = testing::internal::GetCapturedStderr();
    return config;
  }

  const test::TempDir dir_;
  const std::string file_ = dir_.path() + "/a.yaml";
  const std::shared_ptr<comm::Store> store_ = std::make_shared<comm::HashStore>();
  std::string warnings_;
};

TEST_F(JobConfig, RanksThatAreStartedAgainGetWhatTheJobBeganWith) {
  write("optim: {lr: 0.25}\nrun: {name: first}\n");
  const std::string began = to_yaml(config_of(0, 1));
  EXPECT_EQ(warnings_, "");
  EXPECT_EQ(to_yaml(config_of(1, 1)), began);

  write("optim: {lr: 0.5}\nrun: {name: second}\n");
  EXPECT_EQ(to_yaml(config_of(0, 2)), began);
  EXPECT_THAT(warnings_, AllOf(HasSubstr("optim.lr = 0.5 instead of 0.25"),
                               HasSubstr("run.name = second instead of first")));
  EXPECT_EQ(to_yaml(config_of(1, 2)), began);
  EXPECT_EQ(warnings_, "") << "rank 0 says it for all";
  EXPECT_EQ(to_yaml(config_of(7, 3)), began) << "a rank that the job did not have before";
}

// Rank 0, or all, may have ended before they looked at the config.
TEST_F(JobConfig, ARankThatLeftNoNoteGetsThatOfAnother) {
  write("optim: {lr: 0.25}\n");
  const std::string began = to_yaml(config_of(1, 1));
  write("optim: {lr: 0.5}\n");
  EXPECT_EQ(to_yaml(config_of(0, 2)), began);
  EXPECT_THAT(warnings_, HasSubstr("optim.lr = 0.5 instead of 0.25"));
  EXPECT_EQ(to_yaml(config_of(1, 2)), began);
  EXPECT_EQ(to_yaml(config_of(2, 2)), began);
}

TEST_F(JobConfig, WhoeverStartsTheRanksMayDecideBeforeThem) {
  write("optim: {lr: 0.25}\n");
  const Config began = load_config(file_, std::vector<std::string>{"data.kind=random"});
  const auto [key, value] = config_note_for_ranks("train a.yaml", began);
  store_->set(key, value);
  write("optim: {lr: 0.5}\n");
  for (const int64_t epoch : {1, 2}) {
    EXPECT_EQ(to_yaml(config_of(0, epoch)), to_yaml(began));
    EXPECT_THAT(warnings_, HasSubstr("optim.lr = 0.5 instead of 0.25"));
    EXPECT_EQ(to_yaml(config_of(1, epoch)), to_yaml(began));
  }
  EXPECT_EQ(config_of(0, 1, "train b.yaml").optim.lr, 0.5) << "another run";
}

TEST_F(JobConfig, TheFileMayBeGoneOrBroken) {
  write("optim: {lr: 0.25}\n");
  const std::string began = to_yaml(config_of(0, 1));
  write("optim: {lr: lots}\n");
  EXPECT_EQ(to_yaml(config_of(0, 2)), began);
  EXPECT_THAT(warnings_, HasSubstr("key 'optim.lr': expected a number, got 'lots'"));
  std::filesystem::remove(file_);
  EXPECT_EQ(to_yaml(config_of(0, 3)), began);
  EXPECT_THAT(warnings_, HasSubstr("No such file"));
}

// A script of several commands: each has its own config, also where it is the same command again.
TEST_F(JobConfig, OtherRunsOfTheJobHaveTheirOwn) {
  write("optim: {lr: 0.25}\n");
  config_of(0, 1);
  write("optim: {lr: 0.5}\n");
  EXPECT_EQ(config_of(0, 1, "train b.yaml").optim.lr, 0.5);
  EXPECT_EQ(config_of(0, 1).optim.lr, 0.5) << "no epoch before this one";
  EXPECT_EQ(config_of(0, 2, "train c.yaml").optim.lr, 0.5);
}

// Where ranks may hold different paths, each finds its own again.
TEST_F(JobConfig, EachRankHasItsOwn) {
  write("run: {dir: here}\n");
  config_of(0, 1);
  write("run: {dir: there}\n");
  config_of(1, 1);
  EXPECT_EQ(config_of(0, 2).run.dir, "here");
  EXPECT_EQ(config_of(1, 2).run.dir, "there");
}

}  // namespace
}  // namespace lockstep::train
