#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <future>

#include "checkpoint/chunks.h"
#include "checkpoint/digest.h"
#include "checkpoint/readable_file.h"
#include "checkpoint/strict_json.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian, and so is everything that lockstep runs on");

constexpr int64_t kMaxHeaderBytes = 100'000'000;
constexpr const char* kMetadata = "__metadata__";

struct Word {
  std::string_view name;
  int bits;
};
constexpr std::array kWords = {Word{"BOOL", 8},        Word{"F4", 4},      Word{"F6_E2M3", 6}, Word{"F6_E3M2", 6}, Word{"U8", 8},
                               Word{"I8", 8},          Word{"F8_E5M2", 8}, Word{"F8_E4M3", 8}, Word{"F8_E8M0", 8}, Word{"F8_E4M3FNUZ", 8},
                               Word{"F8_E5M2FNUZ", 8}, Word{"I16", 16},    Word{"U16", 16},    Word{"F16", 16},    Word{"BF16", 16},
                               Word{"I32", 32},        Word{"U32", 32},    Word{"F32", 32},    Word{"C64", 64},    Word{"F64", 64},
                               Word{"I64", 64},        Word{"U64", 64}};

int bits_of(std::string_view word) {
  for (const Word& known : kWords)
    if (known.name == word) return known.bits;
  return 0;
}

// One tensor of the header, with `begin` still relative to the data.
SafetensorsInfo parse_info(const std::string& name, const nlohmann::json& value, int64_t data_bytes, const std::string& path) {
  const std::string what = str("tensor '", name, "'");
  const JsonFields fields(value, {"dtype", "shape", "data_offsets"}, path, what);
  SafetensorsInfo info{.name = name, .dtype = fields.text("dtype"), .shape = {}, .begin = 0, .bytes = 0};
  const int bits = bits_of(info.dtype);
  if (bits == 0) throw EnvironmentError(str(path, ": ", what, ": unknown dtype '", info.dtype, "'"));
  const auto dims = fields.integers("shape");
  const int64_t needed = checked_bytes(dims, bits);
  if (needed < 0)
    throw EnvironmentError(
        str(path, ": ", what, ": its shape is no whole number of bytes, too large, or has more than ", Shape::kMaxDims, " dimensions"));
  info.shape = Shape(std::span<const int64_t>(dims));
  const auto offsets = fields.integers("data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes)
    throw EnvironmentError(
        str(path, ": ", what, ": data_offsets must be two ascending numbers up to ", data_bytes, ", got ", value["data_offsets"].dump()));
  info.begin = offsets[0];
  info.bytes = offsets[1] - offsets[0];
  if (info.bytes != needed)
    throw EnvironmentError(
        str(path, ": ", what, ": ", info.dtype, info.shape, " needs ", needed, " bytes, data_offsets span ", info.bytes));
  return info;
}

// Tensors must follow each other without holes or overlaps, to the end.
void check_coverage(const std::vector<SafetensorsInfo>& tensors, int64_t data_bytes, const std::string& path) {
  int64_t at = 0;
  for (const auto& info : tensors) {
    if (info.begin != at)
      throw EnvironmentError(str(path, ": tensor '", info.name, "' starts at offset ", info.begin, ", expected ", at,
                                 info.begin > at ? " (a hole before it)" : " (it overlaps the one before)"));
    at += info.bytes;
  }
  if (at != data_bytes) throw EnvironmentError(str(path, ": the tensors end at offset ", at, ", the file's data at ", data_bytes));
}

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

SafetensorsHeader read_safetensors_header(const std::string& path) { return read_safetensors_header(*open_file(path)); }

SafetensorsHeader read_safetensors_header(const ReadableFile& file) {
  const std::string& path = file.path();
  if (file.bytes() < 8) throw EnvironmentError(str(path, ": ", file.bytes(), " bytes are too few for a safetensors file"));
  uint64_t length = 0;
  file.read(0, &length, 8);
  const auto limit = static_cast<uint64_t>(std::min(kMaxHeaderBytes, file.bytes() - 8));
  if (length > limit) throw EnvironmentError(str(path, ": claims a header of ", length, " bytes, but at most ", limit, " can be"));
  std::string text(length, '\0');
  file.read(8, text.data(), static_cast<int64_t>(length));
  if (text.empty() || text[0] != '{') throw EnvironmentError(str(path, ": byte 8: the header must start with '{'"));

  const nlohmann::json json = parse_strict_json(text, path);
  const int64_t data_begin = 8 + static_cast<int64_t>(length);
  const int64_t data_bytes = file.bytes() - data_begin;
  SafetensorsHeader header;
  for (const auto& item : json.items()) {
    if (item.key() != kMetadata) header.tensors.push_back(parse_info(item.key(), item.value(), data_bytes, path));
  }
  if (json.contains(kMetadata)) {
    const nlohmann::json wrapped = {{kMetadata, json[kMetadata]}};
    header.metadata = JsonFields(wrapped, {kMetadata}, path, "header").texts(kMetadata);
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const auto& a, const auto& b) { return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes); });
  check_coverage(header.tensors, data_bytes, path);
  for (auto& info : header.tensors) info.begin += data_begin;
  return header;
}

