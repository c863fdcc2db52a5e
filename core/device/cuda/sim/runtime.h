// The simulated runtime: devices, their memory, streams and events.
//
// Work is queued per stream, and none of it runs when it is submitted. It runs on the host thread
// that needs something: one that synchronizes, copies into ordinary host memory, frees, or asks
// whether an event is done. That thread executes queued work of all devices in a seeded random
// order, which only streams and events constrain, until it has what it needs. One thread executes
// at a time. Another one that needs something waits until it may go on or can execute itself.
//
// Work that is queued when the process ends does not run.
//
// All functions are thread-safe. Those that return int return an error code (errors.h).
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/base/mutex.h"
#include "core/device/cuda/api.h"
#include "core/device/cuda/sim/memory/memory.h"
#include "core/device/cuda/sim/random.h"
#include "core/device/cuda/sim/settings.h"
#include "core/device/cuda/sim/statistics.h"
#include "core/device/cuda/sim/stream.h"

namespace lockstep::cuda::sim {

class Runtime {
 public:
  // The one of this process, with the environment's settings. Never destroyed. Throws UsageError if
  // the settings are wrong.
  static Runtime& instance();
  explicit Runtime(const Settings& settings);

  const Settings& settings() const { return settings_; }

  int allocate(int device, void** pointer, size_t bytes) LOCKSTEP_EXCLUDES(mutex_);
  int free(void* pointer) LOCKSTEP_EXCLUDES(mutex_);
  int memory_info(int device, size_t* free_bytes, size_t* total_bytes) LOCKSTEP_EXCLUDES(mutex_);
  int allocate_pinned(void** pointer, size_t bytes) LOCKSTEP_EXCLUDES(mutex_);
  int free_pinned(void* pointer) LOCKSTEP_EXCLUDES(mutex_);

  int stream_create(int device, StreamHandle* stream) LOCKSTEP_EXCLUDES(mutex_);
  int stream_destroy(StreamHandle stream) LOCKSTEP_EXCLUDES(mutex_);
  int stream_synchronize(StreamHandle stream) LOCKSTEP_EXCLUDES(mutex_);
  int stream_wait(StreamHandle stream, EventHandle event) LOCKSTEP_EXCLUDES(mutex_);

  int event_create(int device, EventHandle* event) LOCKSTEP_EXCLUDES(mutex_);
  int event_destroy(EventHandle event) LOCKSTEP_EXCLUDES(mutex_);
  int event_record(EventHandle event, StreamHandle stream) LOCKSTEP_EXCLUDES(mutex_);
  int event_done(EventHandle event, bool* done) LOCKSTEP_EXCLUDES(mutex_);
  int event_synchronize(EventHandle event) LOCKSTEP_EXCLUDES(mutex_);
  int event_elapsed_ms(EventHandle start, EventHandle end, float* ms) LOCKSTEP_EXCLUDES(mutex_);

  int copy(void* to, const void* from, size_t bytes, StreamHandle stream) LOCKSTEP_EXCLUDES(mutex_);
  int fill(const char* name, void* to, int byte, size_t bytes, StreamHandle stream)
      LOCKSTEP_EXCLUDES(mutex_);

  int capture_begin(StreamHandle stream) LOCKSTEP_EXCLUDES(mutex_);
  int capture_end(StreamHandle stream, GraphHandle* graph) LOCKSTEP_EXCLUDES(mutex_);
  int graph_launch(GraphHandle graph, StreamHandle stream) LOCKSTEP_EXCLUDES(mutex_);
  int graph_destroy(GraphHandle graph) LOCKSTEP_EXCLUDES(mutex_);

  // Queues a kernel or a function of the host (launch.h).
  int enqueue(StreamHandle stream, Item item) LOCKSTEP_EXCLUDES(mutex_);
  // An item may have become ready.
  void wake() LOCKSTEP_EXCLUDES(mutex_);

  void set_seed(uint64_t seed) LOCKSTEP_EXCLUDES(mutex_);
  Statistics statistics(int device) LOCKSTEP_EXCLUDES(mutex_);
  void reset_statistics() LOCKSTEP_EXCLUDES(mutex_);

 private:
  struct Event {
    int device;
    std::shared_ptr<Point> last;  // null: never recorded
  };

