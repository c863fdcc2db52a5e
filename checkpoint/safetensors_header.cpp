// Reading: the header is taken apart as it is parsed, so nothing is built that the format has no place for.
#include <algorithm>
#include <array>
#include <cstring>

#include "checkpoint/readable_file.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/strict_json.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

constexpr int64_t kMaxHeaderBytes = 100'000'000;
constexpr std::string_view kMetadata = "__metadata__";

struct Word {
  std::string_view name;
  int bits;
};
constexpr std::array kWords = {Word{"BOOL", 8},        Word{"F4", 4},      Word{"F6_E2M3", 6}, Word{"F6_E3M2", 6}, Word{"U8", 8},
                               Word{"I8", 8},          Word{"F8_E5M2", 8}, Word{"F8_E4M3", 8}, Word{"F8_E8M0", 8}, Word{"F8_E4M3FNUZ", 8},
                               Word{"F8_E5M2FNUZ", 8}, Word{"I16", 16},    Word{"U16", 16},    Word{"F16", 16},    Word{"BF16", 16},
                               Word{"I32", 32},        Word{"U32", 32},    Word{"F32", 32},    Word{"C64", 64},    Word{"F64", 64},
                               Word{"I64", 64},        Word{"U64", 64}};

// Receives the header's JSON piece by piece, from a parser that neither recurses nor keeps anything.
class HeaderHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(const std::string& path, int64_t data_bytes) : path_(path), data_bytes_(data_bytes) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { return misplaced("null"); }
  bool boolean(bool) override { return misplaced("true or false"); }
  bool number_integer(number_integer_t value) override { return misplaced(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return misplaced(text); }
  bool binary(binary_t&) override { return misplaced("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::shape && place_ != Place::offsets) return misplaced(std::to_string(value));
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return misplaced(std::to_string(value));
    auto& list = place_ == Place::shape ? dims_ : offsets_;
    const size_t most = place_ == Place::shape ? static_cast<size_t>(Shape::kMaxDims) : 2;
    if (list.size() == most) fail(str("'", field_, "' has more than ", most, " numbers"));
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::metadata) {
      if (!header_.metadata.emplace(field_, std::move(value)).second) fail(str("the key ", shown(field_), " is there twice"));
      return true;
    }
    if (place_ != Place::tensor || field_ != "dtype") return misplaced("a string");
    dtype_ = std::move(value);
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::outside) {
      place_ = Place::top;
    } else if (place_ == Place::top) {
      seen_ = {};
      place_ = name_ == kMetadata ? Place::metadata : Place::tensor;
    } else {
      return misplaced("an object");
    }
    return true;
  }

  bool key(string_t& key) override {
    if (place_ == Place::top) {
      name_ = std::move(key);
      if (name_ == kMetadata && std::exchange(has_metadata_, true)) fail("the key '__metadata__' is there twice");
      return true;
    }
    field_ = std::move(key);
    if (place_ == Place::metadata) return true;
    const auto known = std::find(kFields.begin(), kFields.end(), field_);
    if (known == kFields.end()) fail(str("unknown key ", shown(field_)));
    bool& seen = seen_[static_cast<size_t>(known - kFields.begin())];
    if (std::exchange(seen, true)) fail(str("the key '", field_, "' is there twice"));
    return true;
  }

  bool end_object() override {
    if (place_ == Place::tensor) add_tensor();
    place_ = place_ == Place::top ? Place::outside : Place::top;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::tensor || field_ == "dtype") return misplaced("a list");
    place_ = field_ == "shape" ? Place::shape : Place::offsets;
    (place_ == Place::shape ? dims_ : offsets_).clear();
    return true;
  }
  bool end_array() override {
    place_ = Place::tensor;
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& e) override { throw invalid_json(path_, e); }

 private:
  enum class Place : uint8_t { outside, top, metadata, tensor, shape, offsets };
  static constexpr std::array<std::string_view, 3> kFields = {"dtype", "shape", "data_offsets"};

  [[noreturn]] void fail(const std::string& what) const {
    const bool inside = place_ != Place::outside && !name_.empty();
    throw EnvironmentError(str(path_, ": ", inside ? str(name_ == kMetadata ? "" : "tensor ", shown(name_), ": ") : std::string(), what));
  }

  // A value where the format has none of its kind.
  bool misplaced(const std::string& got) const {
    if (place_ == Place::outside || place_ == Place::top) fail(str("expected an object, got ", got));
    if (place_ == Place::metadata) fail(str(shown(field_), ": expected strings only, got ", got));
    if (place_ == Place::tensor) fail(str("'", field_, "': expected ", field_ == "dtype" ? "a string" : "a list", ", got ", got));
    fail(str("'", field_, "': expected integers of 0 or more, got ", got));
  }

  void add_tensor() {
    for (size_t i = 0; i < kFields.size(); ++i)
      if (!seen_[i]) fail(str("'", kFields[i], "' is missing"));
    SafetensorsInfo info{.name = name_, .dtype = std::move(dtype_), .shape = {}, .begin = 0, .bytes = 0};
    const int bits = safetensors_bits(info.dtype);
    if (bits == 0) fail(str("unknown dtype ", shown(info.dtype)));
    const int64_t needed = checked_bytes(dims_, bits);
    if (needed < 0) fail("its shape is no whole number of bytes, or too large");
    info.shape = Shape(std::span<const int64_t>(dims_));
    if (offsets_.size() != 2 || offsets_[0] > offsets_[1] || offsets_[1] > data_bytes_)
      fail(str("data_offsets must be two ascending numbers up to ", data_bytes_, ", got ", Shape(std::span<const int64_t>(offsets_))));
    info.begin = offsets_[0];
    info.bytes = offsets_[1] - offsets_[0];
    if (info.bytes != needed) fail(str(info.dtype, info.shape, " needs ", needed, " bytes, data_offsets span ", info.bytes));
    header_.tensors.push_back(std::move(info));
  }

  const std::string& path_;
  int64_t data_bytes_;
  SafetensorsHeader header_;
  Place place_ = Place::outside;
  bool has_metadata_ = false;
  std::string name_, field_;  // of the object and of the value in it that come next
  std::array<bool, 3> seen_{};
  std::string dtype_;
  std::vector<int64_t> dims_, offsets_;
};