std::string make_safetensors_header(SafetensorsHeader& header) {
  std::sort(header.tensors.begin(), header.tensors.end(), [](const auto& a, const auto& b) {
    const int left = bits_of(a.dtype), right = bits_of(b.dtype);
    return left != right ? left > right : a.name < b.name;
  });
  nlohmann::json json = nlohmann::json::object();
  if (!header.metadata.empty()) json[kMetadata] = header.metadata;
  int64_t at = 0;
  for (auto& info : header.tensors) {
    const std::vector<int64_t> dims(info.shape.begin(), info.shape.end());
    info.begin = at;
    info.bytes = checked_bytes(dims, bits_of(info.dtype));
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

namespace {

constexpr int64_t kWorthAThread = 4 << 20;

// Calls body(data, bytes) for chunk after chunk of the tensors, until `stop`.
template <typename Body>
void each_chunk(const std::vector<Tensor>& tensors, const std::function<bool()>& stop, const Body& body) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto* data = static_cast<const char*>(tensors[i].raw());
    for (int64_t at = 0; at < tensors[i].bytes() && !stop(); at += kChunkBytes)
      body(i, data + at, std::min(kChunkBytes, tensors[i].bytes() - at));
  }
}

}  // namespace

WrittenFile write_safetensors(FileSystem& files, const std::string& path, std::string_view header_bytes, const std::vector<Tensor>& tensors,
                              const std::atomic<bool>* stop) {
  const auto file = files.create(path);
  std::atomic<bool> failed = false;
  const auto stopped = [&] { return failed || (stop && *stop); };
  int64_t total = 0;
  for (const Tensor& tensor : tensors) total += tensor.bytes();
  WrittenFile written;
  written.bytes = static_cast<int64_t>(header_bytes.size());
  written.header_xxh3 = xxh3(header_bytes);
  written.xxh3.resize(tensors.size());
  // The hashes take about as long as a fast disk: so both at once, and this thread writes only.
  auto sha256 = std::async(total < kWorthAThread ? std::launch::deferred : std::launch::async, [&] {
    Sha256 hash;
    hash.update(header_bytes);
    each_chunk(tensors, stopped, [&](size_t tensor, const char* data, int64_t bytes) {
      written.xxh3[tensor].push_back(xxh3(data, bytes));
      hash.update(data, static_cast<size_t>(bytes));
    });
    return hash.hex();
  });
  try {
    file->write(header_bytes.data(), header_bytes.size());
    each_chunk(tensors, stopped, [&](size_t, const char* data, int64_t bytes) {
      file->write(data, static_cast<size_t>(bytes));
      written.bytes += bytes;
    });
    if (!stopped()) file->sync();
  } catch (...) {
    failed = true;
    throw;
  }
  const auto begin = Clock::now();
  written.sha256 = sha256.get();
  written.held_by_checksums = Clock::now() - begin;
  return written;
}

}  // namespace lockstep::checkpoint
