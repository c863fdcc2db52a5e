#include "checkpoint/manifest.h"

#include <cstdio>

#include "checkpoint/strict_json.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "lockstep-checkpoint";
constexpr std::string_view kFolderPrefix = "step-";

bool is_sha256(const std::string& text) { return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos; }

DType parse_dtype(const std::string& word, const std::string& path, const std::string& what) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8, DType::boolean})
    if (name_of(dtype) == word) return dtype;
  throw EnvironmentError(str(path, ": ", what, ": unknown dtype '", word, "'"));
}

ManifestFile parse_file(const json& value, const std::string& path) {
  const JsonFields fields(value, {"name", "bytes", "sha256"}, path, "a file");
  ManifestFile file{fields.text("name"), fields.integer("bytes"), fields.text("sha256")};
  // Names are joined to the folder's path: nothing may lead out of it.
  if (file.name.empty() || file.name[0] == '.' || file.name.find('/') != std::string::npos || file.name.find('\n') != std::string::npos)
    throw EnvironmentError(str(path, ": '", file.name, "' cannot be the name of a shard file"));
  if (!is_sha256(file.sha256)) throw EnvironmentError(str(path, ": file '", file.name, "': sha256 must be 64 hex digits"));
  return file;
}

Piece parse_piece(const json& value, const Manifest& manifest, DType dtype, const std::string& path, const std::string& what) {
  const JsonFields fields(value, {"file", "begin", "offset", "length"}, path, what);
  const Piece piece{fields.integer("file"), fields.integer("begin"), fields.integer("offset"), fields.integer("length")};
  if (piece.file >= static_cast<int64_t>(manifest.files.size()))
    throw EnvironmentError(str(path, ": ", what, ": file ", piece.file, " of ", manifest.files.size()));
  const ManifestFile& file = manifest.files[static_cast<size_t>(piece.file)];
  const int64_t room = piece.begin > file.bytes ? 0 : (file.bytes - piece.begin) / size_of(dtype);
  if (piece.length == 0 || piece.length > room)
    throw EnvironmentError(str(path, ": ", what, ": ", piece.length, " elements at byte ", piece.begin, " do not lie in '", file.name,
                               "' of ", file.bytes, " bytes"));
  return piece;
}

ManifestEntry parse_entry(const std::string& name, const json& value, const Manifest& manifest, const std::string& path) {
  const std::string what = str("entry '", name, "'");
  const JsonFields fields(value, {"dtype", "shape", "pieces"}, path, what);
  ManifestEntry entry;
  entry.dtype = parse_dtype(fields.text("dtype"), path, what);
  const auto dims = fields.integers("shape");
  const int64_t bytes = checked_bytes(dims, 8 * size_of(entry.dtype));
  if (bytes < 0) throw EnvironmentError(str(path, ": ", what, ": impossible shape"));
  entry.shape = Shape(std::span<const int64_t>(dims));
  int64_t at = 0;
  for (const json& item : fields.list("pieces")) {
    entry.pieces.push_back(parse_piece(item, manifest, entry.dtype, path, what));
    const Piece& piece = entry.pieces.back();
    if (piece.offset != at) throw EnvironmentError(str(path, ": ", what, ": a piece starts at element ", piece.offset, ", expected ", at));
    at += piece.length;
  }
  if (at != bytes / size_of(entry.dtype))
    throw EnvironmentError(str(path, ": ", what, ": its pieces end at element ", at, " of ", bytes / size_of(entry.dtype)));
  return entry;
}

}  // namespace

std::string to_json(const Manifest& manifest) {
  json files = json::array();
  for (const auto& file : manifest.files) files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  json entries = json::object();
  for (const auto& [name, entry] : manifest.entries) {
    json pieces = json::array();
    for (const auto& piece : entry.pieces)
      pieces.push_back({{"file", piece.file}, {"begin", piece.begin}, {"offset", piece.offset}, {"length", piece.length}});
    entries[name] = {{"dtype", std::string(name_of(entry.dtype))},
                     {"shape", std::vector<int64_t>(entry.shape.begin(), entry.shape.end())},
                     {"pieces", std::move(pieces)}};
  }
  const json all = {{"format", kFormat},
                    {"version", Manifest::kVersion},
                    {"step", manifest.step},
                    {"world_size", manifest.world_size},
                    {"metadata", manifest.metadata},
                    {"files", std::move(files)},
                    {"entries", std::move(entries)}};
  return all.dump(1) + "\n";
}

Manifest parse_manifest(std::string_view text, const std::string& path) {
  const json all = parse_strict_json(text, path);
  // Before anything else: a later version may have other keys.
  if (!all.is_object() || !all.contains("format") || all["format"] != kFormat)
    throw EnvironmentError(str(path, ": not the manifest of a checkpoint: \"format\" must be \"", kFormat, "\""));
  if (!all.contains("version") || all["version"] != Manifest::kVersion)
    throw EnvironmentError(str(path, ": this program reads checkpoints of version ", Manifest::kVersion, ", this one has version ",
                               all.contains("version") ? all["version"].dump() : "none"));
  const JsonFields fields(all, {"format", "version", "step", "world_size", "metadata", "files", "entries"}, path, "manifest");
  Manifest manifest;
  manifest.step = fields.integer("step");
  manifest.world_size = fields.integer("world_size");
  manifest.metadata = fields.texts("metadata");
  for (const json& file : fields.list("files")) manifest.files.push_back(parse_file(file, path));
  for (const auto& item : fields.object("entries").items())
    manifest.entries.emplace(item.key(), parse_entry(item.key(), item.value(), manifest, path));
  return manifest;
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
  if (digits.size() < 8 || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) return -1;
  const int64_t step = std::stoll(digits);
  return step_folder(step) == name ? step : -1;
}

}  // namespace lockstep::checkpoint
