// Writing, and the format's words.
#include "checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <future>

#include "checkpoint/chunks.h"
#include "checkpoint/digest.h"
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
  written.sha256 = sha256.get();
  return written;
}

}  // namespace lockstep::checkpoint
