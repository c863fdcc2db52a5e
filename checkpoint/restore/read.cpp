// Reading parts of tensors: which chunks hold them, and each verified before its values are let
// out.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "checkpoint/checkpoint.h"
#include "checkpoint/format/chunks.h"
#include "checkpoint/restore/verify.h"
#include "core/base/error.h"
#include "core/base/parallel.h"

namespace lockstep::checkpoint {
namespace {

// A chunk that holds wanted elements, and where they go.
struct ChunkJob {
  const ReadableFile* shard;
  PlacedPiece placed;
  int64_t chunk, bytes;  // its number in the piece, and its size
  int64_t skip, take;    // bytes of it: those before the wanted ones, and the wanted ones
  char* to;
};

void check_wanted(const Manifest& manifest, const Entry& entry, const std::string& folder) {
  const auto found = manifest.entries.find(entry.name);
  check(found != manifest.entries.end(), "[checkpoint] '", folder, "' holds no '", entry.name, "'");
  const ManifestEntry& stored = found->second;
  check(entry.tensor.defined() && entry.tensor.numel() == entry.shard.length, "[checkpoint] '",
        entry.name, "': no tensor of ", entry.shard.length, " elements to read into");
  check(stored.dtype == entry.tensor.dtype() && stored.shape == entry.shard.global_shape,
        "[checkpoint] '", entry.name, "' is ", stored.dtype, stored.shape, " in '", folder,
        "', but the program has ", entry.tensor.dtype(), entry.shard.global_shape);
  check(entry.shard.offset >= 0 && entry.shard.offset <= stored.shape.numel() - entry.shard.length,
        "[checkpoint] '", entry.name, "': ", entry.shard.length, " elements from element ",
        entry.shard.offset, " on do not lie in ", stored.shape);
}

class Reader {
 public:
  Reader(const std::string& folder, const Manifest& manifest, FileSystem& files)
      : folder_(folder), manifest_(manifest), files_(files), shards_(manifest.files.size()) {}

  // The wanted range of a tensor to a host address.
  void add(const std::string& name, const ShardSpec& wanted, char* to) {
    const auto stored = manifest_.entries.find(name);
    const int64_t element = size_of(stored->second.dtype);
    for (const Piece& piece : stored->second.pieces) {
      const int64_t first = std::max(piece.offset, wanted.offset) - piece.offset;
      const int64_t last =
          std::min(piece.offset + piece.length, wanted.offset + wanted.length) - piece.offset;
      if (first < last)
        add_chunks({&stored->first, &stored->second, &piece, piece.length * element},
                   first * element, last * element,
                   to + (piece.offset + first - wanted.offset) * element);
    }
  }

  ReadReport run() {
    parallel_for(static_cast<int64_t>(jobs_.size()),
                 [&](int64_t i) { read(jobs_[static_cast<size_t>(i)]); });
    ReadReport report{.bytes = header_bytes_, .files = 0};
    for (const auto& shard : shards_) report.files += shard ? 1 : 0;
    for (const ChunkJob& job : jobs_) report.bytes += job.bytes;
    return report;
  }

 private:
  // Bytes [first, last) of a piece.
  void add_chunks(const PlacedPiece& placed, int64_t first, int64_t last, char* to) {
    const ReadableFile& shard = open(static_cast<size_t>(placed.piece->file));
    for (int64_t chunk = first / kChunkBytes; chunk * kChunkBytes < last; ++chunk) {
      const int64_t begin = chunk * kChunkBytes, end = std::min(begin + kChunkBytes, placed.bytes);
      const int64_t from = std::max(first, begin), until = std::min(last, end);
      jobs_.push_back(
          {&shard, placed, chunk, end - begin, from - begin, until - from, to + (from - first)});
    }
  }

  const ReadableFile& open(size_t file) {
    if (!shards_[file]) {
      const ManifestFile& expected = manifest_.files[file];
      shards_[file] = files_.open(folder_ + "/" + expected.name);
      check_size(*shards_[file], expected);
      header_bytes_ += check_header(*shards_[file], expected);
    }
    return *shards_[file];
  }

  void read(const ChunkJob& job) const {
    const int64_t begin = job.placed.piece->begin + job.chunk * kChunkBytes;
    if (manifest_.version == 1) {  // verified when it was opened
      job.shard->read(begin + job.skip, job.to, job.take);
      return;
    }
    // Aside, so that nothing unproved gets into the tensor; a chunk stays in the cache meanwhile.
    thread_local std::vector<char> buffer(static_cast<size_t>(kChunkBytes));
    job.shard->read(begin, buffer.data(), job.bytes);
    check_chunk(job.shard->path(), job.placed, job.chunk, buffer.data(), job.bytes);
    std::memcpy(job.to, buffer.data() + job.skip, static_cast<size_t>(job.take));
  }

  const std::string& folder_;
  const Manifest& manifest_;
  FileSystem& files_;
  std::vector<std::unique_ptr<ReadableFile>> shards_;  // those that are needed
  std::vector<ChunkJob> jobs_;
  int64_t header_bytes_ = 0;
};

}  // namespace

ReadReport Checkpoint::read(std::span<const Entry> entries) const {
  for (const Entry& entry : entries) check_wanted(manifest_, entry, folder_);
  try {
    Reader reader(folder_, manifest_, *files_);
    std::vector<std::pair<const Entry*, Tensor>>
        aside;  // for tensors that are no plain memory of the host
    for (const Entry& entry : entries) {
      const bool direct = entry.tensor.device() == kCpu && entry.tensor.is_contiguous();
      if (!direct)
        aside.emplace_back(&entry, Tensor::empty(entry.tensor.shape(), entry.tensor.dtype()));
      reader.add(entry.name, entry.shard,
                 static_cast<char*>((direct ? entry.tensor : aside.back().second).raw()));
    }
    // A part is changed also where reading fails.
    for (const Entry& entry : entries) entry.tensor.mark_changed("reading a checkpoint");
    const ReadReport report = reader.run();
    for (const auto& [entry, host] : aside) entry->tensor.copy_(host);
    return report;
  } catch (const EnvironmentError& e) {
    throw EnvironmentError(str("[checkpoint] '", folder_, "' cannot be used: ", e.what()));
  }
}

Tensor Checkpoint::read_whole(const std::string& name) const {
  const auto found = manifest_.entries.find(name);
  check(found != manifest_.entries.end(), "[checkpoint] '", folder_, "' holds no '", name, "'");
  const Entry entry(name, Tensor::empty(found->second.shape, found->second.dtype));
  read({&entry, 1});
  return entry.tensor;
}

}  // namespace lockstep::checkpoint
