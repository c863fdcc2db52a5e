#include "launcher/process/shared_page.h"

#include <cerrno>
#include <new>

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

// The limit of file sizes (ulimit -f) is meant for files on disks, but holds here, too.
int set_size(int fd, off_t bytes) {
  rlimit before{};
  if (::getrlimit(RLIMIT_FSIZE, &before) != 0) return -1;
  const rlimit raised{before.rlim_max, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &raised);
  const int result = ::ftruncate(fd, bytes);
  const int error = errno;
  ::setrlimit(RLIMIT_FSIZE, &before);
  errno = error;
  return result;
}

}  // namespace

SharedPage::SharedPage() {
  void* data = MAP_FAILED;
  if (set_size(file_.fd(), sizeof(AgentPage)) == 0)
    data = ::mmap(nullptr, sizeof(AgentPage), PROT_READ | PROT_WRITE, MAP_SHARED, file_.fd(), 0);
  if (data == MAP_FAILED)
    throw EnvironmentError("[launch] memory shared with the ranks: " + errno_text(errno));
  page_ = new (data) AgentPage;
  page_->lease_until_ns = kEndlessLease.count();
}

SharedPage::~SharedPage() { ::munmap(page_, sizeof(AgentPage)); }

}  // namespace lockstep::launcher
