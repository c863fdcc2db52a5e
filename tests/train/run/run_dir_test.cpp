// The folder of a run: who may write to it, and with which rights.
#include "train/run/run_dir.h"

#include <cerrno>
#include <csignal>
#include <filesystem>

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "core/base/log.h"
#include "tests/support/error_of.h"
#include "tests/support/failing_calls.h"
#include "tests/support/temp_dir.h"
#include "train/metrics/metrics_file.h"

namespace lockstep::train {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Folder : public testing::Test {
 protected:
  Folder() {
    config_.run.dir = dir_.path();
    config_.data.kind = DataKind::random;
  }
  const test::TempDir dir_;
  Config config_;
};

TEST_F(Folder, IsLockedForOneRun) {
  const RunDir run(config_);
  testing::internal::CaptureStderr();
  auto lock = run.lock(/*resuming=*/false);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_THAT(test::error_of([&] { run.check_free(true); }),
              HasSubstr("another process is training into '"));
  lock.reset();
  run.check_free(true);
}

// NFS without its lock daemon, FUSE, some file systems of clusters.
TEST_F(Folder, ThatCannotBeLockedIsSaid) {
  const RunDir run(config_);
  for (const int error : {EBADF, ENOLCK, ENOSYS, EOPNOTSUPP}) {
    std::string said;
    const bool filtered = test::where_call_fails(SYS_flock, error, [&] {
      testing::internal::CaptureStderr();
      const auto held = run.lock(/*resuming=*/true);
      said = testing::internal::GetCapturedStderr();
    });
    if (!filtered) GTEST_SKIP() << "skipped: the system lets no thread filter its calls";
    EXPECT_THAT(
        said, AllOf(HasSubstr("supports no lock (" + errno_text(error) + ")"), HasSubstr(run.path),
                    HasSubstr("nothing keeps another run from writing to the same folder")));
    EXPECT_EQ(said.find("warning"), said.rfind("warning")) << "said once: " << said;
  }
}

TEST_F(Folder, HasTheRightsOfTheUmask) {
  const RunDir run(config_);
  const mode_t before = ::umask(0002);
  const auto lock = run.lock(/*resuming=*/false);
  run.prepare(config_);
  const MetricsFile metrics(run.metrics_file(), 0);
  ::umask(before);
  const auto rights = [](const std::string& path) {
    struct stat info {};
    EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
    return info.st_mode & 0777;
  };
  for (const std::string& folder : {run.path, run.logs(), run.checkpoints()})
    EXPECT_EQ(rights(folder), 0775) << folder;
  for (const std::string& file : {run.config_file(), run.metrics_file()})
    EXPECT_EQ(rights(file), 0664) << file;
}

TEST_F(Folder, KeepsItsConfigUntilTheNextOneIsWhole) {
  const RunDir run(config_);
  run.prepare(config_);
  config_.train.steps = 77;
  run.prepare(config_);
  EXPECT_EQ(load_config(run.config_file()).train.steps, 77);
  // Where the next one cannot be written, the one before stays.
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit tight { .rlim_cur = 100, .rlim_max = before.rlim_max };
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  config_.train.steps = 78;
  const std::string error = test::error_of([&] { run.prepare(config_); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(error, testing::HasSubstr("File too large"));
  EXPECT_EQ(load_config(run.config_file()).train.steps, 77);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(run.path), {}), 3)
      << "config, logs, checkpoints";
}

}  // namespace
}  // namespace lockstep::train
