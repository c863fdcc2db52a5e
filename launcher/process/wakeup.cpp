#include "launcher/process/wakeup.h"

#include <cerrno>
#include <cstdint>

#include <sys/eventfd.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::launcher {

Wakeup::Wakeup() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (fd_ < 0) throw EnvironmentError("[launch] eventfd: " + errno_text(errno));
}

Wakeup::~Wakeup() { ::close(fd_); }

void Wakeup::ring() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(fd_, &one, sizeof one);
}

void Wakeup::clear() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd_, &count, sizeof count);
}

}  // namespace lockstep::launcher
