// Reads parts of tensors: finds the chunks that hold them, and verifies each chunk before it
// releases any value.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "checkpoint/checkpoint.h"
#include "checkpoint/format/chunks.h"
#include "checkpoint/restore/verify.h"
#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/tensor/device_copies.h"

namespace lockstep::checkpoint {
namespace {

// A chunk that holds wanted elements, and the destination of these.
struct ChunkJob {
  const ReadableFile* shard;
  PlacedPiece placed;
  int64_t chunk, bytes;  // its number in the piece, its size
  const ShardSpec* wanted;
  char* to;  // where the wanted part's values go
};

void check_wanted(const Manifest& manifest, const Entry& entry, const std::string& folder) {
  const auto found = manifest.entries.find(entry.name);
  check(found != manifest.entries.end(), "[checkpoint] '", folder, "' holds no '", entry.name, "'");
  const ManifestEntry& stored = found->second;
  check(entry.tensor.defined() && entry.fits(), "[checkpoint] '", entry.name,
        "': no tensor of shape ", entry.shard.shape(), " to read ", entry.shard, " into");
  check(stored.dtype == entry.tensor.dtype() && stored.shape == entry.shard.global_shape(),
        "[checkpoint] '", entry.name, "' is ", stored.dtype, stored.shape, " in '", folder,
        "', but the program has ", entry.tensor.dtype(), entry.shard.global_shape());
}

class Reader {
 public:
  Reader(const std::string& folder, const Manifest& manifest, FileSystem& files)
      : folder_(folder), manifest_(manifest), files_(files), shards_(manifest.files.size()) {}

  // Adds a wanted part, and the host address to which it goes. `wanted` must outlive the reader.
  void add(const std::string& name, const ShardSpec& wanted, char* to) {
    const auto stored = manifest_.entries.find(name);
    const int64_t element = size_of(stored->second.dtype), per_chunk = kChunkBytes / element;
    for (const Piece& piece : stored->second.pieces) {
      if (!overlap(piece.part, wanted)) continue;
      const ReadableFile& shard = open(static_cast<size_t>(piece.file));
      const PlacedPiece placed{&stored->first, &stored->second, &piece,
                               piece.part.length() * element};
      const int64_t last = piece.part.positions_before(wanted.end());
      for (int64_t chunk = piece.part.positions_before(wanted.offset()) / per_chunk;
           chunk * per_chunk < last; ++chunk) {
        const int64_t begin = chunk * per_chunk,
                      end = std::min(begin + per_chunk, piece.part.length());
        if (any_in_common(piece.part, begin, end, wanted))
          jobs_.push_back({&shard, placed, chunk, (end - begin) * element, &wanted, to});
      }
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
    // Through a buffer that fits the cache, so unverified values never reach the tensor.
    thread_local std::vector<char> buffer(static_cast<size_t>(kChunkBytes));
    job.shard->read(job.placed.piece->begin + job.chunk * kChunkBytes, buffer.data(), job.bytes);
    if (manifest_.version > 1)  // version 1 has no chunk sums; open() verified the whole file
      check_chunk(job.shard->path(), job.placed, job.chunk, buffer.data(), job.bytes);
    const int64_t element = size_of(job.placed.entry->dtype),
                  first = job.chunk * kChunkBytes / element;
    for_each_common_run(job.placed.piece->part, first, first + job.bytes / element, *job.wanted,
                        [&](const CommonRun& run) {
                          std::memcpy(job.to + run.in_b * element,
                                      buffer.data() + (run.in_a - first) * element,
                                      static_cast<size_t>(run.length * element));
                        });
  }

  const std::string& folder_;
  const Manifest& manifest_;
  FileSystem& files_;
  std::vector<std::unique_ptr<ReadableFile>> shards_;  // the needed ones only
  std::vector<ChunkJob> jobs_;
  int64_t header_bytes_ = 0;
};

}  // namespace

ReadReport Checkpoint::read(std::span<const Entry> entries) const {
  for (const Entry& entry : entries) check_wanted(manifest_, entry, folder_);
  try {
    Reader reader(folder_, manifest_, *files_);
    std::vector<std::pair<const Entry*, Tensor>>
        aside;  // for tensors that are not contiguous host memory
    for (const Entry& entry : entries) {
      const bool direct = entry.tensor.device() == kCpu && entry.tensor.is_contiguous();
      if (!direct) aside.emplace_back(&entry, host_memory_like(entry.tensor));
      reader.add(entry.name, entry.shard,
                 static_cast<char*>((direct ? entry.tensor : aside.back().second).raw()));
    }
    // A failed read may have changed a part, too.
    for (const Entry& entry : entries) entry.tensor.mark_changed("reading a checkpoint");
    const ReadReport report = reader.run();
    DeviceCopies copies;
    for (const auto& [entry, host] : aside) copies.start(entry->tensor, host);
    copies.wait();
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
