// Writes files and hashes them at the same time.
#include <algorithm>
#include <array>
#include <future>

#include <sched.h>

#include "checkpoint/format/chunks.h"
#include "checkpoint/format/safetensors.h"
#include "checkpoint/format/sha256_pair.h"
#include "core/base/error.h"
#include "core/base/thread.h"

namespace lockstep::checkpoint {
namespace {

constexpr int64_t kWorthAThread = 4 << 20;
// Hashing begins when the disk has this much to write, or everything there is. If it began earlier
// on a shared core, hashes would hold up the writer. They would hold up the disk, too: the kernel
// may leave both of its writers on that core, even though hashes have the lowest priority.
constexpr size_t kHeadStart = 64 << 20;
// Writes of many whole pages, aligned with large pages of the page cache, take less CPU time: the
// kernel creates and tracks fewer pages.
constexpr int64_t kWriteBytes = 8 << 20;

// Iterates over a file's bytes in pieces: first its header, then its tensors.
class Cursor {
 public:
  enum class Cut : uint8_t {
    chunks,  // pieces of a tensor that have a checksum each
    writes   // pieces that end at multiples of kWriteBytes in the file
  };
  Cursor(const FileToWrite& file, Cut cut) : file_(file), cut_(cut), rest_(file.header) {
    find_piece();
  }

  // The rest of the header or of the piece; empty at the end of the file.
  std::string_view rest() const { return rest_; }
  bool at_end() const { return rest_.empty(); }
  // The number of the tensor that rest() belongs to, counted from 1; 0 stands for the header.
  size_t tensor() const { return tensor_; }
  // Skips bytes. Returns true if rest() is a new piece then.
  bool advance(size_t bytes) {
    rest_.remove_prefix(bytes);
    in_file_ += static_cast<int64_t>(bytes);
    if (!rest_.empty()) return false;
    find_piece();
    return !at_end();
  }

 private:
  void find_piece() {
    while (rest_.empty() && (tensor_ == 0 || next_ == bytes_of(tensor_)) &&
           tensor_ < file_.tensors.size())
      ++tensor_, next_ = 0;
    if (!rest_.empty() || tensor_ == 0) return;
    const int64_t most = cut_ == Cut::chunks ? kChunkBytes : kWriteBytes - in_file_ % kWriteBytes;
    const int64_t bytes = std::min(most, bytes_of(tensor_) - next_);
    rest_ = {static_cast<const char*>(file_.tensors[tensor_ - 1].raw()) + next_,
             static_cast<size_t>(bytes)};
    next_ += bytes;
  }
  int64_t bytes_of(size_t tensor) const { return file_.tensors[tensor - 1].bytes(); }

  const FileToWrite& file_;
  Cut cut_;
  int64_t in_file_ = 0;  // position of rest() in the file
  size_t tensor_ = 0;
  int64_t next_ = 0;  // the tensor's first byte after rest()
  std::string_view rest_;
};

// Lets the calling thread run only while nothing else wants the core. With few cores, the disk must
// not stand still because its writer or the kernel's waits for hashes.
void give_way() {
  const sched_param none{};
  ::sched_setscheduler(0, SCHED_IDLE, &none);
}

// The checksums of one or two files, computed step by step, by one thread at a time.
class Sums {
 public:
  explicit Sums(const std::vector<FileToWrite>& wanted)
      : cursors_{Cursor(wanted[0], Cursor::Cut::chunks),
                 Cursor(wanted.size() > 1 ? wanted[1] : kNone, Cursor::Cut::chunks)} {
    for (const FileToWrite& file : wanted) {
      written_.push_back({.bytes = static_cast<int64_t>(file.header.size()),
                          .sha256 = {},
                          .header_xxh3 = xxh3(file.header),
                          .xxh3 = {}});
      written_.back().xxh3.resize(file.tensors.size());
      for (size_t i = 0; i < file.tensors.size(); ++i) {
        written_.back().bytes += file.tensors[i].bytes();
        written_.back().xxh3[i].reserve(static_cast<size_t>(chunk_count(file.tensors[i].bytes())));
      }
    }
    for (size_t file = 0; file < wanted.size(); ++file)
      sum_chunk(file);  // without a header, the file begins with a chunk
  }

