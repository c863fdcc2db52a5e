#include "train/data/corpus.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/digest.h"
#include "core/base/error.h"

namespace lockstep::train {

std::string advice_on_text(const std::string& path) {
  return str(path.ends_with("data/kjv.txt") ? "run scripts/fetch_kjv, or " : "", "set data.path to a text file");
}

namespace {

std::vector<std::string> files_at(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  check(fs::exists(status), "data.path '", path, "' does not exist: ", advice_on_text(path));
  if (!fs::is_directory(status)) return {path};
  std::vector<std::string> files;
  fs::directory_iterator it(path, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error))
    if (it->is_regular_file() && it->path().filename().string()[0] != '.') files.push_back(it->path());
  check(!error, "data.path '", path, "' cannot be read: ", error.message());
  check(!files.empty(), "data.path '", path, "' is a folder without files: put text files there, or set data.path to a text file");
  std::sort(files.begin(), files.end());
  return files;
}

// Open for reading as long as this lives. Corpora may have more files than a process may have open, so no file stays open.
class OpenFile {
 public:
  // Not blocking: a pipe without a writer is refused, not waited for.
  explicit OpenFile(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
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
  // Whether all of it came; otherwise error() says why, 0 for a file that ended.
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
  int fd_;
  int error_ = 0;
  struct stat info_ {};
};

int64_t size_of_file(const std::string& path) {
  const OpenFile file(path);
  check(file.error() == 0, "data.path: cannot read '", path, "': ", errno_text(file.error()));
  check(file.is_regular(), "data.path: '", path, "' is not a regular file");
  return file.bytes();
}

}  // namespace

Corpus::Corpus(const std::string& path) {
  for (const auto& name : files_at(path)) {
    files_.push_back({name, size_of_file(name)});
    begins_.push_back(begins_.back() + files_.back().bytes);
  }
}

void Corpus::copy(int64_t offset, int64_t count, uint8_t* to) const {
  auto index = static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), offset) - begins_.begin() - 1);
  for (; count > 0; ++index) {
    const int64_t available = std::min(count, begins_[index + 1] - offset);
    if (available <= 0) continue;  // an empty file
    const auto& [path, bytes] = files_[index];
    OpenFile file(path);
    const bool same = file.error() == 0 && file.bytes() == bytes;
    if (!same || !file.read(offset - begins_[index], available, to)) {
      const std::string why = file.error() != 0 ? errno_text(file.error()) : str("it has ", file.bytes(), " bytes now");
      throw EnvironmentError(str("data.path: '", path, "' of ", bytes, " bytes changed or cannot be read any more: ", why,
                                 "; put the same data back and resume"));
    }
    to += available;
    offset += available;
    count -= available;
  }
}

std::string Corpus::fingerprint() const {
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
