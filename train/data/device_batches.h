// DeviceBatches: the batches of a dataset on the device that computes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "train/data/dataset.h"

namespace lockstep::train {

// On a CPU the batches are the dataset's own. For another device they are read into pinned memory,
// and their copies are queued there. Nothing waits: pinned memory is used again once its copy is
// done, so there is as much of it as the host is ahead of the device, a step's batches at most. Not
// thread-safe.
class DeviceBatches {
 public:
  // `data` must outlive it.
  DeviceBatches(const Dataset& data, Device device) : data_(data), device_(device) {}

  // As those of the dataset, and they throw as these do.
  Batch get(int64_t step, int64_t micro);
  Batch evaluation(int64_t index) const;
  Batch blank() const;

  // Reads that micro-batch now, for the next get(): while the device computes, and before the host
  // waits for it. Does nothing on a CPU. A failure is left to get().
  void prefetch(int64_t step, int64_t micro);

 private:
  struct Prefetched {
    int64_t step, micro;
    Batch batch;
  };
  Batch bring(const std::function<Batch()>& read) const;

  const Dataset& data_;
  const Device device_;
  std::optional<Prefetched> prefetched_;
};

}  // namespace lockstep::train
