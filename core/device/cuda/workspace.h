// Memory that one kernel function needs between its launches.
#pragma once

#include <cstddef>

#include "core/device/allocator.h"
#include "core/device/queue.h"

namespace lockstep::cuda {

// Device memory of `queue`, for work that is queued there while the object lives: its end gives the
// memory back in the queue's order. Counts as `buffers`.
class Workspace {
 public:
  Workspace(const Queue& queue, size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  Queue queue_;
  size_t bytes_;
  void* data_;
};

}  // namespace lockstep::cuda