void check_names(std::vector<SafetensorsInfo>& tensors, const std::string& path) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice != tensors.end()) throw EnvironmentError(str(path, ": the key ", shown(twice->name), " is there twice"));
}

// Tensors must follow each other without holes or overlaps, to the end.
void check_coverage(std::vector<SafetensorsInfo>& tensors, int64_t data_bytes, const std::string& path) {
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const auto& a, const auto& b) { return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes); });
  int64_t at = 0;
  for (const auto& info : tensors) {
    if (info.begin != at)
      throw EnvironmentError(str(path, ": tensor ", shown(info.name), " starts at offset ", info.begin, ", expected ", at,
                                 info.begin > at ? " (a hole before it)" : " (it overlaps the one before)"));
    at += info.bytes;
  }
  if (at != data_bytes) throw EnvironmentError(str(path, ": the tensors end at offset ", at, ", the file's data at ", data_bytes));
}

}  // namespace

int safetensors_bits(std::string_view dtype) {
  for (const Word& known : kWords)
    if (known.name == dtype) return known.bits;
  return 0;
}

SafetensorsHeader read_safetensors_header(const std::string& path, int64_t file_bytes, const ReadAt& read) {
  if (file_bytes < 8) throw EnvironmentError(str(path, ": ", file_bytes, " bytes are too few for a safetensors file"));
  uint64_t length = 0;
  read(0, &length, 8);
  const auto limit = static_cast<uint64_t>(std::min(kMaxHeaderBytes, file_bytes - 8));
  if (length > limit) throw EnvironmentError(str(path, ": claims a header of ", length, " bytes, but at most ", limit, " can be"));
  std::string text(length, '\0');
  read(8, text.data(), static_cast<int64_t>(length));
  if (text.empty() || text[0] != '{') throw EnvironmentError(str(path, ": byte 8: the header must start with '{'"));

  // The parser takes a zero byte for the end, and would not see what follows.
  if (text.find('\0') != std::string::npos) throw EnvironmentError(str(path, ": not valid JSON: a zero byte in the header"));

  const int64_t data_begin = 8 + static_cast<int64_t>(length);
  HeaderHandler handler(path, file_bytes - data_begin);
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  SafetensorsHeader header = handler.take();
  check_names(header.tensors, path);
  check_coverage(header.tensors, file_bytes - data_begin, path);
  for (auto& info : header.tensors) info.begin += data_begin;
  return header;
}

SafetensorsHeader read_safetensors_header(const ReadableFile& file) {
  return read_safetensors_header(file.path(), file.bytes(),
                                 [&](int64_t offset, void* data, int64_t bytes) { file.read(offset, data, bytes); });
}

SafetensorsHeader read_safetensors_header(const std::string& path) { return read_safetensors_header(*open_file(path)); }

}  // namespace lockstep::checkpoint
