// What a resumed run makes of its data: the same, a copy, others. Ranks are threads.
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "checkpoint/checkpoint.h"
#include "tests/support/run_group.h"
#include "tests/support/temp_dir.h"
#include "train/run/loop.h"

namespace lockstep::train {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

class ResumeData : public testing::TestWithParam<int> {
 protected:
  static constexpr size_t kBytes = 4'000'000;
  static constexpr size_t kGap = 10'000;  // a byte that no sample of the data's identity holds

  // Bytes that shuffling changes.
  void write(const std::function<void(std::string& text)>& change = {}) const {
    std::string text(kBytes, 'a');
    for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i * i % 23);
    if (change) change(text);
    std::filesystem::remove(text_);
    std::ofstream(text_, std::ios::binary) << text;
  }
  // Other files of the same bytes, as a copy to another disk leaves them.
  void copy() const {
    std::filesystem::copy_file(text_, text_ + ".copy");
    std::filesystem::rename(text_ + ".copy", text_);
  }

  // What each rank threw.
  std::vector<std::string> run(int steps, const std::string& resume = "") {
    const Config config = parse_config(
        "model: {kind: gpt, layers: 1, heads: 1, dim: 8, block: 8}\n"
        "train: {global_batch: 4, micro_batch: 1, eval_batches: 0}\n"
        "checkpoint: {keep: 0}\n",
        "test",
        std::vector<std::string>{"run.dir=" + dir_.path(), "run.name=run", "data.path=" + text_,
                                 str("train.steps=", steps), "optim.schedule.kind=constant"});
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const auto failures = test::run_group(GetParam(), [&](const test::Group& group) {
      run_training(config, group, {.resume = resume});
    });
    testing::internal::GetCapturedStdout();
    warnings_ = testing::internal::GetCapturedStderr();
    return failures;
  }
  std::string folder(int step) const {
    return dir_.path() + "/run/checkpoints/" + checkpoint::step_folder(step);
  }

  const test::TempDir dir_;
  const std::string text_ = dir_.path() + "/text.txt";
  std::string warnings_;
};

TEST_P(ResumeData, DataThatWereReadAreKnownByAllBytes) {
  write();
  test::expect_success(run(2));
  ASSERT_THAT(checkpoint::Checkpoint::open(folder(2)).metadata("data"), HasSubstr("xxh3"));
  const std::vector<std::pair<std::string, std::function<void(std::string&)>>> others = {
      {"replaced", [](std::string& text) { std::fill(text.begin(), text.end(), 'x'); }},
      {"shuffled",
       [](std::string& text) { std::reverse(text.begin() + kGap, text.begin() + kGap + 1001); }},
      {"longer", [](std::string& text) { text += 'a'; }},
  };
  for (const std::string& from : {std::string("auto"), folder(2)})
    for (const auto& [name, change] : others) {
      write(change);
      EXPECT_THAT(run(3, from),
                  Each(AllOf(HasSubstr(folder(2) +
                                       " was trained on other data (text, 4000000 bytes, xxh3 "),
                             HasSubstr("give data.path the same file"))))
          << name << " from " << from;
    }
  EXPECT_FALSE(std::filesystem::exists(folder(3)));
  write();
  copy();
  test::expect_success(run(3, "auto"));
  copy();
  test::expect_success(run(4, folder(3)));
  EXPECT_THAT(warnings_, Not(HasSubstr("samples")));
}

// More bytes than anybody reads in the time of a test. They take no room on the disk.
TEST_P(ResumeData, DataThatWereNotReadAreKnownBySamples) {
  const auto grow = [&] { std::filesystem::resize_file(text_, uintmax_t{1} << 42); };
  write();
  grow();
  test::expect_success(run(2));
  const auto saved = checkpoint::Checkpoint::open(folder(2));
  EXPECT_EQ(saved.metadata("data_unread"), "true");
  EXPECT_THAT(saved.metadata("data"), Not(HasSubstr("xxh3")));
  for (const std::string& from : {std::string("auto"), folder(2)}) {
    write([](std::string& text) { std::fill(text.begin(), text.end(), 'x'); });
    grow();
    EXPECT_THAT(
        run(3, from),
        Each(HasSubstr(folder(2) + " was trained on other data (text, 4398046511104 bytes, ")))
        << from;
  }
  write();
  grow();
  test::expect_success(run(3, "auto"));
  EXPECT_THAT(
      warnings_,
      HasSubstr(
          folder(2) +
          " was saved before all of its data was read, and files of data.path were replaced"));
}

INSTANTIATE_TEST_SUITE_P(Ranks, ResumeData, testing::Values(1, 2),
                         [](const auto& ranks) { return str(ranks.param, "ranks"); });

}  // namespace
}  // namespace lockstep::train
