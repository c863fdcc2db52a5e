// The checksums of a checkpoint's chunks: one 64-bit XXH3 for each MiB
// (docs/formats/checkpoint.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::checkpoint {

constexpr int64_t kChunkBytes = 1 << 20;

uint64_t xxh3(const void* data, int64_t bytes);
inline uint64_t xxh3(std::string_view text) {
  return xxh3(text.data(), static_cast<int64_t>(text.size()));
}

// Returns the number of chunks in that many bytes.
constexpr int64_t chunk_count(int64_t bytes) { return (bytes + kChunkBytes - 1) / kChunkBytes; }

// Formats sums as text: 16 lower-case hex digits each, without separators.
std::string hex_of(const std::vector<uint64_t>& sums);
std::string hex_of(uint64_t sum);
// The reverse. Returns false unless the text is exactly `count` sums.
bool parse_sums(std::string_view text, int64_t count, std::vector<uint64_t>& sums);

}  // namespace lockstep::checkpoint
