// What reading a header takes, of headers as large as the format allows: at most twice their length and 256 KiB, good or bad.
#include <cstring>

#include "checkpoint/safetensors.h"
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
      header.text.copy(static_cast<char*>(data), static_cast<size_t>(bytes), static_cast<size_t>(offset - 8));
    }
  };
  fuzz::reset_peak();
  const std::string said = error_of([&] { read_safetensors_header("f", 8 + length + header.data_bytes, read); });
  const size_t peak = fuzz::peak_bytes();
  EXPECT_THAT(said, ::testing::HasSubstr(header.error.empty() ? "(no error)" : header.error));
  EXPECT_LE(peak, 2 * header.text.size() + (256 << 10));
  if (peak == 0) GTEST_SKIP() << "a sanitizer has its own operator new: the memory was not counted";
}

INSTANTIATE_TEST_SUITE_P(Safetensors, LargeHeaders, ::testing::Range(size_t{0}, test::large_headers().size()), [](const auto& param) {
  std::string name = test::large_headers()[param.param].name;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

}  // namespace
}  // namespace lockstep::checkpoint
