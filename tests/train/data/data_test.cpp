// Data: determinism, the split, and what happens without data.
#include <filesystem>
#include <fstream>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_dir.h"
#include "train/data/dataset.h"
#include "train/data/device_batches.h"
#include "train/data/text_dataset.h"

namespace lockstep::train {
namespace {

using ::testing::HasSubstr;

void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// Byte i is i mod 251: a sample tells where it was taken from.
std::string counting_text(int64_t bytes) {
  std::string text;
  for (int64_t i = 0; i < bytes; ++i) text += static_cast<char>(i % 251);
  return text;
}

Config text_config(const std::string& path) {
  Config config;
  config.data.path = path;
  config.model.block = 8;
  config.train.global_batch = 8;
  config.train.micro_batch = 2;
  return config;
}

std::string error_of(const Config& config) {
  return test::error_of([&] { open_dataset(config); });
}

class TextData : public ::testing::Test {
 protected:
  test::TempDir dir_;
  std::string path_ = dir_.path() + "/text.txt";
};

// A mapped file would end the process by SIGBUS here.
TEST_F(TextData, AFileThatShrinksWhileItIsUsedIsNamed) {
  write_file(path_, counting_text(500000));
  const auto data = open_dataset(text_config(path_));
  std::filesystem::resize_file(path_, 100);
  const auto read = [&](const std::string& expected) {
    try {
      data->get(1, 0);
      FAIL() << "expected an error";
    } catch (const EnvironmentError& e) {
      EXPECT_THAT(e.what(), HasSubstr(path_ + "' of 500000 bytes"));
      EXPECT_THAT(e.what(), HasSubstr(expected));
    }
  };
  read("it has 100 bytes now");
  std::filesystem::remove(path_);
  read("No such file");
}

// Another text of the same size, in the same place: half of a run's samples must not come from
// each.
TEST_F(TextData, AFileThatIsWrittenOrReplacedWhileItIsUsedIsNamed) {
  const auto reads = [&](const Dataset& data) { return test::error_of([&] { data.get(1, 0); }); };
  const auto age = [&] {
    std::filesystem::last_write_time(
        path_, std::filesystem::last_write_time(path_) - std::chrono::hours(1));
  };
  for (const bool replaced : {false, true}) {
    write_file(path_, counting_text(5000));
    age();
    const auto data = open_dataset(text_config(path_));
    EXPECT_EQ(reads(*data), "(no error)");
    const std::string target = replaced ? path_ + ".new" : path_;
    write_file(target, std::string(5000, 'x'));
    if (replaced) std::filesystem::rename(target, path_);
    EXPECT_THAT(
        reads(*data),
        HasSubstr(
            path_ +
            "' of 5000 bytes changed or cannot be read any more: it was written or replaced"));
    data->accept_files();
    EXPECT_EQ(reads(*data), "(no error)");
  }
}

TEST_F(TextData, TargetsAreTheNextBytes) {
  write_file(path_, counting_text(5000));
  const auto data = open_dataset(text_config(path_));
  const Batch batch = data->get(1, 0);
  EXPECT_EQ(batch.inputs.shape(), (Shape{2, 8}));
  EXPECT_EQ(batch.inputs.dtype(), DType::i32);
  const auto inputs = batch.inputs.to_vector<int32_t>(),
             targets = batch.targets.to_vector<int32_t>();
  for (size_t i = 0; i < inputs.size(); ++i) EXPECT_EQ(targets[i], (inputs[i] + 1) % 251);
}

TEST_F(TextData, AMicroBatchIsTheSameWheneverAndByWhomeverItIsMade) {
  write_file(path_, counting_text(5000));
  const auto first = open_dataset(text_config(path_)), second = open_dataset(text_config(path_));
  const auto late = second->get(9, 3).inputs.to_vector<int32_t>();
  first->get(1, 0);
  EXPECT_EQ(first->get(9, 3).inputs.to_vector<int32_t>(), late);
  EXPECT_NE(first->get(9, 2).inputs.to_vector<int32_t>(), late);
  EXPECT_NE(first->get(8, 3).inputs.to_vector<int32_t>(), late);
  EXPECT_EQ(first->identity(), second->identity());
}

TEST_F(TextData, SamplesDependOnTheirPlaceInTheGlobalBatchOnly) {
  write_file(path_, counting_text(5000));
  Config whole = text_config(path_);
  whole.train.micro_batch = 8;
  const auto small = open_dataset(text_config(path_)), large = open_dataset(whole);
  std::vector<int32_t> parts;
  for (int64_t micro = 0; micro < 4; ++micro)
    for (const int32_t token : small->get(5, micro).inputs.to_vector<int32_t>())
      parts.push_back(token);
  EXPECT_EQ(parts, large->get(5, 0).inputs.to_vector<int32_t>());
}

TEST_F(TextData, TrainingNeverSeesTheValidationPart) {
  // 900 bytes 'a' for training, 100 bytes 'b' for validation.
  write_file(path_, std::string(900, 'a') + std::string(100, 'b'));
  const auto data = open_dataset(text_config(path_));
  for (int64_t step = 1; step <= 100; ++step)
    for (const Tensor& tensor : {data->get(step, 1).inputs, data->get(step, 1).targets})
      for (const int32_t token : tensor.to_vector<int32_t>()) ASSERT_EQ(token, 'a');
  for (int64_t index = 0; index < 20; ++index)
    for (const int32_t token : data->evaluation(index).inputs.to_vector<int32_t>())
      ASSERT_EQ(token, 'b');
}

TEST_F(TextData, EvaluationIsTheSameForEverySeed) {
  write_file(path_, counting_text(5000));
  Config other = text_config(path_);
  other.run.seed = 99;
  const auto a = open_dataset(text_config(path_)), b = open_dataset(other);
  EXPECT_EQ(a->evaluation(1).inputs.to_vector<int32_t>(),
            b->evaluation(1).inputs.to_vector<int32_t>());
  EXPECT_NE(a->get(1, 1).inputs.to_vector<int32_t>(), b->get(1, 1).inputs.to_vector<int32_t>());
}

TEST_F(TextData, AFolderReadsAsOneTextInNameOrder) {
  const std::string text = counting_text(3000);
  write_file(path_, text);
  const std::string folder = dir_.path() + "/parts";
  std::filesystem::create_directory(folder);
  write_file(folder + "/c", text.substr(1234));
  write_file(folder + "/a", text.substr(0, 1234));
  write_file(folder + "/b-empty", "");
  write_file(folder + "/.hidden", "no");
  const auto one = open_dataset(text_config(path_)), many = open_dataset(text_config(folder));
  EXPECT_EQ(one->identity(), many->identity());
  for (int64_t step = 1; step <= 30; ++step)
    EXPECT_EQ(one->get(step, 0).inputs.to_vector<int32_t>(),
              many->get(step, 0).inputs.to_vector<int32_t>());
}

TEST_F(TextData, ChangedDataHasAnotherIdentity) {
  std::string text = counting_text(5000);
  write_file(path_, text);
  const std::string before = open_dataset(text_config(path_))->identity();
  text[2500] = '!';
  write_file(path_, text);
  EXPECT_NE(open_dataset(text_config(path_))->identity(), before);
}

// 256 samples of 4 KiB leave gaps in a text of 8 MB.
TEST_F(TextData, EveryByteCounts) {
  std::string text = counting_text(8'000'000);
  write_file(path_, text);
  const auto before = open_dataset(text_config(path_));
  const std::string identity = before->identity(), sampled = before->sampled_identity();
  EXPECT_THAT(identity, testing::MatchesRegex("text, 8000000 bytes, xxh3 [0-9a-f]{32}"));
  for (const size_t at : {size_t{15'000}, size_t{4'000'000}, text.size() - 6000}) {
    std::string changed = text;
    changed[at] = '!';
    write_file(path_, changed);
    EXPECT_EQ(open_dataset(text_config(path_))->sampled_identity(), sampled)
        << "no gap at byte " << at;
    EXPECT_NE(open_dataset(text_config(path_))->identity(), identity) << "byte " << at;
  }
  std::swap(text[15'000], text[15'001]);
  write_file(path_, text);
  EXPECT_NE(open_dataset(text_config(path_))->identity(), identity)
      << "the same bytes in another order";
}

TEST_F(TextData, ErrorsSayWhatToDo) {
  EXPECT_THAT(error_of(text_config(path_)),
              HasSubstr("does not exist: set data.path to a text file"));
  EXPECT_THAT(error_of(text_config(dir_.path() + "/data/kjv.txt")),
              HasSubstr("does not exist: run scripts/fetch_kjv, or set data.path"));
  write_file(path_, "");
  EXPECT_THAT(error_of(text_config(path_)), HasSubstr("is empty"));
  write_file(path_, std::string(50, 'a'));
  EXPECT_THAT(error_of(text_config(path_)), HasSubstr("is too short"));
  EXPECT_THAT(error_of(text_config("/dev/null")), HasSubstr("is not a regular file"));
  const std::string folder = dir_.path() + "/nothing";
  std::filesystem::create_directory(folder);
  EXPECT_THAT(error_of(text_config(folder)), HasSubstr("folder without files"));
}

// Kernels on a device could not say it.
TEST_F(TextData, ATokenOutsideOfTheVocabularyIsNamedWithItsPlace) {
  const std::string folder = dir_.path() + "/texts";
  std::filesystem::create_directory(folder);
  write_file(folder + "/a.txt", std::string(60, 'a'));
  write_file(folder + "/b.txt", std::string(60, 'z'));
  Config config = text_config(folder);
  config.data.validation = 0.25;
  config.model.vocab = 'z';
  const auto data = open_dataset(config);
  EXPECT_THAT(test::error_of([&] { data->evaluation(0); }),
              testing::ContainsRegex("data.path: byte [0-9]+ of '.*/texts/b.txt' is token 122, but "
                                     "the model has 122 tokens"));
  config.model.vocab = 'z' + 1;
  EXPECT_NO_THROW(open_dataset(config)->evaluation(0));
}

TEST(DeviceBatches, OfACpuAreTheDatasetsOwn) {
  Config config;
  config.data.kind = DataKind::random;
  const auto data = open_dataset(config);
  DeviceBatches batches(*data, kCpu);
  batches.prefetch(1, 0);
  const Batch batch = batches.get(1, 0);
  EXPECT_EQ(batch.inputs.device(), kCpu);
  EXPECT_EQ(batch.inputs.to_vector<int32_t>(), data->get(1, 0).inputs.to_vector<int32_t>());
  EXPECT_EQ(batches.evaluation(2).targets.to_vector<int32_t>(),
            data->evaluation(2).targets.to_vector<int32_t>());
}

TEST(RandomData, TokensAreInTheVocabularyAndDeterministic) {
  Config config;
  config.data.kind = DataKind::random;
  config.model.vocab = 11;
  const auto data = open_dataset(config);
  const auto tokens = data->get(3, 1).inputs.to_vector<int32_t>();
  EXPECT_EQ(tokens, open_dataset(config)->get(3, 1).inputs.to_vector<int32_t>());
  const std::set<int32_t> distinct(tokens.begin(), tokens.end());
  EXPECT_EQ(distinct.size(), 11u);
  EXPECT_EQ(*distinct.begin(), 0);
  EXPECT_EQ(*distinct.rbegin(), 10);
}

TEST(RandomData, FeaturesComeWithClasses) {
  Config config;
  config.data.kind = DataKind::random;
  config.model.kind = ModelKind::mlp;
  config.model.vocab = 3;
  config.train.micro_batch = 16;
  const Batch batch = open_dataset(config)->get(1, 0);
  EXPECT_EQ(batch.inputs.dtype(), DType::f32);
  EXPECT_EQ(batch.inputs.shape(), (Shape{16, config.model.block}));
  EXPECT_EQ(batch.targets.shape(), (Shape{16}));
  const auto classes = batch.targets.to_vector<int32_t>();
  EXPECT_GT(std::set<int32_t>(classes.begin(), classes.end()).size(), 1u);
}

}  // namespace
}  // namespace lockstep::train
