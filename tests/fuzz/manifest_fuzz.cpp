// The reader of manifests, fed with anything: it either refuses with an EnvironmentError that is
// fit for a terminal, or what it read obeys the format and can be written again. Neither may take
// more memory than the input justifies.
#include <algorithm>
#include <set>
#include <string>
#include <string_view>

#include "checkpoint/format/chunks.h"
#include "checkpoint/format/manifest.h"
#include "core/base/error.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace lockstep;
using namespace lockstep::checkpoint;
using fuzz::require;

void check_names(const Manifest& manifest) {
  std::set<std::string> names;
  for (const ManifestFile& file : manifest.files) {
    require(!file.name.empty() && file.name[0] != '.' && file.name.find('/') == std::string::npos &&
                fuzz::is_printable(file.name),
            "a file's name that leads elsewhere");
    require(names.insert(file.name).second, "one file twice");
    require(file.sha256.size() == 64, "a file without its SHA-256");
  }
}

void check_pieces(const Manifest& manifest) {
  for (const auto& [name, entry] : manifest.entries) {
    std::vector<ShardSpec> parts;
    int64_t elements = 0;
    for (const Piece& piece : entry.pieces) {
      require(piece.part.length() > 0, "a piece without elements");
      require(piece.part.global_shape() == entry.shape, "a piece of another tensor");
      require(!piece.part.is_box() || manifest.version >= 4, "a box before there were any");
      const ManifestFile& file = manifest.files.at(static_cast<size_t>(piece.file));
      const int64_t bytes = piece.part.length() * size_of(entry.dtype);
      require(piece.begin >= 0 && piece.begin <= file.bytes - bytes, "a piece outside of its file");
      require(
          manifest.version == 1 || static_cast<int64_t>(piece.xxh3.size()) == chunk_count(bytes),
          "a chunk without its sum");
      // Below a number that the fuzzer's inputs can reach, pair by pair.
      for (size_t i = 0; i < std::min<size_t>(parts.size(), 32); ++i)
        require(!overlap(parts[i], piece.part), "an overlap in a tensor");
      parts.push_back(piece.part);
      elements += piece.part.length();
    }
    require(elements == entry.shape.numel(), "a tensor that is not covered");
  }
}

void check_files(const Manifest& manifest) {
  const auto pieces = pieces_by_file(manifest);
  for (size_t i = 0; i < pieces.size(); ++i) {
    int64_t at = manifest.files[i].header_bytes;
    for (const PlacedPiece& placed : pieces[i]) {
      require(placed.piece->begin == at, "a hole or an overlap in a file");
      at += placed.bytes;
    }
    require(at == manifest.files[i].bytes, "bytes that no sum covers");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  fuzz::reset_peak();
  Manifest manifest;
  try {
    manifest = parse_manifest(text, "input");
  } catch (const EnvironmentError& e) {
    fuzz::require_justified(size);
    fuzz::require_fit_for_terminal(e.what());
    return 0;
  }
  fuzz::require_justified(size);
  check_names(manifest);
  check_pieces(manifest);
  if (manifest.version > 1) check_files(manifest);
  const std::string written = to_json(manifest);
  require(to_json(parse_manifest(written, "written")) == written, "writing changed the manifest");
  return 0;
}
