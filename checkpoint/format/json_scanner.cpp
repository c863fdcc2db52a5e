#include "checkpoint/format/json_scanner.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <string_view>

#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

constexpr int64_t kWindowBytes = 64 << 10;
constexpr size_t kLongestNumber = 40;  // digits kept for error messages

// Characters that need no decoding: ASCII except quotes, backslashes and control characters.
constexpr std::array<bool, 256> kPlain = [] {
  std::array<bool, 256> plain{};
  for (size_t c = 0x20; c < 0x80; ++c) plain[c] = c != '"' && c != '\\';
  return plain;
}();

bool is_plain(char c) { return kPlain[static_cast<unsigned char>(c)]; }
bool is_digit(int c) { return c >= '0' && c <= '9'; }

std::string name_of(int c) {
  if (c < 0) return "the end";
  if (c == 0) return "a zero byte";
  if (c >= 0x20 && c < 0x7f) return str('\'', static_cast<char>(c), '\'');
  return str("byte 0x", "0123456789abcdef"[c >> 4], "0123456789abcdef"[c & 15]);
}

// Encodes the code point as UTF-8 and returns the number of bytes.
size_t encode(uint32_t code, char (&to)[4]) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) {
    to[0] = static_cast<char>(code);
    return 1;
  }
  if (code < 0x800) {
    to[0] = static_cast<char>(0xc0 | code >> 6);
    to[1] = tail(0);
    return 2;
  }
  if (code < 0x10000) {
    to[0] = static_cast<char>(0xe0 | code >> 12);
    to[1] = tail(6);
    to[2] = tail(0);
    return 3;
  }
  to[0] = static_cast<char>(0xf0 | code >> 18);
  to[1] = tail(12);
  to[2] = tail(6);
  to[3] = tail(0);
  return 4;
}

}  // namespace

JsonScanner::JsonScanner(const ReadAt& read, int64_t offset, int64_t bytes)
    : read_(read),
      offset_(offset),
      unread_(bytes),
      window_bytes_(std::min(kWindowBytes, bytes)),
      window_(std::make_unique_for_overwrite<char[]>(static_cast<size_t>(window_bytes_))) {}

bool JsonScanner::refill() {
  if (unread_ == 0) return false;
  const int64_t bytes = std::min(window_bytes_, unread_);
  read_(offset_, window_.get(), bytes);
  offset_ += bytes;
  unread_ -= bytes;
  at_ = window_.get();
  end_ = at_ + bytes;
  return true;
}

int JsonScanner::peek_further() { return refill() ? peek() : -1; }

void JsonScanner::fail(const std::string& what) const {
  throw Error(str("byte ", offset_ - (end_ - at_), ": ", what));
}
void JsonScanner::fail_here(const std::string& expected) {
  fail(str("expected ", expected, ", got ", name_of(byte())));
}
void JsonScanner::fail_expecting(char c) { fail_here(c == '"' ? "a string" : str('\'', c, '\'')); }

bool JsonScanner::continues(char close) {
  const int c = peek();
  if (c != ',' && c != close) fail_here(str("',' or '", close, '\''));
  ++at_;
  return c == ',';
}

void JsonScanner::expect_end() {
  if (peek() >= 0) fail_here("nothing more");
}

// The string grows by doubling, but never beyond what can still follow. It always has room for one
// more byte, which the caller adds. A new string, as std::string's reserve() itself may double.
void JsonScanner::append(std::string& to, const char* data, size_t bytes) const {
  if (bytes >= to.capacity() - to.size()) {
    std::string grown;
    grown.reserve(to.size() + std::min(std::max(bytes + 1, to.size()), bytes + left()));
    grown += to;
    to.swap(grown);
  }
  to.append(data, bytes);
}

void JsonScanner::string(std::string& to) {
  expect('"');
  for (;;) {
    const char* const run = at_;
    while (at_ != end_ && is_plain(*at_)) ++at_;
    append(to, run, static_cast<size_t>(at_ - run));
    const int c = byte();
    if (c == '"') break;
    if (c == '\\') {
      escape(to);
    } else if (c >= 0x80) {
      character(to);
    } else if (c < 0x20) {
      fail_here("a character of a string");
    }
  }
  ++at_;
}

