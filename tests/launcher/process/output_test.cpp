#include "launcher/process/output.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

using testing::ElementsAre;

std::vector<std::string> split(const std::vector<std::string>& chunks) {
  LineSplitter splitter;
  std::vector<std::string> lines;
  const auto sink = [&](std::string_view line) { lines.emplace_back(line); };
  for (const auto& chunk : chunks) splitter.feed(chunk, sink);
  splitter.flush(sink);
  return lines;
}

TEST(LineSplitter, joins_what_comes_in_pieces) {
  EXPECT_THAT(split({"a", "b\nc", "\n\nd"}), ElementsAre("ab", "c", "", "d"));
}

TEST(LineSplitter, keeps_binary_bytes) {
  const std::string bytes("\0\xff\r\x01", 4);
  EXPECT_THAT(split({bytes + "\n"}), ElementsAre(bytes));
}

TEST(LineSplitter, cuts_endless_lines_without_losing_a_byte) {
  const std::string endless(200 << 10, 'x');
  const auto lines = split({endless, "y\nz\n"});
  std::string all;
  for (size_t i = 0; i + 1 < lines.size(); ++i) {
    EXPECT_LE(lines[i].size(), size_t{64} << 10);
    all += lines[i];
  }
  EXPECT_EQ(all, endless + "y");
  EXPECT_EQ(lines.back(), "z");
}

TEST(RankOutput, logs_are_for_their_owner_alone) {
  const std::string path = testing::TempDir() + "/rank-output-rights.log";
  std::filesystem::remove(path);
  const mode_t before = ::umask(0002);
  const RankOutput output({.rank = 0, .log_file = path});
  ::umask(before);
  using std::filesystem::perms;
  EXPECT_EQ(std::filesystem::status(path).permissions(), perms::owner_read | perms::owner_write);
}

TEST(RankOutput, a_log_that_is_a_link_is_refused) {
  const std::string path = testing::TempDir() + "/rank-output-link.log", target = path + ".target";
  std::filesystem::remove(path);
  std::filesystem::create_symlink(target, path);
  EXPECT_THROW(RankOutput({.rank = 0, .log_file = path}), EnvironmentError);
  EXPECT_FALSE(std::filesystem::exists(target));
  std::filesystem::remove(path);
}

TEST(RankOutput, logs_both_streams_and_keeps_the_last_lines) {
  const std::string path = testing::TempDir() + "/rank-output-test.log";
  std::filesystem::remove(path);
  RankOutput output({.rank = 3, .log_file = path, .output = Show::nothing, .error = Show::nothing});
  for (int i = 0; i < 30; ++i) output.feed(Stream::output, str("line ", i, "\n"));
  output.feed(Stream::error, "step 1\rstep 2\rstep 3\n");
  output.feed(Stream::output, "no newline");
  output.finish(Stream::output);
  const auto last = output.last_lines();
  ASSERT_EQ(last.size(), RankOutput::kKeptLines);
  EXPECT_EQ(last.front(), "line 12");
  EXPECT_EQ(last[18], "step 3") << "what a progress line drew over is of no interest";
  EXPECT_EQ(last.back(), "no newline");
  std::ifstream log(path);
  const std::string text{std::istreambuf_iterator<char>(log), {}};
  EXPECT_TRUE(text.starts_with("line 0\nline 1\n")) << text;
  EXPECT_TRUE(text.ends_with("step 1\rstep 2\rstep 3\nno newline\n")) << text;
}

TEST(RankOutput, says_which_log_cannot_be_written) {
  EXPECT_THROW(RankOutput({.rank = 0, .log_file = "/proc/no/such/folder/rank-0.log"}),
               EnvironmentError);
}

}  // namespace
}  // namespace lockstep::launcher
