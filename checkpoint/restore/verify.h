// Checks whether a checkpoint's files have the bytes that the manifest describes.
#pragma once

#include <string>

#include "checkpoint/files/file_system.h"
#include "checkpoint/format/manifest.h"

namespace lockstep::checkpoint {

// Checks `data`, which is chunk number `chunk` of the piece and starts at byte `begin` of the file.
// Throws EnvironmentError "'PATH' was changed: bytes 320 to 4416 ('NAME', elements 0 to 1024): …"
// if its checksum is wrong.
void check_chunk(const std::string& path, const PlacedPiece& placed, int64_t chunk,
                 const void* data, int64_t bytes);

// Throws EnvironmentError if the file's size differs from the manifest.
void check_size(const ReadableFile& shard, const ManifestFile& file);

// Checks the header of a shard file against its checksum. Returns the bytes read. Does nothing in
// version 1, which has no such checksum.
int64_t check_header(const ReadableFile& shard, const ManifestFile& file);

// Reads every byte of every file. Checks the checksums of headers and chunks, the SHA-256, and that
// headers agree with the manifest. Handles several files at once. Throws EnvironmentError with the
// first fault of each bad file.
void verify_contents(const std::string& folder, const Manifest& manifest, FileSystem& files);

}  // namespace lockstep::checkpoint
