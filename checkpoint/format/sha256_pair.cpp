#include "checkpoint/format/sha256_pair.h"

#include <algorithm>
#include <cstring>

#include "checkpoint/format/sha256_instructions.h"

namespace lockstep::checkpoint {
namespace {

// FIPS 180-4, 5.3.3.
constexpr std::array<uint32_t, 8> kStart = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                            0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

}  // namespace

bool Sha256Pair::has_instructions() {
  return __builtin_cpu_supports("sha") && __builtin_cpu_supports("ssse3") &&
         __builtin_cpu_supports("sse4.1");
}

Sha256Pair::Sha256Pair(Sha256Path path) {
  if (path == Sha256Path::openssl || !has_instructions()) {
    openssl_ = std::vector<Sha256>(2);
    return;
  }
  for (Stream& stream : streams_) stream.state = kStart;
}

void Sha256Pair::fill_block(Stream& stream, const uint8_t*& data, size_t& bytes) {
  const size_t taken = std::min(bytes, kBlock - stream.begun_bytes);
  if (taken > 0) std::memcpy(stream.begun.data() + stream.begun_bytes, data, taken);
  stream.begun_bytes += taken;
  data += taken;
  bytes -= taken;
  if (stream.begun_bytes < kBlock) return;
  sha256_blocks(stream.state.data(), stream.begun.data(), 1);
  stream.begun_bytes = 0;
}

void Sha256Pair::update(const void* first, size_t first_bytes, const void* second,
                        size_t second_bytes) {
  if (!openssl_.empty()) {
    openssl_[0].update(first, first_bytes);
    openssl_[1].update(second, second_bytes);
    return;
  }
  std::array<const uint8_t*, 2> data = {static_cast<const uint8_t*>(first),
                                        static_cast<const uint8_t*>(second)};
  std::array<size_t, 2> bytes = {first_bytes, second_bytes};
  for (size_t i = 0; i < 2; ++i) {
    streams_[i].bytes += bytes[i];
    if (streams_[i].begun_bytes > 0) fill_block(streams_[i], data[i], bytes[i]);
  }
  const size_t together = std::min(bytes[0], bytes[1]) / kBlock;
  sha256_blocks_of_two(streams_[0].state.data(), data[0], streams_[1].state.data(), data[1],
                       together);
  for (size_t i = 0; i < 2; ++i) {
    const size_t alone = bytes[i] / kBlock - together;
    if (alone > 0) sha256_blocks(streams_[i].state.data(), data[i] + together * kBlock, alone);
    const uint8_t* rest = data[i] + (together + alone) * kBlock;
    size_t rest_bytes = bytes[i] % kBlock;
    if (rest_bytes > 0) fill_block(streams_[i], rest, rest_bytes);
  }
}

// The padding of FIPS 180-4, 5.1.1: a bit 1, zeros, and the length in bits, most significant byte
// first.
std::string Sha256Pair::end(Stream& stream) {
  const uint64_t bits = stream.bytes * 8;
  std::array<uint8_t, 2 * kBlock> padding{0x80};
  size_t bytes = (stream.begun_bytes < kBlock - 8 ? kBlock : 2 * kBlock) - stream.begun_bytes;
  for (size_t i = 0; i < 8; ++i) padding[bytes - 1 - i] = static_cast<uint8_t>(bits >> 8 * i);
  for (const uint8_t* at = padding.data(); bytes > 0;) fill_block(stream, at, bytes);
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const uint32_t word : stream.state)
    for (int shift = 28; shift >= 0; shift -= 4) text += kDigits[word >> shift & 15];
  return text;
}

std::array<std::string, 2> Sha256Pair::hex() {
  if (!openssl_.empty()) return {openssl_[0].hex(), openssl_[1].hex()};
  return {end(streams_[0]), end(streams_[1])};
}

}  // namespace lockstep::checkpoint
