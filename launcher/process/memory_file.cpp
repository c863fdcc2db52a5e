#include "launcher/process/memory_file.h"

#include <cerrno>

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::launcher {

MemoryFile::MemoryFile(const char* label, const std::string& contents)
    : fd_(::memfd_create(label, MFD_CLOEXEC)) {
  if (fd_ < 0) throw EnvironmentError("[launch] memfd_create: " + errno_text(errno));
  if (::fchmod(fd_, 0600) == 0 &&
      ::pwrite(fd_, contents.data(), contents.size(), 0) == static_cast<ssize_t>(contents.size()))
    return;
  const std::string why = errno_text(errno);
  ::close(fd_);
  throw EnvironmentError(str("[launch] a file in memory (", label, "): ", why));
}

MemoryFile::~MemoryFile() { ::close(fd_); }

std::string MemoryFile::path() const { return str("/proc/", ::getpid(), "/fd/", fd_); }

std::string MemoryFile::contents(size_t most) const {
  std::string text(most, '\0');
  const ssize_t got = ::pread(fd_, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return text;
}

}  // namespace lockstep::launcher
