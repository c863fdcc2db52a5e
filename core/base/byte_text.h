// Bytes as text: names of files and messages of others may hold any bytes, JSON and YAML take UTF-8
// alone.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lockstep {

// The first byte that is not part of a character of UTF-8 (RFC 3629); npos: all are.
size_t find_no_utf8(std::string_view bytes);

// The same bytes as UTF-8, without loss: each byte that is no UTF-8 becomes \xHH, and so does a
// backslash that begins such a word. What is UTF-8 and holds no such word stays as it is.
std::string text_of_bytes(std::string_view bytes);
// Back again: each word \xHH, with two hex digits, becomes that byte.
std::string bytes_of_text(std::string_view text);

}  // namespace lockstep
