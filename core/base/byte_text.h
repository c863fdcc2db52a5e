// Bytes as text. File names and messages from elsewhere may hold any bytes, but JSON and YAML take
// only UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lockstep {

// Position of the first byte that is not part of a UTF-8 character (RFC 3629). npos: there is none.
size_t find_no_utf8(std::string_view bytes);

// Converts bytes to UTF-8 without loss. Each byte that is not UTF-8 becomes \xHH. So does a
// backslash that begins such a word. All else stays the same.
std::string text_of_bytes(std::string_view bytes);
// Converts back: each word \xHH, with two hex digits, becomes that byte.
std::string bytes_of_text(std::string_view text);

}  // namespace lockstep
