#include "checkpoint/format/manifest.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "checkpoint/format/chunks.h"
#include "checkpoint/format/strict_json.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "lockstep-checkpoint";
constexpr std::string_view kFolderPrefix = "step-";
// No file is larger. Sums of such sizes do not overflow.
constexpr int64_t kMostFileBytes = int64_t{1} << 60, kMostHeaderBytes = 100'000'008;

bool is_sha256(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

DType parse_dtype(const std::string& word, const std::string& path, const std::string& what) {
  for (const DType dtype :
       {DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8, DType::boolean})
    if (name_of(dtype) == word) return dtype;
  throw EnvironmentError(str(path, ": ", what, ": unknown dtype ", shown(word)));
}

bool is_plain_name(const std::string& name) {
  constexpr size_t kLongest = 255;  // for a file name
  const auto forbidden = [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '/'; };
  return !name.empty() && name.size() <= kLongest && name[0] != '.' &&
         std::none_of(name.begin(), name.end(), forbidden) && name != Manifest::kFileName &&
         name != Manifest::kSumsName;
}

std::vector<int64_t> list_of(const Shape& dims) { return {dims.begin(), dims.end()}; }

// Reads a manifest of any version; `path` is for messages.
class Parser {
 public:
  Parser(const json& all, int64_t version, const std::string& path) : path_(path) {
    const JsonFields fields(
        all, {"format", "version", "step", "world_size", "metadata", "files", "entries"}, path,
        "manifest");
    manifest_.version = version;
    manifest_.step = fields.integer("step");
    manifest_.world_size = fields.integer("world_size");
    manifest_.metadata = fields.texts("metadata");
    for (const json& file : fields.list("files")) manifest_.files.push_back(parse_file(file));
    for (const auto& item : fields.object("entries").items()) {
      const ManifestEntry entry = parse_entry(item.key(), item.value());
      manifest_.entries.emplace(item.key(), entry);
    }
    if (version == 1) return;
    const auto files = static_cast<int64_t>(manifest_.files.size());
    const bool fits = version == 2 ? manifest_.world_size == files
                                   : manifest_.world_size >= 1 && manifest_.world_size <= files;
    if (!fits) fail("'world_size' is ", manifest_.world_size, ", but there are ", files, " files");
    check_files_are_covered();
  }
  Manifest take() { return std::move(manifest_); }

 private:
  template <typename... Args>
  [[noreturn]] void fail(const Args&... message) const {
    throw EnvironmentError(str(path_, ": ", message...));
  }

  ManifestFile parse_file(const json& value) {
    const bool first = manifest_.version == 1;
    const JsonFields fields(value, first ? kFileKeys1 : kFileKeys2, path_, "a file");
    ManifestFile file{.name = fields.text("name"),
                      .bytes = fields.integer("bytes"),
                      .sha256 = fields.text("sha256")};
    // Names are appended to the folder's path. A name must not lead out of the folder, and no file
    // may be listed twice.
    if (!is_plain_name(file.name)) fail(shown(file.name), " cannot be the name of a shard file");
    if (!names_.insert(file.name).second) fail("file '", file.name, "' is there twice");
    if (file.bytes > kMostFileBytes)
      fail("file '", file.name, "': ", file.bytes, " bytes are too many");
    if (!is_sha256(file.sha256)) fail("file '", file.name, "': sha256 must be 64 hex digits");
    if (first) return file;
    file.header_bytes = fields.integer("header_bytes");
    if (file.header_bytes > kMostHeaderBytes)
      fail("file '", file.name, "': a header of ", file.header_bytes, " bytes is too long");
    std::vector<uint64_t> sums;
    if (!parse_sums(fields.text("header_xxh3"), 1, sums))
      fail("file '", file.name, "': header_xxh3 must be 16 hex digits");
    file.header_xxh3 = sums[0];
    return file;
  }

  Piece parse_piece(const json& value, DType dtype, const Shape& shape,
                    const std::string& what) const {
    const bool sums = manifest_.version > 1;
    const bool box = manifest_.version >= Manifest::kBoxVersion && value.is_object() &&
                     value.contains("offsets");
    const JsonFields fields(value, box ? kBoxKeys : sums ? kPieceKeys2 : kPieceKeys1, path_, what);
    Piece piece{.file = fields.integer("file"), .begin = fields.integer("begin")};
    piece.part = box ? parse_box(fields, shape, what) : parse_run(fields, shape, what);
    if (piece.file >= static_cast<int64_t>(manifest_.files.size()))
      fail(what, ": file ", piece.file, " of ", manifest_.files.size());
    const ManifestFile& file = manifest_.files[static_cast<size_t>(piece.file)];
    const int64_t room = piece.begin > file.bytes ? 0 : (file.bytes - piece.begin) / size_of(dtype),
                  length = piece.part.length();
    if (length > room)
      fail(what, ": ", length, " elements at byte ", piece.begin, " do not lie in '", file.name,
           "' of ", file.bytes, " bytes");
    const int64_t chunks = chunk_count(length * size_of(dtype));
    if (sums && !parse_sums(fields.text("xxh3"), chunks, piece.xxh3))
      fail(what, ": xxh3 must be 16 hex digits for each of ", chunks,
           chunks == 1 ? " chunk" : " chunks");
    return piece;
  }

  ShardSpec parse_run(const JsonFields& fields, const Shape& shape, const std::string& what) const {
    const int64_t offset = fields.integer("offset"), length = fields.integer("length"),
                  elements = shape.numel();
    if (length == 0) fail(what, ": a piece at element ", offset, " has no elements");
    if (length > elements || offset > elements - length)
      fail(what, ": a piece of ", length, " elements from element ", offset,
           " on does not lie in the ", elements, " of ", shape);
    return {shape, offset, length};
  }

  ShardSpec parse_box(const JsonFields& fields, const Shape& shape, const std::string& what) const {
    const auto offsets = fields.integers("offsets"), lengths = fields.integers("lengths");
    const auto dims = static_cast<size_t>(shape.size());
    if (offsets.size() != dims || lengths.size() != dims)
      fail(what, ": a box with ", offsets.size(), " offsets and ", lengths.size(),
           " lengths in a tensor of ", dims, " dimensions");
    for (int dim = 0; dim < shape.size(); ++dim) {
      const int64_t offset = offsets[static_cast<size_t>(dim)],
                    length = lengths[static_cast<size_t>(dim)];
      if (length == 0)
        fail(what, ": a box has no elements: its length in dimension ", dim, " is 0");
      if (length > shape[dim] || offset > shape[dim] - length)
        fail(what, ": a box of ", length, " from ", offset, " on in dimension ", dim,
             " does not lie in ", shape);
    }
    const ShardSpec box = ShardSpec::box(shape, Shape(std::span<const int64_t>(offsets)),
                                         Shape(std::span<const int64_t>(lengths)));
    if (!box.is_box())
      fail(what, ": a box whose elements lie back to back must be given as 'offset' ", box.offset(),
           " and 'length' ", box.length());
    return box;
  }

  ManifestEntry parse_entry(const std::string& name, const json& value) const {
    const std::string what = "entry " + shown(name);
    const JsonFields fields(value, {"dtype", "shape", "pieces"}, path_, what);
    ManifestEntry entry;
    entry.dtype = parse_dtype(fields.text("dtype"), path_, what);
    const auto dims = fields.integers("shape");
    if (checked_bytes(dims, 8 * size_of(entry.dtype)) < 0) fail(what, ": impossible shape");
    entry.shape = Shape(std::span<const int64_t>(dims));
    for (const json& item : fields.list("pieces")) {
      entry.pieces.push_back(parse_piece(item, entry.dtype, entry.shape, what));
      if (entry.pieces.size() < 2) continue;
      const ShardSpec &last = std::prev(entry.pieces.end(), 2)->part,
                      &part = entry.pieces.back().part;
      if (part.offset() <= last.offset())
        fail(what, ": a piece that starts at element ", part.offset(), " comes after one at ",
             last.offset());
    }
    check_coverage(entry, what);
    return entry;
  }

  void check_coverage(const ManifestEntry& entry, const std::string& what) const {
    std::vector<ShardSpec> parts;
    for (const Piece& piece : entry.pieces) parts.push_back(piece.part);
    const std::optional<CoverFault> fault = find_cover_fault(entry.shape, parts);
    if (!fault) return;
    const std::string element = str("element ", fault->element, ", index ",
                                    index_text(entry.shape, fault->element), ", of ", entry.shape);
    if (fault->holders.empty()) fail(what, ": no piece holds ", element);
    fail(what, ": two pieces hold ", element, ": ", parts[fault->holders[0]], " and ",
         parts[fault->holders[1]]);
  }

  // The header and the pieces must leave no gap, so that their checksums cover every byte.
  void check_files_are_covered() const {
    const auto pieces = pieces_by_file(manifest_);
    for (size_t i = 0; i < manifest_.files.size(); ++i) {
      const ManifestFile& file = manifest_.files[i];
      int64_t at = file.header_bytes;
      for (const PlacedPiece& placed : pieces[i]) {
        if (placed.piece->begin != at)
          fail("entry ", shown(*placed.name), " starts at byte ", placed.piece->begin, " of '",
               file.name, "', expected ", at);
        at += placed.bytes;
      }
      if (at != file.bytes)
        fail("file '", file.name, "': its tensors end at byte ", at, " of ", file.bytes);
    }
  }

  static constexpr std::initializer_list<const char*> kFileKeys1 = {"name", "bytes", "sha256"};
  static constexpr std::initializer_list<const char*> kFileKeys2 = {"name", "bytes", "sha256",
                                                                    "header_bytes", "header_xxh3"};
  static constexpr std::initializer_list<const char*> kPieceKeys1 = {"file", "begin", "offset",
                                                                     "length"};
  static constexpr std::initializer_list<const char*> kPieceKeys2 = {"file", "begin", "offset",
                                                                     "length", "xxh3"};
  static constexpr std::initializer_list<const char*> kBoxKeys = {"file", "begin", "offsets",
                                                                  "lengths", "xxh3"};

  const std::string& path_;
  Manifest manifest_;
  std::set<std::string> names_;  // of the files read so far
};

}  // namespace

