// Writing files and hashing them, both at once.
#include <algorithm>
#include <array>
#include <future>

#include <sys/resource.h>
#include <unistd.h>

#include "checkpoint/chunks.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/sha256_pair.h"
#include "core/base/error.h"
#include "core/base/thread.h"

namespace lockstep::checkpoint {
namespace {

constexpr int64_t kWorthAThread = 4 << 20;
// Writes of many whole pages, from where large pages of the page cache begin, take less of a core: fewer pages are made and looked after.
constexpr int64_t kWriteBytes = 8 << 20;

// A way through a file's bytes: its header, then its tensors, in pieces.
class Cursor {
 public:
  enum class Cut : uint8_t {
    chunks,  // of a tensor, as they have their sums
    writes   // ends at multiples of kWriteBytes in the file
  };
  Cursor(const FileToWrite& file, Cut cut) : file_(file), cut_(cut), rest_(file.header) { find_piece(); }

  // What is left of the header or the piece; empty at the end of the file.
  std::string_view rest() const { return rest_; }
  bool at_end() const { return rest_.empty(); }
  // Of the tensor that rest() belongs to, from 1 on; 0: the header.
  size_t tensor() const { return tensor_; }
  // True where this leads to another piece.
  bool advance(size_t bytes) {
    rest_.remove_prefix(bytes);
    in_file_ += static_cast<int64_t>(bytes);
    if (!rest_.empty()) return false;
    find_piece();
    return !at_end();
  }

 private:
  void find_piece() {
    while (rest_.empty() && (tensor_ == 0 || next_ == bytes_of(tensor_)) && tensor_ < file_.tensors.size()) ++tensor_, next_ = 0;
    if (!rest_.empty() || tensor_ == 0) return;
    const int64_t most = cut_ == Cut::chunks ? kChunkBytes : kWriteBytes - in_file_ % kWriteBytes;
    const int64_t bytes = std::min(most, bytes_of(tensor_) - next_);
    rest_ = {static_cast<const char*>(file_.tensors[tensor_ - 1].raw()) + next_, static_cast<size_t>(bytes)};
    next_ += bytes;
  }
  int64_t bytes_of(size_t tensor) const { return file_.tensors[tensor - 1].bytes(); }

  const FileToWrite& file_;
  Cut cut_;
  int64_t in_file_ = 0;  // where rest() begins
  size_t tensor_ = 0;
  int64_t next_ = 0;  // the tensor's byte behind rest()
  std::string_view rest_;
};

// For the calling thread: others come first. Where cores are few, the disk must not stand still because its writer waits for hashes.
void give_way() {
  constexpr int kNicer = 10;
  const auto thread = static_cast<id_t>(::gettid());  // Linux: niceness is a thread's own
  ::setpriority(PRIO_PROCESS, thread, ::getpriority(PRIO_PROCESS, thread) + kNicer);
}

}  // namespace

void write_bytes(FileSystem& files, const std::vector<FileToWrite>& wanted, const std::function<bool()>& stopped) {
  std::vector<std::unique_ptr<WritableFile>> open;
  std::vector<Cursor> cursors;
  for (const FileToWrite& file : wanted) {
    open.push_back(files.create(file.path));
    cursors.emplace_back(file, Cursor::Cut::writes);
  }
  for (bool more = true; more && !stopped();) {
    more = false;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const std::string_view bytes = cursors[i].rest();
      if (bytes.empty()) continue;
      open[i]->write(bytes.data(), bytes.size());
      more = cursors[i].advance(bytes.size()) || more;
    }
  }
  for (size_t i = 0; i < wanted.size() && !stopped(); ++i) open[i]->sync();
}

std::vector<WrittenFile> compute_sums(const std::vector<FileToWrite>& wanted, const std::function<bool()>& stopped) {
  static const FileToWrite kNone;
  std::vector<WrittenFile> written;
  for (const FileToWrite& file : wanted) {
    written.push_back({.bytes = static_cast<int64_t>(file.header.size()), .sha256 = {}, .header_xxh3 = xxh3(file.header), .xxh3 = {}});
    written.back().xxh3.resize(file.tensors.size());
    for (const Tensor& tensor : file.tensors) written.back().bytes += tensor.bytes();
  }
  std::array<Cursor, 2> cursors = {Cursor(wanted[0], Cursor::Cut::chunks),
                                   Cursor(wanted.size() > 1 ? wanted[1] : kNone, Cursor::Cut::chunks)};
  const auto sum_chunk = [&](size_t file) {
    const Cursor& at = cursors[file];
    if (at.tensor() > 0 && !at.at_end()) written[file].xxh3[at.tensor() - 1].push_back(xxh3(at.rest()));
  };
  for (size_t file = 0; file < wanted.size(); ++file) sum_chunk(file);  // a file without a header begins with one
  Sha256Pair sums;
  while (!stopped()) {
    const std::string_view a = cursors[0].rest(), b = cursors[1].rest();
    // As much as both have, for they are fast together; what one file has more than the other comes alone.
    const size_t together = a.empty() || b.empty() ? std::max(a.size(), b.size()) : std::min(a.size(), b.size());
    if (together == 0) break;
    const std::array<size_t, 2> bytes = {std::min(a.size(), together), std::min(b.size(), together)};
    sums.update(a.data(), bytes[0], b.data(), bytes[1]);
    for (size_t file = 0; file < 2; ++file)
      if (bytes[file] > 0 && cursors[file].advance(bytes[file])) sum_chunk(file);
  }
  const auto hex = sums.hex();
  for (size_t file = 0; file < wanted.size(); ++file) written[file].sha256 = hex[file];
  return written;
}

std::vector<WrittenFile> write_safetensors(FileSystem& files, const std::vector<FileToWrite>& wanted, const std::atomic<bool>* stop) {
  check(wanted.size() == 1 || wanted.size() == 2, "[safetensors] one file or two are written at once, not ", wanted.size());
  int64_t bytes = 0;
  for (const FileToWrite& file : wanted)
    for (const Tensor& tensor : file.tensors) bytes += tensor.bytes();
  std::atomic<bool> failed = false;
  const std::function<bool()> stopped = [&] { return failed || (stop && *stop); };
  // The hashes take about as long as a fast disk: so both at once, and this thread writes only.
  std::future<std::vector<WrittenFile>> sums;
  if (bytes >= kWorthAThread) try {
      sums = start_async("to compute checksums", [&] {
        give_way();
        return compute_sums(wanted, stopped);
      });
    } catch (const EnvironmentError&) {  // one thread can do both, in twice the time
    }
  try {
    write_bytes(files, wanted, stopped);
  } catch (...) {
    failed = true;
    throw;
  }
  return sums.valid() ? sums.get() : compute_sums(wanted, stopped);
}

WrittenFile write_safetensors(FileSystem& files, const std::string& path, std::string header, std::vector<Tensor> tensors) {
  return write_safetensors(files, {{path, std::move(header), std::move(tensors)}})[0];
}

}  // namespace lockstep::checkpoint
