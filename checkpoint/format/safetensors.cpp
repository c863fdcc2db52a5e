// The format's names of types, and the header of a file.
#include "checkpoint/format/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "checkpoint/format/strict_json.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors is little-endian, and so is everything that lockstep runs on");

constexpr std::string_view kMetadata = "__metadata__";

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
  for (const DType dtype :
       {DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8, DType::boolean})
    if (safetensors_dtype(dtype) == word) return dtype;
  return std::nullopt;
}

namespace {

std::string quoted(std::string_view text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw UsageError(
        str("[safetensors] ", shown(text), " cannot be a name or metadata: it is not UTF-8"));
  }
}

void check_length(const std::string& text, const SafetensorsHeader& header) {
  check(static_cast<int64_t>(text.size()) <= kMaxSafetensorsHeaderBytes,
        "[safetensors] the header of ", header.tensors.size(), " tensors would need more than the ",
        kMaxSafetensorsHeaderBytes,
        " bytes that readers accept: spread the tensors over more files (a checkpoint has one for "
        "each rank, an export as many as "
        "--max-shard-size asks for), or shorten names and metadata");
}

}  // namespace

std::string make_safetensors_header(SafetensorsHeader& header) {
  SafetensorsTensors& tensors = header.tensors;
  tensors.sort_by_width();
  if (const auto name = tensors.repeated_name())
    throw UsageError(str("[safetensors] two tensors have the name ", shown(*name)));
  if (const auto key = header.metadata.repeated_key())
    throw UsageError(str("[safetensors] metadata has the key ", shown(*key), " twice"));
  std::string text = "{";
  const auto begin_next = [&] { text += text.back() == '{' ? "" : ","; };
  if (!header.metadata.empty()) {
    text += quoted(kMetadata) + ":{";
    header.metadata.each([&](std::string_view key, std::string_view value) {
      begin_next();
      text += quoted(key) + ':' + quoted(value);
      check_length(text, header);
    });
    text += '}';
  }
  int64_t at = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const SafetensorsInfo info = tensors[i];
    int64_t end = 0;
    if (info.name == kMetadata || __builtin_add_overflow(at, info.bytes, &end))
      throw UsageError(str("[safetensors] tensor ", shown(info.name), " cannot be stored"));
    begin_next();
    text += str(quoted(info.name), R"(:{"dtype":")", info.dtype, R"(","shape":[)");
    for (int d = 0; d < info.shape.size(); ++d) {
      if (d > 0) text += ',';
      text += std::to_string(info.shape[d]);
    }
    text += str(R"(],"data_offsets":[)", at, ',', end, "]}");
    check_length(text, header);
    tensors.set_begin(i, at);
    at = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');  // aligns the data
  check_length(text, header);
  const uint64_t length = text.size();
  tensors.move_by(8 + static_cast<int64_t>(length));
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + text;
}

}  // namespace lockstep::checkpoint
