#include "core/base/number_text.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(SizeText, TakesTheUnitThatFits) {
  EXPECT_EQ(size_text(0), "0 B");
  EXPECT_EQ(size_text(999), "999 B");
  EXPECT_EQ(size_text(1000), "1.0 KB");
  EXPECT_EQ(size_text(63'000), "63.0 KB");
  EXPECT_EQ(size_text(999'949), "999.9 KB");
  EXPECT_EQ(size_text(999'960), "1.0 MB");
  EXPECT_EQ(size_text(1 << 20), "1.0 MB");
  EXPECT_EQ(size_text(4.3e9), "4.3 GB");
  EXPECT_EQ(size_text(2.5e16), "25000.0 TB");
}

TEST(CountText, HasPlurals) {
  EXPECT_EQ(count_text(1, "rank"), "1 rank");
  EXPECT_EQ(count_text(2, "rank"), "2 ranks");
  EXPECT_EQ(count_text(4, "micro-batch", "es"), "4 micro-batches");
}

TEST(ParseNumber, TakesWholeTextsOnly) {
  EXPECT_EQ(parse_number<int>("-12"), -12);
  EXPECT_EQ(parse_number<double>("2.5e3"), 2500.0);
  for (const char* text : {"", " 1", "1 ", "+1", "1x", "x", "0x10", "99999999999"})
    EXPECT_EQ(parse_number<int>(text), std::nullopt) << text;
}

TEST(ParseSize, TakesUnitsOfTenAndOfTwo) {
  EXPECT_EQ(parse_size("1000"), 1000);
  EXPECT_EQ(parse_size("7B"), 7);
  EXPECT_EQ(parse_size("5GB"), 5000000000);
  EXPECT_EQ(parse_size("64MiB"), 64 << 20);
  EXPECT_EQ(parse_size("3KB"), 3000);
  EXPECT_EQ(parse_size("3KiB"), 3072);
  EXPECT_EQ(parse_size("1500MB"), 1500000000);
  EXPECT_EQ(parse_size("2GiB"), int64_t{2} << 30);
}

TEST(ParseSize, RefusesWhatIsNoSize) {
  for (const char* text : {"", "0", "0MB", "-1", "MB", "1.5MB", "1 MB", "1mb", "1TB",
                           "99999999999999999999", "9223372036854775807KB"})
    EXPECT_EQ(parse_size(text), std::nullopt) << text;
}

}  // namespace
}  // namespace lockstep
