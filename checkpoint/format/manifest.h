// The manifest of a checkpoint: its tensors and their places (docs/formats/checkpoint.md).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/shape.h"
#include "core/tensor/shard_spec.h"

namespace lockstep::checkpoint {

struct ManifestFile {
  std::string name;
  int64_t bytes = 0;
  std::string sha256;        // hex
  int64_t header_bytes = 0;  // bytes before the first tensor; 0 in version 1
  uint64_t header_xxh3 = 0;
};

// A part of a global tensor, and the bytes that hold it.
struct Piece {
  int64_t file = 0;                 // index into Manifest::files
  int64_t begin = 0;                // byte in the file
  ShardSpec part = {};              // not empty; may be a box from version 4 on
  std::vector<uint64_t> xxh3 = {};  // of each chunk (checkpoint/format/chunks.h); none in version 1
};

struct ManifestEntry {
  DType dtype = DType::f32;
  Shape shape;                // global shape
  std::vector<Piece> pieces;  // by first element; together they cover the tensor exactly once
};

struct Manifest {
  static constexpr int64_t kVersion = 3;     // written if no piece is a box
  static constexpr int64_t kBoxVersion = 4;  // written if one is; versions 1 and 2 can be read, too
  static constexpr const char* kFileName = "manifest.json";
  static constexpr const char* kSumsName = "SHA256SUMS";

  int64_t version = kVersion;
  int64_t step = 0;
  int64_t world_size = 1;  // number of ranks that saved it; each wrote one file or two
  std::map<std::string, std::string> metadata;
  std::vector<ManifestFile> files;
  std::map<std::string, ManifestEntry> entries;
};

// Equal manifests give equal texts.
std::string to_json(const Manifest& manifest);
// Strict: throws EnvironmentError that names `path` and the field for anything missing, unknown,
// repeated, of the wrong type or out of range. Pieces must not leave their file, overlap, or leave
// a gap in the tensor or in the file.
Manifest parse_manifest(std::string_view text, const std::string& path);

// The text in a shard file's metadata for a part of a tensor, under "shard.NAME": "offset 4 of [2,
// 8]", or "box [0:2, 4:8] of [2, 8]".
std::string place_text(const ShardSpec& part);

// The pieces of each file, in the order of their bytes. The result points into `manifest`.
struct PlacedPiece {
  const std::string* name;
  const ManifestEntry* entry;
  const Piece* piece;
  int64_t bytes;
};
std::vector<std::vector<PlacedPiece>> pieces_by_file(const Manifest& manifest);

// The text of SHA256SUMS, for `sha256sum -c`: first the manifest, then the shard files.
std::string sums_text(const Manifest& manifest, const std::string& manifest_sha256);

// "step-00000100".
std::string step_folder(int64_t step);
// Returns the step of such a name. -1 for others, also half-written ones ("step-00000100.tmp-…").
int64_t step_of_folder(std::string_view name);

}  // namespace lockstep::checkpoint
