// The format's words, and what a file starts with.
#include "checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "checkpoint/strict_json.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian, and so is everything that lockstep runs on");

constexpr const char* kMetadata = "__metadata__";

}  // namespace

std::string_view safetensors_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32: return "F32";
    case DType::bf16: return "BF16";
    case DType::f16: return "F16";
    case DType::i64: return "I64";
    case DType::i32: return "I32";
    case DType::u8: return "U8";
    case DType::boolean: return "BOOL";
  }
  throw UsageError("[safetensors] unknown dtype");
}

std::optional<DType> dtype_of_safetensors(std::string_view word) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8, DType::boolean})
    if (safetensors_dtype(dtype) == word) return dtype;
  return std::nullopt;
}

std::string make_safetensors_header(SafetensorsHeader& header) {
  std::sort(header.tensors.begin(), header.tensors.end(), [](const auto& a, const auto& b) {
    const int left = safetensors_bits(a.dtype), right = safetensors_bits(b.dtype);
    return left != right ? left > right : a.name < b.name;
  });
  nlohmann::json json = nlohmann::json::object();
  if (!header.metadata.empty()) json[kMetadata] = header.metadata;
  int64_t at = 0;
  for (auto& info : header.tensors) {
    const std::vector<int64_t> dims(info.shape.begin(), info.shape.end());
    info.begin = at;
    info.bytes = checked_bytes(dims, safetensors_bits(info.dtype));
    check(info.bytes >= 0 && info.name != kMetadata, "[safetensors] tensor '", info.name, "' cannot be stored");
    at += info.bytes;
    json[info.name] = {{"dtype", info.dtype}, {"shape", dims}, {"data_offsets", {info.begin, at}}};
  }
  std::string text = json.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data is aligned
  const uint64_t length = text.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  for (auto& info : header.tensors) info.begin += 8 + static_cast<int64_t>(length);
  return bytes + text;
}

}  // namespace lockstep::checkpoint