std::string to_json(const Manifest& manifest) {
  const bool first = manifest.version == 1;
  json files = json::array();
  for (const auto& file : manifest.files) {
    json out = {{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}};
    if (!first)
      out.update({{"header_bytes", file.header_bytes}, {"header_xxh3", hex_of(file.header_xxh3)}});
    files.push_back(std::move(out));
  }
  json entries = json::object();
  for (const auto& [name, entry] : manifest.entries) {
    json pieces = json::array();
    for (const auto& piece : entry.pieces) {
      json out = {{"file", piece.file}, {"begin", piece.begin}};
      if (piece.part.is_box())
        out.update({{"offsets", list_of(piece.part.offsets())},
                    {"lengths", list_of(piece.part.lengths())}});
      else
        out.update({{"offset", piece.part.offset()}, {"length", piece.part.length()}});
      if (!first) out["xxh3"] = hex_of(piece.xxh3);
      pieces.push_back(std::move(out));
    }
    entries[name] = {{"dtype", std::string(name_of(entry.dtype))},
                     {"shape", list_of(entry.shape)},
                     {"pieces", std::move(pieces)}};
  }
  const json all = {{"format", kFormat},
                    {"version", manifest.version},
                    {"step", manifest.step},
                    {"world_size", manifest.world_size},
                    {"metadata", manifest.metadata},
                    {"files", std::move(files)},
                    {"entries", std::move(entries)}};
  return all.dump(1) + "\n";
}

