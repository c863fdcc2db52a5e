// Numbers in texts that people write or read. MB is 10^6 bytes wherever a user meets it, also `_mb`
// in keys and figures. 2^20 bytes are a MiB.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lockstep {

inline constexpr double kMB = 1e6;

// Parses the whole text as a number, in C's decimal form without a plus sign. Returns nothing if it
// is not a number or does not fit T.
template <typename T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Parses "5GB", "1500MB", "64MiB" or "1000" to bytes. Returns nothing unless it is a whole number
// above 0 of these units: B, KB, MB, GB, KiB, MiB, GiB.
std::optional<int64_t> parse_size(std::string_view text);

// Uses the largest unit of which there is at least one: "812 B", "3.4 KB", "56.0 MB", "1.2 GB".
std::string size_text(double bytes);

// "1 rank", "2 ranks".
std::string count_text(long long count, const std::string& noun, const char* plural = "s");

}  // namespace lockstep
