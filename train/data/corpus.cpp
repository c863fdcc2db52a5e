#include "train/data/corpus.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/digest.h"
#include "core/base/error.h"

namespace lockstep::train {
namespace {

std::vector<std::string> files_at(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  check(fs::exists(status), "data.path '", path, "' does not exist: run scripts/fetch_kjv, or set data.path to a text file");
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

}  // namespace

class Corpus::Mapping {
 public:
  explicit Mapping(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    check(fd >= 0, "data.path: cannot open '", path, "': ", errno_text(errno));
    struct stat info {};
    int error = ::fstat(fd, &info) == 0 ? 0 : errno;
    const bool regular = error == 0 && S_ISREG(info.st_mode);
    bytes_ = info.st_size;
    if (regular && bytes_ > 0) {
      void* mapped = ::mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ, MAP_PRIVATE, fd, 0);
      if (mapped == MAP_FAILED)
        error = errno;
      else
        data_ = static_cast<const uint8_t*>(mapped);
    }
    ::close(fd);
    check(error == 0, "data.path: cannot read '", path, "': ", errno_text(error));
    check(regular, "data.path: '", path, "' is not a regular file");
  }
  ~Mapping() {
    if (data_) ::munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(bytes_));
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  const uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  const uint8_t* data_ = nullptr;  // null for an empty file
  int64_t bytes_ = 0;
};

Corpus::Corpus(const std::string& path) {
  for (const auto& file : files_at(path)) {
    files_.push_back(std::make_shared<Mapping>(file));
    begins_.push_back(begins_.back() + files_.back()->bytes());
  }
}

void Corpus::copy(int64_t offset, int64_t count, uint8_t* to) const {
  auto file = static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), offset) - begins_.begin() - 1);
  for (; count > 0; ++file) {
    const int64_t available = std::min(count, begins_[file + 1] - offset);
    if (available <= 0) continue;  // an empty file
    std::memcpy(to, files_[file]->data() + (offset - begins_[file]), static_cast<size_t>(available));
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
