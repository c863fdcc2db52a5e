// What the simulated runtime queues.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "core/base/clock.h"
#include "core/device/cuda/api.h"
#include "core/device/cuda/sim/random.h"

namespace lockstep::cuda::sim {

// The place of an event_record in its stream.
struct Point {
  bool done = false;
  Clock::time_point at;  // once done
};

struct Item {
  const char* name = "";               // a literal
  std::function<void(Random&)> run{};  // may be empty
  std::function<bool()> ready{};       // it runs once this says so; empty: always
  std::shared_ptr<Point> awaited{};    // it runs once this is done; null: none
  std::shared_ptr<Point> recorded{};   // this is done after it; null: none
  size_t staged = 0;                   // bytes of host memory that `run` owns
  bool all_devices = false;            // it touches the memory of other devices, too
  uint64_t number = 0;                 // counts the items of all streams
};

// Work that a stream recorded, to be queued again and again.
struct Recorded {
  int device = 0;
  std::vector<Item> items{};
};

struct Stream {
  StreamHandle handle = nullptr;
  int device = 0;
  std::deque<Item> items;  // the first one may be running
  uint64_t last = 0;       // number of the item submitted last
  uint64_t priority = 0;
  bool destroyed = false;                // it ends once it is empty
  std::shared_ptr<Recorded> recorded{};  // while it records: nothing is queued then

  // Whether all items up to a number have run.
  bool finished(uint64_t upto) const { return items.empty() || items.front().number > upto; }
  // Whether the first item can run. Calls its ready().
  bool runnable() const {
    if (items.empty()) return false;
    const Item& head = items.front();
    return (!head.awaited || head.awaited->done) && (!head.ready || head.ready());
  }
};

}  // namespace lockstep::cuda::sim
