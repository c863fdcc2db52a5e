// What reading a header takes, of headers as large as the format allows: at most twice their length
// and 256 KiB, good or bad. And that tensors and indices which are opened to be compared take no
// more.
#include <cstring>

#include "checkpoint/exchange/safetensors_index.h"
#include "checkpoint/exchange/tensor_source.h"
#include "checkpoint/format/safetensors.h"
#include "tests/checkpoint/helpers.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/large_headers.h"

namespace lockstep::checkpoint {
namespace {

class LargeHeaders : public ::testing::TestWithParam<size_t> {};

TEST_P(LargeHeaders, TakeTwiceTheirLengthAtMost) {
  const test::LargeHeader header = test::large_headers()[GetParam()].make();
  ASSERT_LE(header.text.size(), test::kLargeHeaderBytes);
  ASSERT_GT(header.text.size(), test::kLargeHeaderBytes * 8 / 10);
  const auto length = static_cast<int64_t>(header.text.size());
  const ReadAt read = [&](int64_t offset, void* data, int64_t bytes) {
    if (offset == 0) {
      ASSERT_EQ(bytes, 8);
      std::memcpy(data, &length, 8);
    } else {
      header.text.copy(static_cast<char*>(data), static_cast<size_t>(bytes),
                       static_cast<size_t>(offset - 8));
    }
  };
  fuzz::reset_peak();
  const std::string said =
      error_of([&] { read_safetensors_header("f", 8 + length + header.data_bytes, read); });
  const size_t peak = fuzz::peak_bytes();
  EXPECT_THAT(said, ::testing::HasSubstr(header.error.empty() ? "(no error)" : header.error));
  EXPECT_LE(peak, 2 * header.text.size() + (256 << 10));
  if (peak == 0) GTEST_SKIP() << "a sanitizer has its own operator new: the memory was not counted";
}

INSTANTIATE_TEST_SUITE_P(Safetensors, LargeHeaders,
                         ::testing::Range(size_t{0}, test::large_headers().size()),
                         [](const auto& param) {
                           std::string name = test::large_headers()[param.param].name;
                           for (char& c : name)
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

TEST(TensorSource, TakesNoMoreThanReadingTheHeader) {
  const test::LargeHeader header = test::large_headers()[0].make();
  const test::TempDir dir;
  const std::string path = dir.path() + "/m.safetensors";
  const uint64_t length = header.text.size();
  write_file(path, std::string(reinterpret_cast<const char*>(&length), 8) + header.text);
  fuzz::reset_peak();
  const auto source = open_tensors(path);
  const size_t peak = fuzz::peak_bytes();
  EXPECT_GT(source->size(), 1'500'000u);
  for (const size_t i : {size_t{0}, size_t{1}, source->size() / 2, source->size() - 1})
    EXPECT_EQ(source->find(source->name(i)), i);
  EXPECT_EQ(source->find("none of them"), std::nullopt);
  EXPECT_LE(peak, 2 * length + (256 << 10));
  if (peak == 0) GTEST_SKIP() << "a sanitizer has its own operator new: the memory was not counted";
}

TEST(SafetensorsIndex, TakesTwiceItsLengthAtMost) {
  std::string text = R"({"metadata":{"total_size":0},"weight_map":{)";
  constexpr size_t kTensors = 500'000;
  for (size_t i = 0; i < kTensors; ++i)
    text += str(i > 0 ? "," : "", '"', test::short_name(i), "\":\"model-0000", i % 8 + 1,
                "-of-00008.safetensors\"");
  text += "}}";
  const test::TempDir dir;
  write_file(dir.path() + "/index.json", text);
  fuzz::reset_peak();
  const SafetensorsIndex index = SafetensorsIndex::read(dir.path() + "/index.json");
  const size_t peak = fuzz::peak_bytes();
  EXPECT_EQ(index.size(), kTensors);
  EXPECT_EQ(index.files().size(), 8u);
  EXPECT_LE(peak, 2 * text.size() + (256 << 10));
  if (peak == 0) GTEST_SKIP() << "a sanitizer has its own operator new: the memory was not counted";
}

}  // namespace
}  // namespace lockstep::checkpoint
