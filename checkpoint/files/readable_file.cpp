#include "checkpoint/files/readable_file.h"

#include <cerrno>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

class PosixReadableFile final : public ReadableFile {
 public:
  // O_NONBLOCK: if the path is a pipe, open() must not wait for a writer.
  PosixReadableFile(std::string path, int more_flags)
      : path_(std::move(path)),
        fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | more_flags)) {
    if (fd_ < 0)
      throw EnvironmentError(str("open '", path_, "': ",
                                 errno == ELOOP && more_flags
                                     ? "a symbolic link is not allowed here"
                                     : errno_text(errno)));
    struct stat info {};
    const int failed = ::fstat(fd_, &info) != 0 ? errno : 0;
    if (failed || !S_ISREG(info.st_mode)) {
      ::close(fd_);
      throw EnvironmentError(
          str("open '", path_, "': ", failed ? errno_text(failed) : "not a regular file"));
    }
    bytes_ = info.st_size;
  }
  ~PosixReadableFile() override { ::close(fd_); }

  const std::string& path() const override { return path_; }
  int64_t bytes() const override { return bytes_; }

  void read(int64_t offset, void* data, int64_t bytes) const override {
    auto* to = static_cast<char*>(data);
    for (int64_t done = 0; done < bytes;) {
      const ssize_t got = ::pread(fd_, to + done, static_cast<size_t>(bytes - done), offset + done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0)
        throw EnvironmentError(
            str("read '", path_, "' at byte ", offset + done, ": ", errno_text(errno)));
      if (got == 0)
        throw EnvironmentError(
            str("read '", path_, "': ends at byte ", offset + done, ", expected ", offset + bytes));
      done += got;
    }
  }

 private:
  std::string path_;
  int fd_;
  int64_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<ReadableFile> open_file(const std::string& path, Links links) {
  return std::make_unique<PosixReadableFile>(path, links == Links::refuse ? O_NOFOLLOW : 0);
}

std::string read_text(const ReadableFile& file, int64_t limit) {
  if (file.bytes() > limit)
    throw EnvironmentError(
        str("'", file.path(), "' has ", file.bytes(), " bytes, more than ", limit));
  std::string text(static_cast<size_t>(file.bytes()), '\0');
  file.read(0, text.data(), file.bytes());
  return text;
}

}  // namespace lockstep::checkpoint
