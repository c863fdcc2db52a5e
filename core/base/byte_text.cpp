#include "core/base/byte_text.h"

#include <cstdint>

namespace lockstep {
namespace {

constexpr std::string_view kDigits = "0123456789ABCDEF";

// Returns the length of the UTF-8 character that begins here, or 0 if none does.
size_t character_at(std::string_view bytes) {
  const auto byte = [&](size_t i) {
    return i < bytes.size() ? static_cast<uint8_t>(bytes[i]) : uint8_t{0};
  };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xc2 && lead < 0xe0   ? 2
                        : lead >= 0xe0 && lead < 0xf0 ? 3
                        : lead >= 0xf0 && lead < 0xf5 ? 4
                                                      : 0;
  if (length == 0 || bytes.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  // Refuse overlong forms, surrogates, and values beyond the end of Unicode.
  const bool wrong = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) >= 0xa0) ||
                     (lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) >= 0x90);
  return wrong ? 0 : length;
}

int digit_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// Returns the byte of a word \xHH that begins here, or -1 if none does.
int word_at(std::string_view text) {
  if (text.size() < 4 || text[0] != '\\' || text[1] != 'x' || digit_of(text[2]) < 0 ||
      digit_of(text[3]) < 0)
    return -1;
  return digit_of(text[2]) * 16 + digit_of(text[3]);
}

}  // namespace

size_t find_no_utf8(std::string_view bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const size_t length = character_at(bytes.substr(at));
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

std::string text_of_bytes(std::string_view bytes) {
  std::string text;
  for (size_t at = 0; at < bytes.size();) {
    const size_t length = character_at(bytes.substr(at));
    if (length == 0 || word_at(bytes.substr(at)) >= 0) {
      const auto byte = static_cast<uint8_t>(bytes[at++]);
      text += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    } else {
      text += bytes.substr(at, length);
      at += length;
    }
  }
  return text;
}

std::string bytes_of_text(std::string_view text) {
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const int byte = word_at(text.substr(at));
    bytes += byte >= 0 ? static_cast<char>(byte) : text[at];
    at += byte >= 0 ? 4 : 1;
  }
  return bytes;
}

}  // namespace lockstep
