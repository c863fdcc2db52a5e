// Reads headers. The text is parsed as it arrives, so memory never holds more than a window of
// it.
#include <algorithm>
#include <array>
#include <limits>
#include <span>

#include "checkpoint/files/readable_file.h"
#include "checkpoint/format/json_scanner.h"
#include "checkpoint/format/safetensors.h"
#include "checkpoint/format/strict_json.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

constexpr std::string_view kMetadata = "__metadata__";
constexpr std::array<std::string_view, 3> kFields = {"dtype", "shape", "data_offsets"};

// Reads one header of a file with `data_bytes` bytes of data.
class HeaderReader {
 public:
  HeaderReader(const std::string& path, const ReadAt& read, int64_t bytes, int64_t data_bytes)
      : path_(path), data_bytes_(data_bytes), in_(read, 8, bytes) {}

  SafetensorsHeader read() {
    try {
      in_.expect('{');
      for (bool more = in_.begins('}'); more; more = in_.continues('}')) read_member();
      in_.expect_end();
    } catch (const JsonScanner::Error& e) {
      fail(str("not valid JSON: ", e.what()));
    }
    SafetensorsHeader header{.metadata = SafetensorsMetadata::of_text(std::move(metadata_)),
                             .tensors = std::move(tensors_)};
    check_keys(header);
    check_coverage(header.tensors);
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    const std::string place = !inside_             ? ""
                              : name_ == kMetadata ? "'__metadata__': "
                                                   : str("tensor ", shown(name_), ": ");
    throw EnvironmentError(str(path_, ": ", place, what));
  }

  void read_member() {
    name_.clear();
    in_.string(name_);
    in_.expect(':');
    if (name_ == kMetadata && std::exchange(has_metadata_, true))
      fail("the key '__metadata__' is there twice");
    inside_ = true;
    if (in_.peek() != '{') fail(str("expected an object, got ", in_.described()));
    in_.expect('{');
    name_ == kMetadata ? read_metadata() : read_tensor();
    inside_ = false;
  }

  void read_metadata() {
    for (bool more = in_.begins('}'); more; more = in_.continues('}')) {
      const size_t key = metadata_.size();
      read_text();
      in_.expect(':');
      if (in_.peek() != '"') {
        const std::string name =
            shown(std::string_view(metadata_).substr(key, metadata_.size() - 1 - key));
        fail(str(name, ": expected strings only, got ", in_.described()));
      }
      read_text();
    }
  }
  void read_text() {
    in_.string(metadata_);
    metadata_ += SafetensorsMetadata::kEnd;
  }

  void read_tensor() {
    std::array<bool, kFields.size()> seen{};
    for (bool more = in_.begins('}'); more; more = in_.continues('}')) {
      field_.clear();
      in_.string(field_);
      in_.expect(':');
      const auto field =
          static_cast<size_t>(std::find(kFields.begin(), kFields.end(), field_) - kFields.begin());
      if (field == kFields.size()) fail(str("unknown key ", shown(field_)));
      if (std::exchange(seen[field], true)) fail(str("the key '", field_, "' is there twice"));
      if (field == 0) read_dtype();
      if (field == 1) read_list(dims_, dim_count_);
      if (field == 2) read_list(offsets_, offset_count_);
    }
    for (size_t i = 0; i < kFields.size(); ++i)
      if (!seen[i]) fail(str("'", kFields[i], "' is missing"));
    add_tensor();
  }

  void read_dtype() {
    if (in_.peek() != '"') fail(str("'dtype': expected a string, got ", in_.described()));
    dtype_.clear();
    in_.string(dtype_);
  }

  template <size_t kMost>
  void read_list(std::array<int64_t, kMost>& list, size_t& count) {
    if (in_.peek() != '[') fail(str("'", field_, "': expected a list, got ", in_.described()));
    in_.expect('[');
    count = 0;
    for (bool more = in_.begins(']'); more; more = in_.continues(']')) {
      const std::optional<int64_t> value = in_.count();
      if (!value)
        fail(str("'", field_, "': expected integers of 0 or more, got ", in_.described()));
      if (count == kMost) fail(str("'", field_, "' has more than ", kMost, " numbers"));
      list[count++] = *value;
    }
  }