  // Whether calls are possible now: kSuccess, or why not.
  int state() const LOCKSTEP_REQUIRES(mutex_);
  int find_stream(StreamHandle handle, std::shared_ptr<Stream>* stream) LOCKSTEP_REQUIRES(mutex_);
  // As find_stream, for a call that recorded work cannot hold.
  int find_unrecorded(const char* call, StreamHandle handle, std::shared_ptr<Stream>* stream)
      LOCKSTEP_REQUIRES(mutex_);
  int find_event(EventHandle handle, Event** event) LOCKSTEP_REQUIRES(mutex_);
  int check_target(const char* call, const void* pointer, size_t bytes, Target* target) const
      LOCKSTEP_REQUIRES(mutex_);

  // Queues, and returns the item's number. Executes some items if there are very many. A stream
  // that records keeps the item instead.
  uint64_t submit(Stream& stream, Item item) LOCKSTEP_REQUIRES(mutex_);
  uint64_t append(Stream& stream, Item item) LOCKSTEP_REQUIRES(mutex_);
  void relieve(int device) LOCKSTEP_REQUIRES(mutex_);
  // Executes until met(), which is called with the lock held. Fails if that can never be.
  template <class Met>
  int run_until(int device, const Met& met) LOCKSTEP_REQUIRES(mutex_);
  // Becomes the executing thread, executes at most `most` items until met(), and stops being it.
  // Returns whether it did anything. Nobody executes at the call.
  template <class Met>
  bool execute(int64_t most, const Met& met) LOCKSTEP_REQUIRES(mutex_);
  std::shared_ptr<Stream> choose() LOCKSTEP_REQUIRES(mutex_);
  void execute_head(const std::shared_ptr<Stream>& stream) LOCKSTEP_REQUIRES(mutex_);
  void run(Item& item, Random random) LOCKSTEP_REQUIRES(mutex_);
  void remove_if_ended(const Stream& stream) LOCKSTEP_REQUIRES(mutex_);
  bool waits_for_outside() const LOCKSTEP_REQUIRES(mutex_);
  std::string what_streams_wait_for() const LOCKSTEP_REQUIRES(mutex_);

  // A thread that waits, in its run_until().
  struct Waiter {
    const std::function<bool()>& met;
    Condition changed;
  };
  // Returns once met(), or when the thread may try to execute.
  void wait(const std::function<bool()>& met) LOCKSTEP_REQUIRES(mutex_);
  // Wakes waiters that have what they need.
  void wake_the_done() LOCKSTEP_REQUIRES(mutex_);
  // Wakes one waiter, which then executes what can run. Called when nobody executes and there may
  // be something.
  void hand_over() LOCKSTEP_REQUIRES(mutex_);

  const Settings settings_;
  Mutex mutex_;
  std::deque<Waiter*> waiters_ LOCKSTEP_GUARDED_BY(mutex_);  // by arrival
  bool executing_ LOCKSTEP_GUARDED_BY(mutex_) = false;
  Random random_ LOCKSTEP_GUARDED_BY(mutex_);
  uint64_t restlessness_ LOCKSTEP_GUARDED_BY(mutex_) = 0;  // choose() explains it
  uint64_t submitted_ LOCKSTEP_GUARDED_BY(mutex_) = 0;     // items so far
  std::string failure_ LOCKSTEP_GUARDED_BY(mutex_);        // what queued work threw
  Memory memory_ LOCKSTEP_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Stream>> streams_ LOCKSTEP_GUARDED_BY(mutex_);  // by creation
  std::unordered_map<EventHandle, std::unique_ptr<Event>> events_ LOCKSTEP_GUARDED_BY(mutex_);
  std::unordered_map<GraphHandle, std::shared_ptr<const Recorded>> graphs_
      LOCKSTEP_GUARDED_BY(mutex_);
  uintptr_t handles_ LOCKSTEP_GUARDED_BY(mutex_) = 0;        // given out so far
  size_t staged_ LOCKSTEP_GUARDED_BY(mutex_) = 0;            // bytes, of all items
  std::vector<int64_t> queued_ LOCKSTEP_GUARDED_BY(mutex_);  // items, by device
  std::vector<Statistics> statistics_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace lockstep::cuda::sim
