#include "checkpoint/format/safetensors_entries.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <span>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "checkpoint/format/strict_json.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

struct Word {
  std::string_view name;
  int bits;
};
constexpr std::array kWords = {
    Word{"F32", 32},        Word{"BF16", 16},       Word{"F16", 16},    Word{"BOOL", 8},
    Word{"F4", 4},          Word{"F6_E2M3", 6},     Word{"F6_E3M2", 6}, Word{"U8", 8},
    Word{"I8", 8},          Word{"F8_E5M2", 8},     Word{"F8_E4M3", 8}, Word{"F8_E8M0", 8},
    Word{"F8_E4M3FNUZ", 8}, Word{"F8_E5M2FNUZ", 8}, Word{"I16", 16},    Word{"U16", 16},
    Word{"I32", 32},        Word{"U32", 32},        Word{"C64", 64},    Word{"F64", 64},
    Word{"I64", 64},        Word{"U64", 64}};

size_t word_of(std::string_view dtype) {
  return static_cast<size_t>(std::find_if(kWords.begin(), kWords.end(),
                                          [&](const Word& word) { return word.name == dtype; }) -
                             kWords.begin());
}

constexpr size_t kFirstBlock = 1 << 10, kLargestBlock = 64 << 10;

// Sorts in place by the lowest `bits` bits, one byte at a time, the highest byte first. Hashes are
// spread evenly, so after one or two levels the pieces fit a cache.
void sort_hashes(std::span<uint64_t> hashes, int bits = 64) {
  if (hashes.size() < 512 || bits == 0) return std::sort(hashes.begin(), hashes.end());
  const int shift = bits - 8;
  std::array<size_t, 256> next{}, end{};
  for (const uint64_t hash : hashes) ++end[hash >> shift & 0xff];
  for (size_t i = 0, sum = 0; i < 256; ++i) {
    next[i] = sum;
    end[i] = sum += end[i];
  }
  for (size_t bucket = 0; bucket < 256; ++bucket) {
    while (next[bucket] < end[bucket]) {
      uint64_t hash = hashes[next[bucket]];
      for (size_t to = hash >> shift & 0xff; to != bucket; to = hash >> shift & 0xff)
        std::swap(hash, hashes[next[to]++]);
      hashes[next[bucket]++] = hash;
    }
  }
  for (size_t i = 0, begin = 0; i < 256; begin = end[i++])
    sort_hashes(hashes.subspan(begin, end[i] - begin), shift);
}

// Finds a key that occurs twice among `count` keys; each(body) passes every key to body(). It
// compares hashes, because a set of keys would take more memory than the text itself. Each process
// has another seed, so nobody can craft keys with equal hashes.
template <typename Each>
std::optional<std::string_view> repeated(size_t count, const Each& each) {
  static const uint64_t seed = (uint64_t{std::random_device{}()} << 32) + std::random_device{}();
  const auto hash_of = [](std::string_view key) {
    return static_cast<uint64_t>(XXH3_64bits_withSeed(key.data(), key.size(), seed));
  };
  std::vector<uint64_t> hashes;
  hashes.reserve(count);
  each([&](std::string_view key) { hashes.push_back(hash_of(key)); });
  sort_hashes(hashes);
  for (auto twice = hashes.begin();
       (twice = std::adjacent_find(twice, hashes.end())) != hashes.end(); ++twice) {
    std::vector<std::string_view> alike;  // different keys may share a hash by an unlikely chance
    std::optional<std::string_view> found;
    each([&](std::string_view key) {
      if (found || hash_of(key) != *twice) return;
      if (std::find(alike.begin(), alike.end(), key) != alike.end()) found = key;
      alike.push_back(key);
    });
    if (found) return found;
  }
  return std::nullopt;
}

}  // namespace

int safetensors_bits(std::string_view dtype) {
  const size_t word = word_of(dtype);
  return word < kWords.size() ? kWords[word].bits : 0;
}