  void add_tensor() {
    const int bits = safetensors_bits(dtype_);
    if (bits == 0) fail(str("unknown dtype ", shown(dtype_)));
    const std::span<const int64_t> dims(dims_.data(), dim_count_),
        offsets(offsets_.data(), offset_count_);
    const int64_t needed = checked_bytes(dims, bits);
    if (needed < 0) fail("its shape is not a whole number of bytes, or too large");
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes_)
      fail(str("data_offsets must be two ascending numbers up to ", data_bytes_, ", got ",
               Shape(offsets)));
    const int64_t bytes = offsets[1] - offsets[0];
    if (bytes != needed)
      fail(str(dtype_, Shape(dims), " needs ", needed, " bytes, data_offsets span ", bytes));
    tensors_.push_back({.name = name_,
                        .dtype = dtype_,
                        .shape = Shape(dims),
                        .begin = offsets[0],
                        .bytes = bytes});
  }

  void check_keys(const SafetensorsHeader& header) const {
    if (const auto key = header.metadata.repeated_key())
      throw EnvironmentError(
          str(path_, ": '__metadata__': the key ", shown(*key), " is there twice"));
    if (const auto name = header.tensors.repeated_name())
      throw EnvironmentError(str(path_, ": the key ", shown(*name), " is there twice"));
  }

  // The tensors must cover the data to its end, without holes or overlaps.
  void check_coverage(SafetensorsTensors& tensors) const {
    tensors.sort_by_begin();
    int64_t at = 0;
    for (const SafetensorsInfo info : tensors) {
      if (info.begin != at)
        throw EnvironmentError(str(
            path_, ": tensor ", shown(info.name), " starts at offset ", info.begin, ", expected ",
            at, info.begin > at ? " (a hole before it)" : " (it overlaps the one before)"));
      at += info.bytes;
    }
    if (at != data_bytes_)
      throw EnvironmentError(
          str(path_, ": the tensors end at offset ", at, ", the file's data at ", data_bytes_));
  }

  const std::string& path_;
  int64_t data_bytes_;
  JsonScanner in_;
  SafetensorsTensors tensors_;
  std::string metadata_;  // in the format of SafetensorsMetadata
  bool has_metadata_ = false;
  bool inside_ = false;  // parsing the member called name_
  std::string name_, field_, dtype_;
  std::array<int64_t, Shape::kMaxDims> dims_{};
  std::array<int64_t, 2> offsets_{};
  size_t dim_count_ = 0, offset_count_ = 0;
};

}  // namespace

SafetensorsHeader read_safetensors_header(const std::string& path, int64_t file_bytes,
                                          const ReadAt& read) {
  if (file_bytes < 8)
    throw EnvironmentError(
        str(path, ": ", file_bytes, " bytes are too few for a safetensors file"));
  uint64_t length = 0;
  read(0, &length, 8);
  const auto limit = static_cast<uint64_t>(std::min(kMaxSafetensorsHeaderBytes, file_bytes - 8));
  if (length > limit)
    throw EnvironmentError(
        str(path, ": claims a header of ", length, " bytes, but at most ", limit, " can be"));
  char first = 0;
  if (length > 0) read(8, &first, 1);
  if (first != '{') throw EnvironmentError(str(path, ": byte 8: the header must start with '{'"));
  const int64_t data_begin = 8 + static_cast<int64_t>(length);
  SafetensorsHeader header =
      HeaderReader(path, read, static_cast<int64_t>(length), file_bytes - data_begin).read();
  header.tensors.move_by(data_begin);
  return header;
}

SafetensorsHeader read_safetensors_header(const ReadableFile& file) {
  return read_safetensors_header(
      file.path(), file.bytes(),
      [&](int64_t offset, void* data, int64_t bytes) { file.read(offset, data, bytes); });
}

SafetensorsHeader read_safetensors_header(const std::string& path) {
  return read_safetensors_header(*open_file(path));
}

}  // namespace lockstep::checkpoint
