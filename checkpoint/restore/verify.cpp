#include "checkpoint/restore/verify.h"

#include <algorithm>
#include <map>
#include <vector>

#include "checkpoint/format/chunks.h"
#include "checkpoint/format/digest.h"
#include "checkpoint/format/safetensors.h"
#include "core/base/error.h"
#include "core/base/parallel.h"

namespace lockstep::checkpoint {
namespace {

[[noreturn]] void changed(const std::string& path, const std::string& what, uint64_t got,
                          uint64_t expected) {
  throw EnvironmentError(str("'", path, "' was changed: ", what, ": the XXH3 is ", hex_of(got),
                             ", expected ", hex_of(expected)));
}

// The file's own header must agree with the manifest. Otherwise programs that read only the header
// would see other tensors.
void check_description(const ReadableFile& shard, const std::vector<PlacedPiece>& pieces) {
  const SafetensorsHeader header = read_safetensors_header(shard);
  std::map<std::string_view, SafetensorsInfo> infos;
  for (const SafetensorsInfo info : header.tensors) infos.emplace(info.name, info);
  std::map<std::string_view, std::string_view> metadata;
  header.metadata.each(
      [&](std::string_view key, std::string_view value) { metadata.emplace(key, value); });
  const auto place_of = [&](const std::string& name) {
    const auto found = metadata.find("shard." + name);
    return found == metadata.end() ? std::string_view() : found->second;
  };
  if (infos.size() != pieces.size())
    throw EnvironmentError(str("'", shard.path(), "' holds ", infos.size(),
                               " tensors, but the manifest lists ", pieces.size()));
  for (const PlacedPiece& placed : pieces) {
    const auto found = infos.find(*placed.name);
    if (found == infos.end() || found->second.begin != placed.piece->begin ||
        found->second.bytes != placed.bytes ||
        found->second.dtype != safetensors_dtype(placed.entry->dtype) ||
        !(found->second.shape == placed.piece->part.shape()) ||
        place_of(*placed.name) !=
            (placed.piece->part.is_whole() ? "" : place_text(placed.piece->part)))
      throw EnvironmentError(str("'", shard.path(), "': its header describes '", *placed.name,
                                 "' in another way than the manifest"));
  }
}

// Verifies the file in one pass over its bytes.
void verify_file(const ReadableFile& shard, const ManifestFile& file,
                 const std::vector<PlacedPiece>& pieces, bool chunks) {
  check_size(shard, file);
  Sha256 hash;
  std::vector<char> buffer(static_cast<size_t>(std::min(kChunkBytes, file.bytes)));
  const auto each_chunk = [&](int64_t begin, int64_t bytes, const auto& look) {
    for (int64_t at = 0; at < bytes; at += kChunkBytes) {
      const int64_t count = std::min(kChunkBytes, bytes - at);
      shard.read(begin + at, buffer.data(), count);
      hash.update(buffer.data(), static_cast<size_t>(count));
      look(at / kChunkBytes, count);
    }
  };
  const auto no_look = [](int64_t, int64_t) {};
  if (chunks) {
    check_header(shard, file);
    each_chunk(0, file.header_bytes, no_look);
    for (const PlacedPiece& placed : pieces)
      each_chunk(placed.piece->begin, placed.bytes, [&](int64_t chunk, int64_t count) {
        check_chunk(shard.path(), placed, chunk, buffer.data(), count);
      });
  } else {
    each_chunk(0, file.bytes, no_look);
  }
  const std::string digest = hash.hex();
  if (digest != file.sha256)
    throw EnvironmentError(str("'", shard.path(), "' was changed: its SHA-256 is ", digest,
                               ", expected ", file.sha256));
  check_description(shard, pieces);
}

}  // namespace

void check_size(const ReadableFile& shard, const ManifestFile& file) {
  if (shard.bytes() != file.bytes)
    throw EnvironmentError(str("'", shard.path(), "' was changed: it has ", shard.bytes(),
                               " bytes, expected ", file.bytes));
}

void check_chunk(const std::string& path, const PlacedPiece& placed, int64_t chunk,
                 const void* data, int64_t bytes) {
  const uint64_t got = xxh3(data, bytes), expected = placed.piece->xxh3[static_cast<size_t>(chunk)];
  if (got == expected) return;
  const ShardSpec& part = placed.piece->part;
  const int64_t element = size_of(placed.entry->dtype),
                first = chunk * kChunkBytes / element + (part.is_box() ? 0 : part.offset());
  const int64_t begin = placed.piece->begin + chunk * kChunkBytes;
  changed(path,
          str("bytes ", begin, " to ", begin + bytes, " ('", *placed.name, "', elements ", first,
              " to ", first + bytes / element,
              part.is_box() ? str(" of the box ", part) : std::string(), ")"),
          got, expected);
}

int64_t check_header(const ReadableFile& shard, const ManifestFile& file) {
  std::string header(static_cast<size_t>(file.header_bytes), '\0');
  shard.read(0, header.data(), file.header_bytes);
  const uint64_t got = xxh3(header);
  if (file.header_bytes > 0 && got != file.header_xxh3)
    changed(shard.path(), str("bytes 0 to ", file.header_bytes, " (the header)"), got,
            file.header_xxh3);
  return file.header_bytes;
}

void verify_contents(const std::string& folder, const Manifest& manifest, FileSystem& files) {
  const auto pieces = pieces_by_file(manifest);
  std::vector<std::string> problems(manifest.files.size());
  parallel_for(static_cast<int64_t>(manifest.files.size()), [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    try {
      const auto shard = files.open(folder + "/" + manifest.files[at].name);
      verify_file(*shard, manifest.files[at], pieces[at], manifest.version > 1);
    } catch (const EnvironmentError& e) {
      problems[at] = e.what();
    }
  });
  std::string all;
  for (const auto& problem : problems)
    if (!problem.empty()) all += str(all.empty() ? "" : "; ", problem);
  if (!all.empty()) throw EnvironmentError(all);
}

}  // namespace lockstep::checkpoint
