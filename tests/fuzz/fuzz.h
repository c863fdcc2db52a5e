// Fuzz targets keep libFuzzer's entry, so that clang's fuzzer can drive them; where that is not
// there, standalone_main.cpp does, with a corpus, fixed seeds and a fixed number of rounds. What a
// target finds it reports by aborting.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lockstep::fuzz {

// The most bytes that operator new has had out at once since the call of reset_peak(); 0 where
// nobody counts (under a sanitizer).
void reset_peak();
size_t peak_bytes();

inline void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

// Readers that build a tree of the text need some 50 bytes for each of its bytes (a key and a value
// of one letter each, say).
inline void require_justified(size_t input_bytes, size_t per_byte = 64) {
  require(peak_bytes() <= per_byte * input_bytes + 16384, "memory that the input does not justify");
}

// Nothing in it that a terminal would obey.
inline bool is_printable(std::string_view text) {
  return std::none_of(text.begin(), text.end(),
                      [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

// What is said of an input, however long that is.
inline void require_fit_for_terminal(std::string_view text, size_t fewer_bytes_than = 1000) {
  require(text.size() < fewer_bytes_than && is_printable(text),
          "a text that is not fit for a terminal");
}

}  // namespace lockstep::fuzz