Manifest parse_manifest(std::string_view text, const std::string& path) {
  const json all = parse_strict_json(text, path);
  // Check this first: a later version may have other keys.
  if (!all.is_object() || !all.contains("format") || all["format"] != kFormat)
    throw EnvironmentError(
        str(path, ": not the manifest of a checkpoint: \"format\" must be \"", kFormat, "\""));
  const json version = all.value("version", json());
  if (!version.is_number_unsigned() || version < 1 || version > Manifest::kBoxVersion)
    throw EnvironmentError(str(path, ": this program reads checkpoints of version 1 to ",
                               Manifest::kBoxVersion, ", this one has version ",
                               version.is_null() ? "none" : shown_value(version)));
  return Parser(all, version.get<int64_t>(), path).take();
}

std::string place_text(const ShardSpec& part) {
  return part.is_box() ? str("box ", part)
                       : str("offset ", part.offset(), " of ", part.global_shape());
}

std::vector<std::vector<PlacedPiece>> pieces_by_file(const Manifest& manifest) {
  std::vector<std::vector<PlacedPiece>> files(manifest.files.size());
  for (const auto& [name, entry] : manifest.entries)
    for (const Piece& piece : entry.pieces)
      files[static_cast<size_t>(piece.file)].push_back(
          {&name, &entry, &piece, piece.part.length() * size_of(entry.dtype)});
  for (auto& pieces : files)
    std::sort(pieces.begin(), pieces.end(),
              [](const auto& a, const auto& b) { return a.piece->begin < b.piece->begin; });
  return files;
}

std::string sums_text(const Manifest& manifest, const std::string& manifest_sha256) {
  std::string text = str(manifest_sha256, "  ", Manifest::kFileName, "\n");
  for (const auto& file : manifest.files) text += str(file.sha256, "  ", file.name, "\n");
  return text;
}

std::string step_folder(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

int64_t step_of_folder(std::string_view name) {
  if (name.substr(0, kFolderPrefix.size()) != kFolderPrefix) return -1;
  const std::string digits(name.substr(kFolderPrefix.size()));
  if (digits.size() < 8 || digits.size() > 18 ||
      digits.find_first_not_of("0123456789") != std::string::npos)
    return -1;
  const int64_t step = std::stoll(digits);
  return step_folder(step) == name ? step : -1;
}

}  // namespace lockstep::checkpoint
