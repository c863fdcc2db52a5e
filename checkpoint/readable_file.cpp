#include "checkpoint/readable_file.h"

#include <cerrno>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/digest.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {

ReadableFile::ReadableFile(std::string path) : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (fd_ < 0) throw EnvironmentError(str("open '", path_, "': ", errno_text(errno)));
  struct stat info {};
  const int failed = ::fstat(fd_, &info) != 0 ? errno : 0;
  if (failed || !S_ISREG(info.st_mode)) {
    ::close(fd_);
    throw EnvironmentError(str("open '", path_, "': ", failed ? errno_text(failed) : "not a regular file"));
  }
  bytes_ = info.st_size;
}

ReadableFile::~ReadableFile() { ::close(fd_); }

void ReadableFile::read(int64_t offset, void* data, int64_t bytes) const {
  auto* to = static_cast<char*>(data);
  for (int64_t done = 0; done < bytes;) {
    const ssize_t got = ::pread(fd_, to + done, static_cast<size_t>(bytes - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw EnvironmentError(str("read '", path_, "' at byte ", offset + done, ": ", errno_text(errno)));
    if (got == 0) throw EnvironmentError(str("read '", path_, "': ends at byte ", offset + done, ", expected ", offset + bytes));
    done += got;
  }
}

std::string ReadableFile::sha256() const {
  Sha256 hash;
  std::vector<char> chunk(1 << 20);
  for (int64_t at = 0; at < bytes_;) {
    const int64_t count = std::min<int64_t>(bytes_ - at, static_cast<int64_t>(chunk.size()));
    read(at, chunk.data(), count);
    hash.update(chunk.data(), static_cast<size_t>(count));
    at += count;
  }
  return hash.hex();
}

std::string read_text(const std::string& path, int64_t limit) {
  const ReadableFile file(path);
  if (file.bytes() > limit) throw EnvironmentError(str("'", path, "' has ", file.bytes(), " bytes, more than ", limit));
  std::string text(static_cast<size_t>(file.bytes()), '\0');
  file.read(0, text.data(), file.bytes());
  return text;
}

}  // namespace lockstep::checkpoint
