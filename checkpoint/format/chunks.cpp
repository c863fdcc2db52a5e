#include "checkpoint/format/chunks.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace lockstep::checkpoint {
namespace {

constexpr std::string_view kDigits = "0123456789abcdef";
constexpr size_t kDigitsPerSum = 16;

}  // namespace

uint64_t xxh3(const void* data, int64_t bytes) {
  return XXH3_64bits(data, static_cast<size_t>(bytes));
}

std::string hex_of(const std::vector<uint64_t>& sums) {
  std::string text;
  text.reserve(sums.size() * kDigitsPerSum);
  for (const uint64_t sum : sums)
    for (int shift = 60; shift >= 0; shift -= 4) text += kDigits[(sum >> shift) & 15];
  return text;
}

std::string hex_of(uint64_t sum) { return hex_of(std::vector<uint64_t>{sum}); }

bool parse_sums(std::string_view text, int64_t count, std::vector<uint64_t>& sums) {
  if (text.size() % kDigitsPerSum != 0 ||
      static_cast<int64_t>(text.size() / kDigitsPerSum) != count)
    return false;
  sums.assign(static_cast<size_t>(count), 0);
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t digit = kDigits.find(text[i]);
    if (digit == std::string_view::npos) return false;
    sums[i / kDigitsPerSum] = sums[i / kDigitsPerSum] << 4 | digit;
  }
  return true;
}

}  // namespace lockstep::checkpoint
