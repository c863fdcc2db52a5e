#include "core/device/cuda/sim/memory/protection.h"

#include <cerrno>

#include <sys/mman.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::cuda::sim {
namespace {

void protect(void* pages, size_t bytes, int access) {
  if (mprotect(pages, bytes, access) != 0)
    throw EnvironmentError(
        str("[simulated GPU] mprotect of ", bytes, " bytes failed: ", errno_text(errno)));
}

}  // namespace

size_t page_size() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

char* reserve_addresses(size_t bytes) {
  void* base = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return base == MAP_FAILED ? nullptr : static_cast<char*>(base);
}

void open_pages(void* pages, size_t bytes) { protect(pages, bytes, PROT_READ | PROT_WRITE); }

void close_pages(void* pages, size_t bytes) {
  madvise(pages, bytes, MADV_DONTNEED);
  protect(pages, bytes, PROT_NONE);
}

#ifdef PKEY_DISABLE_ACCESS

bool keys_work() {
  static const bool work = [] {
    const int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    if (key < 0) return false;
    pkey_free(key);
    return true;
  }();
  return work;
}

PageGuard::PageGuard(Protection protection) : protection_(protection) {
  if (protection_ == Protection::pages) return;
  key_ = pkey_alloc(0, PKEY_DISABLE_ACCESS);
  if (key_ < 0)
    throw EnvironmentError(str("[simulated GPU] no protection key is left: ", errno_text(errno),
                               "; set LOCKSTEP_SIM_PROTECTION=pages"));
}

void PageGuard::attach(void* pages, size_t bytes) const {
  if (protection_ == Protection::pages) return set_open(pages, bytes, true);
  if (pkey_mprotect(pages, bytes, PROT_READ | PROT_WRITE, key_) != 0)
    throw EnvironmentError(str("[simulated GPU] pkey_mprotect failed: ", errno_text(errno)));
}

void PageGuard::set_open_for_thread(bool open) const {
  if (protection_ == Protection::keys) pkey_set(key_, open ? 0 : PKEY_DISABLE_ACCESS);
}

#else

bool keys_work() { return false; }
PageGuard::PageGuard(Protection protection) : protection_(protection) {}
void PageGuard::attach(void* pages, size_t bytes) const { set_open(pages, bytes, open); }
void PageGuard::set_open_for_thread(bool) const {}

#endif

void PageGuard::set_open(void* pages, size_t bytes, bool open) const {
  if (protection_ == Protection::pages)
    protect(pages, bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

}  // namespace lockstep::cuda::sim