// Reads a character of several bytes. Overlong forms, surrogates and code points above U+10FFFF
// show in the second byte at the latest.
void JsonScanner::character(std::string& to) {
  const int lead = byte();
  if (lead < 0xc2 || lead > 0xf4) fail_here("UTF-8");
  const size_t bytes = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  int low = lead == 0xe0   ? 0xa0
            : lead == 0xf0 ? 0x90
                           : 0x80,
      high = lead == 0xed   ? 0x9f
             : lead == 0xf4 ? 0x8f
                            : 0xbf;
  char character[4] = {static_cast<char>(lead)};
  ++at_;
  for (size_t i = 1; i < bytes; ++i) {
    const int next = byte();
    if (next < low || next > high) fail_here("UTF-8");
    character[i] = static_cast<char>(next);
    ++at_;
    low = 0x80;
    high = 0xbf;
  }
  append(to, character, bytes);
}

uint32_t JsonScanner::four_digits() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    const int c = byte(), letter = c | 0x20;
    if (!is_digit(c) && (letter < 'a' || letter > 'f'))
      fail_here("four hexadecimal digits after '\\u'");
    value = value << 4 | static_cast<uint32_t>(is_digit(c) ? c - '0' : letter - 'a' + 10);
    ++at_;
  }
  return value;
}

void JsonScanner::escape(std::string& to) {
  static constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
  ++at_;
  const int c = byte();
  if (c != 'u') {
    const size_t letter = c < 0 ? std::string_view::npos : kLetters.find(static_cast<char>(c));
    if (letter == std::string_view::npos) fail_here("an escape after '\\'");
    ++at_;
    return append(to, &kMeanings[letter], 1);
  }
  ++at_;
  uint32_t code = four_digits();
  if (code >= 0xdc00 && code <= 0xdfff)
    fail("the second half of a surrogate pair without its first");
  if (code >= 0xd800 && code <= 0xdbff) {
    for (const char expected : {'\\', 'u'}) {
      if (byte() != expected) fail_here("the second half of a surrogate pair");
      ++at_;
    }
    const uint32_t second = four_digits();
    if (second < 0xdc00 || second > 0xdfff)
      fail("the first half of a surrogate pair without its second");
    code = 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
  }
  char character[4];
  append(to, character, encode(code, character));
}

std::optional<int64_t> JsonScanner::count() {
  if (const int c = peek(); c != '-' && !is_digit(c)) return std::nullopt;
  int64_t value = 0;
  const char* digit = at_;
  for (; digit != end_ && is_digit(*digit) && digit - at_ < 18; ++digit)
    value = 10 * value + (*digit - '0');
  // The fast path takes only what is certainly a whole number; any_number() handles the rest.
  if (digit != at_ && digit != end_ && (*digit == ',' || *digit == ']') &&
      (*at_ != '0' || digit - at_ == 1)) {
    at_ = digit;
    return value;
  }
  const std::optional<int64_t> number = any_number();
  if (number) number_.clear();
  return number;
}

void JsonScanner::take(int c) {
  if (number_.size() < kLongestNumber) number_ += static_cast<char>(c);
  ++at_;
}

std::optional<int64_t> JsonScanner::any_number() {
  number_.clear();
  bool whole = true;
  const auto digits = [&] {
    const int first = byte();
    size_t count = 0;
    for (int c = first; is_digit(c); c = byte(), ++count) take(c);
    if (count == 0) fail_here("a digit");
    return first == '0' && count > 1;
  };
  if (byte() == '-') {
    whole = false;
    take('-');
  }
  if (digits()) fail("a number with a leading zero");
  if (byte() == '.') {
    whole = false;
    take('.');
    digits();
  }
  if (const int c = byte(); c == 'e' || c == 'E') {
    whole = false;
    take(c);
    if (const int sign = byte(); sign == '+' || sign == '-') take(sign);
    digits();
  }
  int64_t value = 0;
  const auto parsed = std::from_chars(number_.data(), number_.data() + number_.size(), value);
  return whole && parsed.ec == std::errc() ? std::optional(value) : std::nullopt;
}

std::string JsonScanner::described() {
  if (!number_.empty()) return number_;
  const int c = peek();
  if (c == '"') return "a string";
  if (c == '{') return "an object";
  if (c == '[') return "a list";
  if (c == '-' || is_digit(c)) {
    any_number();
    return number_;
  }
  for (const std::string_view word : {"null", "true", "false"}) {
    if (c != word[0]) continue;
    for (const char letter : word) {
      if (byte() != letter) fail_here("a value");
      ++at_;
    }
    return std::string(word);
  }
  fail_here("a value");
}

}  // namespace lockstep::checkpoint