  // Returns false when everything is done.
  bool step() {
    const std::string_view a = cursors_[0].rest(), b = cursors_[1].rest();
    // Hash both files together while both have data, because that is faster; hash the rest of the
    // longer one alone.
    const size_t both =
        a.empty() || b.empty() ? std::max(a.size(), b.size()) : std::min(a.size(), b.size());
    if (both == 0) return false;
    const std::array<size_t, 2> bytes = {std::min({a.size(), both, kStepBytes}),
                                         std::min({b.size(), both, kStepBytes})};
    sums_.update(a.data(), bytes[0], b.data(), bytes[1]);
    for (size_t file = 0; file < 2; ++file)
      if (bytes[file] > 0 && cursors_[file].advance(bytes[file])) sum_chunk(file);
    return true;
  }

  std::vector<WrittenFile> take() {
    const auto hex = sums_.hex();
    for (size_t file = 0; file < written_.size(); ++file) written_[file].sha256 = hex[file];
    return std::move(written_);
  }

 private:
  // Small steps: even a thread that hardly gets a core soon finishes one.
  static constexpr size_t kStepBytes = 128 << 10;
  static inline const FileToWrite kNone{};

  void sum_chunk(size_t file) {
    const Cursor& at = cursors_[file];
    if (at.tensor() > 0 && !at.at_end())
      written_[file].xxh3[at.tensor() - 1].push_back(xxh3(at.rest()));
  }

  std::vector<WrittenFile> written_;
  std::array<Cursor, 2> cursors_;
  Sha256Pair sums_;
};

}  // namespace

void write_bytes(FileSystem& files, const std::vector<FileToWrite>& wanted,
                 const std::function<bool()>& stopped, const std::function<void()>& disk_has_work) {
  std::vector<std::unique_ptr<WritableFile>> open;
  std::vector<Cursor> cursors;
  for (const FileToWrite& file : wanted) {
    open.push_back(files.create(file.path));
    cursors.emplace_back(file, Cursor::Cut::writes);
  }
  size_t written = 0;
  bool told = false;
  for (bool more = true; more && !stopped();) {
    more = false;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const std::string_view bytes = cursors[i].rest();
      if (bytes.empty()) continue;
      open[i]->write(bytes.data(), bytes.size());
      written += bytes.size();
      more = cursors[i].advance(bytes.size()) || more;
    }
    if (told || (more && written < kHeadStart)) continue;
    told = true;
    if (disk_has_work) disk_has_work();
  }
  for (size_t i = 0; i < wanted.size() && !stopped(); ++i) open[i]->sync();
}

std::vector<WrittenFile> compute_sums(const std::vector<FileToWrite>& wanted) {
  Sums sums(wanted);
  while (sums.step()) {
  }
  return sums.take();
}

std::vector<WrittenFile> write_safetensors(FileSystem& files,
                                           const std::vector<FileToWrite>& wanted,
                                           const std::atomic<bool>* stop) {
  check(wanted.size() == 1 || wanted.size() == 2,
        "[safetensors] one file or two are written at once, not ", wanted.size());
  int64_t bytes = 0;
  for (const FileToWrite& file : wanted)
    for (const Tensor& tensor : file.tensors) bytes += tensor.bytes();
  const std::function<bool()> stopped = [&] { return stop && *stop; };
  Sums sums(wanted);
  std::atomic<bool> enough = false;
  std::future<void> meanwhile;
  const auto begin_sums = [&] {
    if (bytes < kWorthAThread) return;
    try {
      meanwhile = start_async("to compute checksums", [&] {
        give_way();
        while (!enough && !stopped() && sums.step()) {
        }
      });
    } catch (const EnvironmentError&) {  // this thread then computes them after writing
    }
  };
  try {
    write_bytes(files, wanted, stopped, begin_sums);
  } catch (...) {
    enough = true;
    throw;
  }
  // Compute here what the other thread had no time for. The disk waits for nothing any more.
  enough = true;
  if (meanwhile.valid()) meanwhile.get();
  while (!stopped() && sums.step()) {
  }
  return sums.take();
}

WrittenFile write_safetensors(FileSystem& files, const std::string& path, std::string header,
                              std::vector<Tensor> tensors) {
  return write_safetensors(files, {{path, std::move(header), std::move(tensors)}})[0];
}

}  // namespace lockstep::checkpoint
