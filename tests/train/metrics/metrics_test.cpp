// metrics.jsonl, the screen and the run's folder.
#include <csignal>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <tuple>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "core/base/error.h"
#include "tests/support/temp_dir.h"
#include "train/metrics/metrics_file.h"
#include "train/metrics/progress.h"
#include "train/run/run_dir.h"

namespace lockstep::train {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

StepMetrics step(int64_t number) {
  StepMetrics metrics;
  metrics.step = number;
  metrics.loss = 1.5;
  metrics.lr = 1e-3;
  metrics.step_ms = 100;
  metrics.items_per_s = 1234567;
  metrics.mfu = 0.5;
  metrics.peak_mem_mb = 182;
  return metrics;
}

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<int64_t> steps_in(const std::string& path) {
  std::vector<int64_t> steps;
  std::istringstream lines(contents(path));
  for (std::string line; std::getline(lines, line);)
    steps.push_back(nlohmann::json::parse(line)["step"].get<int64_t>());
  return steps;
}

class MetricsFileTest : public ::testing::Test {
 protected:
  test::TempDir dir_;
  std::string path_ = dir_.path() + "/metrics.jsonl";
};

TEST_F(MetricsFileTest, EachStepIsOneCompleteLineAtOnce) {
  MetricsFile file(path_, 0);
  StepMetrics first = step(1);
  first.val_loss = 1.25;
  file.append(first);
  const auto json = nlohmann::json::parse(contents(path_));
  for (const char* key : {"step", "loss", "lr", "grad_norm", "step_ms", "tokens_per_s", "mfu",
                          "comm_exposed_ms", "peak_mem_mb"})
    EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_EQ(json["val_loss"], 1.25);
  EXPECT_FALSE(json.contains("memory_mb"));
  file.append(step(2));
  EXPECT_EQ(steps_in(path_), (std::vector<int64_t>{1, 2}));
}

TEST_F(MetricsFileTest, ADeviceHasItsMemoryAndPerhapsNoMfu) {
  MetricsFile file(path_, 0);
  StepMetrics first = step(1);
  first.mfu.reset();
  first.memory_mb = {{"parameters", 1.5}, {"pinned", 0.25}};
  file.append(first);
  const auto json = nlohmann::json::parse(contents(path_));
  EXPECT_TRUE(json["mfu"].is_null());
  EXPECT_EQ(json["memory_mb"]["pinned"], 0.25);
  EXPECT_THAT(progress_text(first, 2, 1), Not(HasSubstr("MFU")));
  EXPECT_THAT(progress_text(step(1), 2, 1), HasSubstr("MFU 50.0%"));
}

TEST_F(MetricsFileTest, AResumedRunCutsOffLaterSteps) {
  {
    MetricsFile file(path_, 0);
    for (int64_t i = 1; i <= 5; ++i) file.append(step(i));
  }
  {
    MetricsFile file(path_, 3);
    EXPECT_EQ(steps_in(path_), (std::vector<int64_t>{1, 2, 3}));
    EXPECT_EQ(file.lost_steps(), 2);
    file.append(step(4));
  }
  EXPECT_EQ(steps_in(path_), (std::vector<int64_t>{1, 2, 3, 4}));
}

TEST_F(MetricsFileTest, ATornLastLineIsCutOff) {
  {
    MetricsFile file(path_, 0);
    file.append(step(1));
  }
  std::ofstream(path_, std::ios::app) << "{\"step\":2,\"lo";
  MetricsFile file(path_, 10);
  file.append(step(2));
  EXPECT_EQ(steps_in(path_), (std::vector<int64_t>{1, 2}));
}

TEST_F(MetricsFileTest, AFullDiskCostsAStepButNoLineIsTorn) {
  MetricsFile file(path_, 0);
  file.append(step(1));
  const auto size = std::filesystem::file_size(path_);
  struct rlimit before {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit tight {
    .rlim_cur = size + 20, .rlim_max = before.rlim_max
  };  // room for a part of the next line
  ::setrlimit(RLIMIT_FSIZE, &tight);
  EXPECT_THROW(file.append(step(2)), EnvironmentError);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(std::filesystem::file_size(path_), size);
  file.append(step(3));
  EXPECT_EQ(steps_in(path_), (std::vector<int64_t>{1, 3}));
}

TEST_F(MetricsFileTest, NumbersThatAreNotFiniteStayValidJson) {
  StepMetrics metrics = step(1);
  metrics.loss = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(nlohmann::json::parse(to_json(metrics))["loss"].is_null());
}

TEST_F(MetricsFileTest, AFolderThatIsNotThereIsNamed) {
  EXPECT_THROW(MetricsFile(dir_.path() + "/none/metrics.jsonl", 0), EnvironmentError);
}

class ProgressTest : public ::testing::Test {
 protected:
  std::string shown(const ProgressStyle& style, int64_t steps) {
    std::string text;
    {
      Progress progress({.write = [&](std::string_view bytes) { text += bytes; }}, 0, steps, style);
      for (int64_t i = 1; i <= steps; ++i) progress.update(step(i));
      progress.message("saved");
    }
    return text;
  }
};

TEST_F(ProgressTest, PlainLinesHaveNoControlCharacters) {
  ProgressStyle style;
  style.log_every = 10;
  const std::string text = shown(style, 25);
  EXPECT_EQ(text.find_first_of("\r\033"), std::string::npos);
  EXPECT_THAT(text, HasSubstr("step 1/25"));
  EXPECT_THAT(text, HasSubstr("step 10/25  loss 1.5000  1,234,567 tok/s  MFU 50.0%  mem 182 MB  "
                              "exposed 0.0 ms  left 0:02\n"));
  EXPECT_THAT(text, HasSubstr("step 25/25"));
  EXPECT_THAT(text, Not(HasSubstr("step 11/25")));
  EXPECT_THAT(text, HasSubstr("saved\n"));
}

TEST_F(ProgressTest, ALiveLineFitsTheTerminal) {
  ProgressStyle style;
  style.live = true;
  style.columns = 20;
  const std::string text = shown(style, 3);
  EXPECT_THAT(text, HasSubstr("\r\033[K"));
  EXPECT_EQ(text.back(), '\n');
  EXPECT_THAT(text, Not(HasSubstr("tok/s")));
}

TEST(ProgressText, Durations) {
  EXPECT_EQ(duration_text(42), "0:42");
  EXPECT_EQ(duration_text(3723), "1:02:03");
  EXPECT_EQ(duration_text(2 * 86400 + 3 * 3600 + 240), "2d 03:04");
  EXPECT_EQ(duration_text(std::numeric_limits<double>::infinity()), "?");
}

TEST(ProgressText, SamplesAreNamedAsSuch) {
  StepMetrics metrics = step(1);
  metrics.items_are_tokens = false;
  EXPECT_THAT(progress_text(metrics, 2, 1), HasSubstr("samples/s"));
  EXPECT_THAT(to_json(metrics), HasSubstr("\"samples_per_s\""));
}

TEST(RunDirTest, NeverWritesOverAnEarlierRun) {
  test::TempDir dir;
  Config config;
  config.data.kind = DataKind::random;
  config.run.dir = dir.path();
  config.run.name = "one";
  const RunDir run(config);
  EXPECT_TRUE(run.lock(false));
  run.prepare(config);
  EXPECT_EQ(to_yaml(load_config(run.config_file())), to_yaml(config));
  // Nothing was done yet: starting again is fine.
  EXPECT_NO_THROW(run.check_free(false));
  MetricsFile(run.metrics_file(), 0).append(step(1));
  try {
    EXPECT_TRUE(run.lock(false));
    FAIL() << "expected an error";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), HasSubstr("choose another run.name, or pass --resume auto"));
  }
  EXPECT_TRUE(run.lock(true));
}

TEST(RunDirTest, TwoRunsNeverShareAFolder) {
  test::TempDir dir;
  Config config;
  config.run.dir = dir.path();
  const RunDir run(config);
  EXPECT_NO_THROW(run.check_free(false));
  EXPECT_FALSE(std::filesystem::exists(run.path)) << "looking must not make the folder";
  auto held = run.lock(false);
  for (const bool resuming : {false, true}) {
    try {
      run.check_free(resuming);
      FAIL() << "expected an error";
    } catch (const UsageError& e) {
      EXPECT_THAT(e.what(), HasSubstr("another process is training into '" + run.path));
    }
  }
  held.reset();
  EXPECT_NO_THROW(run.check_free(false));
}

TEST(RunDirTest, AFolderThatCannotBeMadeIsNamed) {
  test::TempDir dir;
  std::ofstream(dir.path() + "/file") << "x";
  Config config;
  config.run.dir = dir.path() + "/file";
  EXPECT_THROW(std::ignore = RunDir(config).lock(false), EnvironmentError);
}

}  // namespace
}  // namespace lockstep::train
