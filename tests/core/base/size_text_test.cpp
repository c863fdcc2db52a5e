#include "core/base/size_text.h"

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

}  // namespace
}  // namespace lockstep
