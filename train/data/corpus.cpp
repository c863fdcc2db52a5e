#include "train/data/corpus.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <memory>
#include <new>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "checkpoint/format/digest.h"
#include "core/base/error.h"

namespace lockstep::train {

std::string advice_on_text(const std::string& path) {
  return str(path.ends_with("data/kjv.txt") ? "run scripts/fetch_kjv, or " : "",
             "set data.path to a text file");
}

namespace {

std::string hex_of(const XXH128_hash_t& hash) {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text;
}

std::vector<std::string> files_at(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  check(fs::exists(status), "data.path '", path, "' does not exist: ", advice_on_text(path));
  if (!fs::is_directory(status)) return {path};
  std::vector<std::string> files;
  fs::directory_iterator it(path, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error))
    if (it->is_regular_file() && it->path().filename().string()[0] != '.')
      files.push_back(it->path());
  check(!error, "data.path '", path, "' cannot be read: ", error.message());
  check(!files.empty(), "data.path '", path,
        "' is a folder without files: put text files there, or set data.path to a text file");
  std::sort(files.begin(), files.end());
  return files;
}

// A file that is open as long as the object lives. A corpus may have more files than a process may
// open, so files do not stay open.
class OpenFile {
 public:
  // O_NONBLOCK: if the path is a pipe, refuse it instead of waiting for a writer.
  explicit OpenFile(const std::string& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    error_ = fd_ < 0 || ::fstat(fd_, &info_) != 0 ? errno : 0;
  }
  ~OpenFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int error() const { return error_; }
  bool is_regular() const { return S_ISREG(info_.st_mode); }
  int64_t bytes() const { return info_.st_size; }
  uint64_t inode() const { return info_.st_ino; }
  int64_t modified_ns() const { return nanoseconds(info_.st_mtim); }
  int64_t changed_ns() const { return nanoseconds(info_.st_ctim); }
  // Returns whether all bytes were read. If not, error() says why; 0 means that the file ended.
  bool read(int64_t offset, int64_t count, uint8_t* to) {
    while (count > 0) {
      const ssize_t got = ::pread(fd_, to, static_cast<size_t>(count), offset);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        error_ = got < 0 ? errno : 0;
        return false;
      }
      offset += got;
      count -= got;
      to += got;
    }
    return true;
  }

 private:
  static int64_t nanoseconds(const timespec& time) {
    return time.tv_sec * 1'000'000'000 + time.tv_nsec;
  }

  int fd_;
  int error_ = 0;
  struct stat info_ {};
};

}  // namespace

Corpus::File Corpus::look_at(const std::string& path) {
  const OpenFile file(path);
  check(file.error() == 0, "data.path: cannot read '", path, "': ", errno_text(file.error()));
  check(file.is_regular(), "data.path: '", path, "' is not a regular file");
  return {path, file.bytes(), file.inode(), file.modified_ns(), file.changed_ns()};
}

Corpus::Corpus(const std::string& path) {
  for (const auto& name : files_at(path)) {
    files_.push_back(look_at(name));
    begins_.push_back(begins_.back() + files_.back().bytes);
  }
}

void Corpus::copy_from(const File& file, int64_t offset, int64_t count, uint8_t* to) {
  OpenFile open(file.path);
  std::string why;
  if (open.error() != 0)
    why = errno_text(open.error());
  else if (open.bytes() != file.bytes)
    why = str("it has ", open.bytes(), " bytes now");
  else if (open.inode() != file.inode || open.modified_ns() != file.modified_ns)
    why = "it was written or replaced meanwhile";
  else if (!open.read(offset, count, to))
    why = open.error() != 0 ? errno_text(open.error()) : std::string("it ended early");
  if (!why.empty())
    throw EnvironmentError(str("data.path: '", file.path, "' of ", file.bytes,
                               " bytes changed or cannot be read any more: ", why,
                               "; put the same data back and resume"));
}

// The file that holds that byte of the corpus.
size_t Corpus::file_of(int64_t offset) const {
  return static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), offset) -
                             begins_.begin() - 1);
}

std::string Corpus::place_of(int64_t offset) const {
  const size_t index = file_of(offset);
  return str("byte ", offset - begins_[index], " of '", files_[index].path, "'");
}

void Corpus::copy(int64_t offset, int64_t count, uint8_t* to) const {
  size_t index = file_of(offset);
  for (; count > 0; ++index) {
    const int64_t available = std::min(count, begins_[index + 1] - offset);
    if (available <= 0) continue;  // an empty file
    copy_from(files_[index], offset - begins_[index], available, to);
    to += available;
    offset += available;
    count -= available;
  }
}

std::string Corpus::hash(const std::atomic<bool>& stop) const {
  constexpr int64_t kPieceBytes = 4 << 20;
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  if (!state) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  std::vector<uint8_t> piece(static_cast<size_t>(std::min(kPieceBytes, bytes())));
  for (int64_t at = 0; at < bytes(); at += kPieceBytes) {
    if (stop) throw EnvironmentError("data.path: reading the whole data was interrupted");
    const int64_t count = std::min(kPieceBytes, bytes() - at);
    // copy() checks each piece for a change of its file, so the last piece also detects a change of
    // an earlier one.
    copy(at, count, piece.data());
    XXH3_128bits_update(state.get(), piece.data(), static_cast<size_t>(count));
  }
  // A part that was read already may have been written since, so check all files again.
  for (const File& file : files_) copy_from(file, 0, 0, nullptr);
  return hex_of(XXH3_128bits_digest(state.get()));
}

std::string Corpus::stamp() const {
  checkpoint::Sha256 hash;
  for (const File& file : files_)
    hash.update(
        str(file.bytes, " ", file.inode, " ", file.modified_ns, " ", file.changed_ns, "\n"));
  return hash.hex().substr(0, 32);
}

bool Corpus::settled() const {
  constexpr int64_t kTickNs = 2'000'000'000;  // the coarsest tick of a file system
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const int64_t before = (now.tv_sec * 1'000'000'000 + now.tv_nsec) - kTickNs;
  return std::all_of(files_.begin(), files_.end(), [&](const File& file) {
    return file.modified_ns < before && file.changed_ns < before;
  });
}

void Corpus::accept_files() {
  for (File& file : files_) {
    File now = look_at(file.path);
    if (now.bytes != file.bytes) copy_from(file, 0, 0, nullptr);  // throws
    file = now;
  }
}

std::string Corpus::sampled_hash() const {
  constexpr int64_t kPieces = 256, kPieceBytes = 4096;
  checkpoint::Sha256 hash;
  hash.update(str(bytes(), "\n"));
  std::vector<uint8_t> piece(kPieceBytes);
  const int64_t room = std::max<int64_t>(0, bytes() - kPieceBytes);
  int64_t last = -1;
  for (int64_t i = 0; i < kPieces && bytes() > 0; ++i) {
    const auto at = static_cast<int64_t>(static_cast<__int128>(room) * i / (kPieces - 1));
    if (at == last) continue;
    last = at;
    const int64_t count = std::min(kPieceBytes, bytes() - at);
    copy(at, count, piece.data());
    hash.update(piece.data(), static_cast<size_t>(count));
  }
  return hash.hex().substr(0, 16);
}

}  // namespace lockstep::train
