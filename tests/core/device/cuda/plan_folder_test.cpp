// Plans that a folder keeps, and files that are not believed.
#include "core/device/cuda/plan_folder.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/base/log.h"
#include "core/device/cuda_device.h"
#include "tests/support/temp_dir.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;

const std::string kKey = "cuDNN 91900, NVIDIA H200: attention's forward pass";

class PlanFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    log::set_sink([this](std::string_view line) { lines_.emplace_back(line); });
    cuda::keep_plans_in(folder_);
  }
  void TearDown() override {
    cuda::keep_plans_in("");
    log::set_sink({});
  }
  // The only file in the folder.
  fs::path file() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder_)) files.push_back(entry.path());
    EXPECT_EQ(files.size(), 1u);
    return files.empty() ? fs::path() : files[0];
  }
  std::string contents() const {
    std::ifstream in(file(), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void expect_ignored(const std::string& text, const std::string& reason) {
    lines_.clear();
    std::ofstream(file(), std::ios::binary) << text;
    EXPECT_EQ(cuda::kept_plan(kKey), std::nullopt);
    ASSERT_EQ(lines_.size(), 1u);
    EXPECT_NE(lines_[0].find(reason), std::string::npos) << lines_[0];
    EXPECT_NE(lines_[0].find(file().string()), std::string::npos) << lines_[0];
  }

  test::TempDir dir_;
  std::string folder_ = dir_.path() + "/plans";
  std::vector<std::string> lines_;
};

TEST_F(PlanFolder, KeepsPlansByKey) {
  EXPECT_EQ(cuda::kept_plan(kKey), std::nullopt);
  cuda::keep_plan(kKey, "{\n1}");
  EXPECT_EQ(cuda::kept_plan(kKey), "{\n1}");
  EXPECT_EQ(cuda::kept_plan(kKey + " of another shape"), std::nullopt);
  cuda::keep_plan(kKey, "{2}");
  EXPECT_EQ(cuda::kept_plan(kKey), "{2}");
  file();  // no part of a file is left
  EXPECT_TRUE(lines_.empty());
}

TEST_F(PlanFolder, KeepsNoneWithoutAFolder) {
  cuda::keep_plans_in("");
  cuda::keep_plan(kKey, "{}");
  EXPECT_EQ(cuda::kept_plan(kKey), std::nullopt);
  EXPECT_FALSE(fs::exists(folder_));
}

TEST_F(PlanFolder, IgnoresDamagedAndForeignFiles) {
  cuda::keep_plan(kKey, "{\"plan\": 1}");
  const std::string good = contents();
  for (size_t length = 0; length < good.size(); ++length)
    expect_ignored(good.substr(0, length), "");
  for (size_t at = 0; at < good.size(); ++at) {
    std::string changed = good;
    changed[at] ^= 1;
    expect_ignored(changed, "");
  }
  expect_ignored(cuda::plan_file("another key", "{}"), "it is for another key");
  expect_ignored("lockstep plan 2\n" + good.substr(good.find('\n') + 1), "no plan of this version");
  expect_ignored(good + " ", "damaged");
  lines_.clear();
  cuda::keep_plan(kKey, "{}");  // takes the place of such a file
  EXPECT_EQ(cuda::kept_plan(kKey), "{}");
  EXPECT_TRUE(lines_.empty());
}

TEST_F(PlanFolder, SaysThatItCannotWrite) {
  std::ofstream(folder_) << "a file in the folder's place";
  cuda::keep_plan(kKey, "{}");
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_NE(lines_[0].find("cannot be written"), std::string::npos) << lines_[0];
}

}  // namespace
}  // namespace lockstep::testing
