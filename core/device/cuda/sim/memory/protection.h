// Keeps device memory from the host: protection keys, or page protection (settings.h).
#pragma once

#include <cstddef>

#include "core/device/cuda/sim/settings.h"

namespace lockstep::cuda::sim {

// Whether the processor and the system have protection keys.
bool keys_work();

// The protection of pages. Not thread-safe: the runtime's lock guards it.
class PageGuard {
 public:
  explicit PageGuard(Protection protection);

  Protection protection() const { return protection_; }
  // Takes new pages under protection. With pages they are open now; with keys they are not.
  void attach(void* pages, size_t bytes) const;
  // With pages: the pages become accessible, or stop being so. With keys this does nothing.
  void set_open(void* pages, size_t bytes, bool open) const;
  // With keys: the calling thread may touch attached pages, or may not. With pages this does
  // nothing.
  void set_open_for_thread(bool open) const;

 private:
  Protection protection_;
  int key_ = -1;
};

// Nobody may touch the pages. Their contents are gone.
void close_pages(void* pages, size_t bytes);

// Reserves addresses without memory. Returns nullptr if there are not so many.
char* reserve_addresses(size_t bytes);

// Opens pages of reserved addresses to everybody. Throws EnvironmentError if that fails.
void open_pages(void* pages, size_t bytes);

size_t page_size();

}  // namespace lockstep::cuda::sim