char* SafetensorsTensors::room(size_t bytes) {
  if (blocks_.empty() || bytes > block_bytes_ - used_) {
    block_bytes_ =
        std::max(bytes, blocks_.empty() ? kFirstBlock : std::min(kLargestBlock, 2 * block_bytes_));
    blocks_.push_back(std::make_unique_for_overwrite<char[]>(block_bytes_));
    used_ = 0;
  }
  return blocks_.back().get() + std::exchange(used_, used_ + bytes);
}

void SafetensorsTensors::push_back(const SafetensorsInfo& info) {
  const size_t word = word_of(info.dtype);
  if (word == kWords.size())
    throw UsageError(
        str("[safetensors] tensor ", shown(info.name), ": unknown dtype ", shown(info.dtype)));
  const std::span<const int64_t> dims(info.shape.begin(), info.shape.end());
  const int64_t bytes = checked_bytes(dims, kWords[word].bits);
  if (bytes < 0 || info.name.size() > UINT32_MAX)
    throw UsageError(
        str("[safetensors] tensor ", shown(info.name), " of ", info.dtype, info.shape,
            " cannot be stored: its shape is not a whole number of bytes, or too large"));
  char* const data = room(info.name.size() + dims.size_bytes());
  std::copy(info.name.begin(), info.name.end(), data);
  std::memcpy(data + info.name.size(), dims.data(), dims.size_bytes());
  // Grow by half instead of doubling, because the old and new records exist at once.
  if (records_.size() == records_.capacity())
    records_.reserve(records_.size() + records_.size() / 2 + 8);
  records_.push_back({.data = data,
                      .begin = info.begin,
                      .name_bytes = static_cast<uint32_t>(info.name.size()),
                      .word = static_cast<uint8_t>(word),
                      .dims = static_cast<uint8_t>(dims.size()),
                      .empty = bytes == 0});
}

SafetensorsInfo SafetensorsTensors::operator[](size_t i) const {
  const Record& record = records_[i];
  std::array<int64_t, Shape::kMaxDims> dims{};
  std::memcpy(dims.data(), record.data + record.name_bytes, record.dims * sizeof(int64_t));
  const std::span<const int64_t> shape(dims.data(), record.dims);
  const Word& word = kWords[record.word];
  return {record.name(), word.name, Shape(shape), record.begin,
          record.empty ? 0 : checked_bytes(shape, word.bits)};
}

void SafetensorsTensors::sort_by_width() {
  std::sort(records_.begin(), records_.end(), [](const Record& a, const Record& b) {
    const int left = kWords[a.word].bits, right = kWords[b.word].bits;
    return left != right ? left > right : a.name() < b.name();
  });
}

void SafetensorsTensors::sort_by_begin() {
  const auto before = [](const Record& a, const Record& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.empty > b.empty;
  };
  if (!std::is_sorted(records_.begin(), records_.end(), before))
    std::stable_sort(records_.begin(), records_.end(), before);
}

std::optional<std::string_view> SafetensorsTensors::repeated_name() const {
  return repeated(records_.size(), [&](const auto& body) {
    for (const Record& record : records_) body(record.name());
  });
}

SafetensorsMetadata SafetensorsMetadata::of_text(std::string text) {
  SafetensorsMetadata metadata;
  metadata.text_ = std::move(text);
  return metadata;
}

void SafetensorsMetadata::add(std::string_view key, std::string_view value) {
  for (const std::string_view text : {key, value}) {
    if (text.find(kEnd) != std::string_view::npos)
      throw UsageError(str("[safetensors] metadata ", shown(key), ": is not UTF-8"));
    (text_ += text) += kEnd;
  }
}

size_t SafetensorsMetadata::size() const {
  return static_cast<size_t>(std::count(text_.begin(), text_.end(), kEnd)) / 2;
}

std::optional<std::string_view> SafetensorsMetadata::find(std::string_view key) const {
  std::optional<std::string_view> found;
  each([&](std::string_view k, std::string_view value) {
    if (!found && k == key) found = value;
  });
  return found;
}

std::optional<std::string_view> SafetensorsMetadata::repeated_key() const {
  return repeated(size(), [&](const auto& body) {
    each([&](std::string_view key, std::string_view) { body(key); });
  });
}

}  // namespace lockstep::checkpoint
