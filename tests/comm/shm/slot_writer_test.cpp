#include "comm/shm/slot_writer.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

namespace lockstep::comm::shm {
namespace {

// Enough copies that both ways are taken, whichever is the faster one here.
TEST(SlotWriter, CopiesEveryByteAndNoOther) {
  constexpr size_t kRoom = 70000, kEdge = 80;
  std::vector<unsigned char> from(kRoom), to(kRoom + 2 * kEdge);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<unsigned char>(i * 31 + i / 251);
  SlotWriter writer;
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{8191}, size_t{8192}, size_t{8193},
                             size_t{65536}, size_t{69931}}) {
    for (size_t offset = 0; offset < kEdge; ++offset) {
      std::fill(to.begin(), to.end(), static_cast<unsigned char>(0xee));
      const size_t source = offset % 3;
      const size_t n = std::min(bytes, from.size() - source);
      writer.copy(to.data() + offset, from.data() + source, n);
      ASSERT_EQ(std::memcmp(to.data() + offset, from.data() + source, n), 0)
          << n << " bytes at " << offset;
      const auto untouched = [](unsigned char c) { return c == 0xee; };
      const auto begin = to.begin() + static_cast<std::ptrdiff_t>(offset),
                 end = begin + static_cast<std::ptrdiff_t>(n);
      ASSERT_TRUE(std::all_of(to.begin(), begin, untouched) &&
                  std::all_of(end, to.end(), untouched))
          << n << " bytes at " << offset;
    }
  }
}

}  // namespace
}  // namespace lockstep::comm::shm
