// Whether the bytes of a checkpoint's files are those that its manifest speaks of.
#pragma once

#include <string>

#include "checkpoint/files/file_system.h"
#include "checkpoint/format/manifest.h"

namespace lockstep::checkpoint {

// Throws EnvironmentError "'PATH' was changed: bytes 320 to 4416 ('NAME', elements 0 to 1024): …"
// unless `data`, the chunk that begins at byte `begin` of the file and is number `chunk` of the
// piece, has its checksum.
void check_chunk(const std::string& path, const PlacedPiece& placed, int64_t chunk,
                 const void* data, int64_t bytes);

// Throws EnvironmentError where the file has another size than the manifest says.
void check_size(const ReadableFile& shard, const ManifestFile& file);

// The header of one shard file: its checksum. Returns the bytes that were read. Nothing happens in
// version 1, which has none.
int64_t check_header(const ReadableFile& shard, const ManifestFile& file);

// Every byte of every file: checksums of headers and chunks, SHA-256, and that the headers describe
// the tensors as the manifest does. Several files at once. Throws EnvironmentError with the first
// thing that is wrong with each bad file.
void verify_contents(const std::string& folder, const Manifest& manifest, FileSystem& files);

}  // namespace lockstep::checkpoint
