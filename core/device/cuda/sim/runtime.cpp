#include "core/device/cuda/sim/runtime.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <limits>
#include <optional>
#include <utility>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/device/cuda/sim/errors.h"
#include "core/device/cuda/sim/faults.h"

namespace lockstep::cuda::sim {
namespace {

// How many items a device may have queued before submitting executes some, and how much memory
// copies may hold.
constexpr int64_t kMostQueued = 4096;
constexpr size_t kMostStaged = size_t{256} << 20;
// How often items are asked whether they are ready, without wake().
constexpr Duration kAskAgain = std::chrono::milliseconds(1);
// event_done() executes fewer items than this.
constexpr uint64_t kPolled = 4;

constexpr const char* kWithinWork = "called from within queued work";

}  // namespace

Runtime& Runtime::instance() {
  static Runtime& runtime = *new Runtime(Settings::read());
  return runtime;
}

Runtime::Runtime(const Settings& settings)
    : settings_(settings),
      random_(settings.seed),
      memory_(settings),
      queued_(static_cast<size_t>(settings.devices)),
      statistics_(static_cast<size_t>(settings.devices)) {}

// ---- memory ----

int Runtime::allocate(int device, void** pointer, size_t bytes) {
  const MutexLock lock(mutex_);
  *pointer = nullptr;
  if (const int error = state()) return error;
  if (bytes == 0) return kSuccess;
  ++statistics_[static_cast<size_t>(device)].allocations;
  *pointer = memory_.allocate(device, bytes);
  return *pointer ? kSuccess : kOutOfMemory;
}

int Runtime::free(void* pointer) {
  const MutexLock lock(mutex_);
  if (const int error = state()) return error;
  if (!pointer) return kSuccess;
  const int device = memory_.device_of(pointer);
  if (device < 0) return failure(kInvalidValue, str("free: no allocation begins at ", pointer));
  const uint64_t upto = submitted_;
  const int error = run_until(device, [&]() LOCKSTEP_REQUIRES(mutex_) {
    return std::all_of(streams_.begin(), streams_.end(), [&](const auto& stream) {
      return stream->device != device || stream->finished(upto);
    });
  });
  if (error) return error;
  return memory_.free(pointer) ? kSuccess
                               : failure(kInvalidValue, "free: another thread freed it, too");
}

int Runtime::memory_info(int device, size_t* free_bytes, size_t* total_bytes) {
  const MutexLock lock(mutex_);
  *total_bytes = memory_.capacity();
  *free_bytes = memory_.capacity() - memory_.used(device);
  return state();
}

int Runtime::allocate_pinned(void** pointer, size_t bytes) {
  const MutexLock lock(mutex_);
  *pointer = nullptr;
  if (const int error = state()) return error;
  if (bytes == 0) return kSuccess;
  *pointer = memory_.allocate_pinned(bytes);
  return *pointer ? kSuccess : kOutOfMemory;
}

int Runtime::free_pinned(void* pointer) {
  const MutexLock lock(mutex_);
  if (const int error = state()) return error;
  if (!pointer || memory_.free_pinned(pointer)) return kSuccess;
  return failure(kInvalidValue, str("free_pinned: no pinned allocation begins at ", pointer));
}

int Runtime::check_target(const char* call, const void* pointer, size_t bytes,
                          Target* target) const {
  *target = memory_.look_up(pointer, bytes);
  if (target->inside) return kSuccess;
  return failure(kInvalidValue,
                 str(call, ": ", bytes, " bytes at ", pointer, " do not lie in one allocation"));
}

int Runtime::copy(void* to, const void* from, size_t bytes, StreamHandle handle) {
  const MutexLock lock(mutex_);
  std::shared_ptr<Stream> stream;
  Target target, source;
  if (const int error = find_stream(handle, &stream)) return error;
  if (bytes == 0) return kSuccess;
  if (const int error = check_target("copy", to, bytes, &target)) return error;
  if (const int error = check_target("copy", from, bytes, &source)) return error;
  if (stream->recorded && (source.place == Place::host || target.place == Place::host))
    return failure(kCaptureUnsupported, "a copy of ordinary host memory on a stream that records");

  Item item{.name = "copy"};
  if (source.place == Place::host) {
    item.staged = bytes;
    std::shared_ptr<char[]> staging(new char[bytes]);
    std::memcpy(staging.get(), from, bytes);
    item.run = [to, staging, bytes](Random&) { std::memcpy(to, staging.get(), bytes); };
  } else {
    item.run = [to, from, bytes](Random&) { std::memmove(to, from, bytes); };
  }
  for (const Target& end : {target, source})
    if (end.place == Place::device && end.device != stream->device) item.all_devices = true;
  Statistics& seen = statistics_[static_cast<size_t>(stream->device)];
  if (!stream->recorded) ++seen.copies;
  if (source.place == Place::host) ++seen.host_waits;
  const uint64_t number = submit(*stream, std::move(item));
  if (target.place != Place::host) return kSuccess;
  return run_until(stream->device, [&] { return stream->finished(number); });
}

int Runtime::fill(const char* name, void* to, int byte, size_t bytes, StreamHandle handle) {
  const MutexLock lock(mutex_);
  std::shared_ptr<Stream> stream;
  Target target;
  if (const int error = find_stream(handle, &stream)) return error;
  if (bytes == 0) return kSuccess;
  if (const int error = check_target(name, to, bytes, &target)) return error;
  if (target.place == Place::host)
    return failure(kInvalidValue, str(name, ": ", to, " is ordinary memory of the host"));
  Item item{.name = name};
  item.run = [to, byte, bytes](Random&) { std::memset(to, byte, bytes); };
  item.all_devices = target.place == Place::device && target.device != stream->device;
  if (!stream->recorded) ++statistics_[static_cast<size_t>(stream->device)].copies;
  submit(*stream, std::move(item));
  return kSuccess;
}

// ---- streams ----

int Runtime::state() const {
  if (executing()) return failure(kNotPermitted, kWithinWork);
  return failure_.empty() ? kSuccess : failure(kLaunchFailure, failure_);
}

int Runtime::find_stream(StreamHandle handle, std::shared_ptr<Stream>* stream) {
  if (const int error = state()) return error;
  const auto found = std::find_if(streams_.begin(), streams_.end(), [&](const auto& each) {
    return each->handle == handle && !each->destroyed;
  });
  if (found == streams_.end()) return failure(kInvalidHandle, "there is no such stream");
  *stream = *found;
  return kSuccess;
}

int Runtime::find_unrecorded(const char* call, StreamHandle handle,
                             std::shared_ptr<Stream>* stream) {
  if (const int error = find_stream(handle, stream)) return error;
  return (*stream)->recorded ? failure(kCaptureUnsupported, str(call, " on a stream that records"))
                             : kSuccess;
}

int Runtime::stream_create(int device, StreamHandle* handle) {
  const MutexLock lock(mutex_);
  if (const int error = state()) return error;
  auto stream = std::make_shared<Stream>();
  stream->handle = reinterpret_cast<StreamHandle>(++handles_);
  stream->device = device;
  stream->priority = random_.next();
  streams_.push_back(stream);
  *handle = stream->handle;
  return kSuccess;
}

int Runtime::stream_destroy(StreamHandle handle) {
  const MutexLock lock(mutex_);
  std::shared_ptr<Stream> stream;
  if (const int error = find_stream(handle, &stream)) return error;
  stream->destroyed = true;
  remove_if_ended(*stream);
  return kSuccess;
}

void Runtime::remove_if_ended(const Stream& stream) {
  if (!stream.destroyed || !stream.items.empty()) return;
  std::erase_if(streams_, [&](const auto& each) { return each.get() == &stream; });
}

int Runtime::stream_synchronize(StreamHandle handle) {
  const MutexLock lock(mutex_);
  std::shared_ptr<Stream> stream;
  if (const int error = find_stream(handle, &stream)) return error;
  if (stream->recorded)
    return failure(kCaptureUnsupported, "stream_synchronize of a stream that records");
  const uint64_t upto = stream->last;
  return run_until(stream->device, [&] { return stream->finished(upto); });
}

int Runtime::stream_wait(StreamHandle handle, EventHandle event_handle) {
  const MutexLock lock(mutex_);
  std::shared_ptr<Stream> stream;
  Event* event = nullptr;
  if (const int error = find_unrecorded("stream_wait", handle, &stream)) return error;
  if (const int error = find_event(event_handle, &event)) return error;
  if (!event->last || event->last->done) return kSuccess;
  submit(*stream, {.name = "wait for an event", .awaited = event->last});
  return kSuccess;
}

// ---- events ----

int Runtime::find_event(EventHandle handle, Event** event) {
  if (const int error = state()) return error;
  const auto found = events_.find(handle);
  if (found == events_.end()) return failure(kInvalidHandle, "there is no such event");
  *event = found->second.get();
  return kSuccess;
}

int Runtime::event_create(int device, EventHandle* event) {
  const MutexLock lock(mutex_);
  if (const int error = state()) return error;
  *event = reinterpret_cast<EventHandle>(++handles_);
  events_.emplace(*event, std::make_unique<Event>(Event{device, nullptr}));
  return kSuccess;
}

int Runtime::event_destroy(EventHandle handle) {
  const MutexLock lock(mutex_);
  Event* event = nullptr;
  if (const int error = find_event(handle, &event)) return error;
  events_.erase(handle);
  return kSuccess;
}

int Runtime::event_record(EventHandle handle, StreamHandle stream_handle) {
  const MutexLock lock(mutex_);
  std::shared_ptr<Stream> stream;
  Event* event = nullptr;
  if (const int error = find_unrecorded("event_record", stream_handle, &stream)) return error;
  if (const int error = find_event(handle, &event)) return error;
  if (event->device != stream->device)
    return failure(kInvalidHandle, str("an event of device ", event->device,
                                       " recorded on a stream of device ", stream->device));
  event->last = std::make_shared<Point>();
  submit(*stream, {.name = "record an event", .recorded = event->last});
  return kSuccess;
}

int Runtime::event_done(EventHandle handle, bool* done) {
  const MutexLock lock(mutex_);
  Event* event = nullptr;
  if (const int error = find_event(handle, &event)) return error;
  const std::shared_ptr<Point> point = event->last;
  const auto is_done = [&] { return !point || point->done; };
  if (!is_done() && !executing_) execute(static_cast<int64_t>(random_.below(kPolled)), is_done);
  *done = is_done();
  return state();
}

int Runtime::event_synchronize(EventHandle handle) {
  const MutexLock lock(mutex_);
  Event* event = nullptr;
  if (const int error = find_event(handle, &event)) return error;
  const std::shared_ptr<Point> point = event->last;
  return run_until(event->device, [&] { return !point || point->done; });
}

int Runtime::event_elapsed_ms(EventHandle start, EventHandle end, float* ms) {
  const MutexLock lock(mutex_);
  Event *first = nullptr, *second = nullptr;
  if (const int error = find_event(start, &first)) return error;
  if (const int error = find_event(end, &second)) return error;
  if (!first->last || !second->last) return failure(kInvalidHandle, "an event was never recorded");
  if (!first->last->done || !second->last->done) return kNotReady;
  *ms = std::chrono::duration<float, std::milli>(second->last->at - first->last->at).count();
  return kSuccess;
}

// ---- execution ----

int Runtime::enqueue(StreamHandle handle, Item item) {
  const MutexLock lock(mutex_);
  std::shared_ptr<Stream> stream;
  if (const int error = find_stream(handle, &stream)) return error;
  if (!stream->recorded) ++statistics_[static_cast<size_t>(stream->device)].launches;
  submit(*stream, std::move(item));
  return kSuccess;
}

// ---- recorded work ----

int Runtime::capture_begin(StreamHandle handle) {
  const MutexLock lock(mutex_);
  std::shared_ptr<Stream> stream;
  if (const int error = find_unrecorded("capture_begin", handle, &stream)) return error;
  stream->recorded = std::make_shared<Recorded>(Recorded{.device = stream->device});
  return kSuccess;
}

int Runtime::capture_end(StreamHandle handle, GraphHandle* graph) {
  const MutexLock lock(mutex_);
  std::shared_ptr<Stream> stream;
  if (const int error = find_stream(handle, &stream)) return error;
  if (!stream->recorded) return failure(kInvalidValue, "capture_end: the stream does not record");
  const std::shared_ptr<Recorded> recorded = std::exchange(stream->recorded, nullptr);
  if (!graph) return kSuccess;
  *graph = reinterpret_cast<GraphHandle>(++handles_);
  graphs_.emplace(*graph, recorded);
  return kSuccess;
}

int Runtime::graph_launch(GraphHandle graph, StreamHandle handle) {
  const MutexLock lock(mutex_);
  std::shared_ptr<Stream> stream;
  if (const int error = find_unrecorded("graph_launch", handle, &stream)) return error;
  const auto found = graphs_.find(graph);
  if (found == graphs_.end()) return failure(kInvalidHandle, "there is no such graph");
  const Recorded* recorded = found->second.get();
  if (recorded->device != stream->device)
    return failure(kInvalidHandle, str("a graph of device ", recorded->device,
                                       " launched on a stream of device ", stream->device));
  ++statistics_[static_cast<size_t>(stream->device)].launches;
  // As a whole: no other work of the stream comes between.
  for (const Item& item : recorded->items) append(*stream, item);
  relieve(stream->device);
  return kSuccess;
}

int Runtime::graph_destroy(GraphHandle graph) {
  const MutexLock lock(mutex_);
  if (const int error = state()) return error;
  return graphs_.erase(graph) == 1 ? kSuccess : failure(kInvalidHandle, "there is no such graph");
}

void Runtime::wake() {
  const MutexLock lock(mutex_);
  hand_over();
}

uint64_t Runtime::submit(Stream& stream, Item item) {
  if (stream.recorded) {
    stream.recorded->items.push_back(std::move(item));
    return stream.last;
  }
  const uint64_t number = append(stream, std::move(item));
  relieve(stream.device);
  return number;
}

uint64_t Runtime::append(Stream& stream, Item item) {
  const uint64_t number = item.number = stream.last = ++submitted_;
  staged_ += item.staged;
  stream.items.push_back(std::move(item));
  int64_t& queued = queued_[static_cast<size_t>(stream.device)];
  int64_t& deepest = statistics_[static_cast<size_t>(stream.device)].deepest;
  deepest = std::max(deepest, ++queued);
  return number;
}

void Runtime::relieve(int device) {
  hand_over();
  const int64_t& queued = queued_[static_cast<size_t>(device)];
  if ((queued > kMostQueued || staged_ > kMostStaged) && !executing_)
    execute(std::numeric_limits<int64_t>::max(), [&]() LOCKSTEP_REQUIRES(mutex_) {
      return queued <= kMostQueued / 2 && staged_ <= kMostStaged / 2;
    });
}

template <class Met>
int Runtime::run_until(int device, const Met& met) {
  if (met()) return kSuccess;
  ++statistics_[static_cast<size_t>(device)].host_waits;
  int error = kSuccess;
  while (!met() && failure_.empty() && !error) {
    if (executing_) {
      wait(met);
    } else if (!execute(std::numeric_limits<int64_t>::max(), met)) {
      if (waits_for_outside())
        wait(met);
      else
        error = failure(kUnknown, what_streams_wait_for());
    }
  }
  hand_over();
  return error ? error : state();
}

void Runtime::wait(const std::function<bool()>& met) {
  Waiter waiter{met, {}};
  waiters_.push_back(&waiter);
  if (executing_)
    waiter.changed.wait(mutex_);
  else
    waiter.changed.wait_for(mutex_, kAskAgain);
  std::erase(waiters_, &waiter);
}

void Runtime::wake_the_done() {
  for (Waiter* waiter : waiters_)
    if (waiter->met()) waiter->changed.notify_one();
}

void Runtime::hand_over() {
  if (!executing_ && !waiters_.empty()) waiters_.front()->changed.notify_one();
}

template <class Met>
bool Runtime::execute(int64_t most, const Met& met) {
  constexpr uint64_t kRestlessness[] = {0, 1, 16, 64};
  executing_ = true;
  restlessness_ = kRestlessness[random_.below(4)];
  for (const auto& stream : streams_) stream->priority = random_.next();
  int64_t executed = 0;
  for (; executed < most && !met() && failure_.empty(); ++executed) {
    const std::shared_ptr<Stream> stream = choose();
    if (!stream) break;
    execute_head(stream);
    wake_the_done();
  }
  memory_.close_all();
  executing_ = false;
  hand_over();
  return executed > 0;
}

// Streams have random priorities, and the one with the highest priority goes first. So a stream may
// run far ahead of another one, which single random steps would seldom do. From time to time, in
// `restlessness_` of 64 steps, a random stream goes first, and gets a new priority.
std::shared_ptr<Stream> Runtime::choose() {
  std::shared_ptr<Stream> best, random;
  uint64_t runnable = 0;
  for (const auto& stream : streams_) {
    if (!stream->runnable()) continue;
    if (!best || stream->priority > best->priority) best = stream;
    if (random_.below(++runnable) == 0) random = stream;
  }
  if (runnable < 2 || random_.below(64) >= restlessness_) return best;
  random->priority = random_.next();
  return random;
}

void Runtime::execute_head(const std::shared_ptr<Stream>& stream) {
  // Others may submit behind the item, which does not move it.
  Item& item = stream->items.front();
  if (item.run) {
    if (item.all_devices)
      memory_.open_all();
    else
      memory_.open(stream->device);
    run(item, Random(random_.next()));
  }
  if (item.recorded) {
    item.recorded->done = true;
    item.recorded->at = Clock::now();
  }
  staged_ -= item.staged;
  --queued_[static_cast<size_t>(stream->device)];
  stream->items.pop_front();
  remove_if_ended(*stream);
}

void Runtime::run(Item& item, Random random) {
  std::string thrown;
  {
    const MutexUnlock unlock(mutex_);
    set_executing(item.name);
    try {
      // Protection keys are a thread's own: no other thread can help.
      std::optional<OneThreadScope> alone;
      if (settings_.protection == Protection::keys) alone.emplace();
      item.run(random);
    } catch (const std::exception& error) {
      thrown = str(item.name, ": ", error.what());
    }
    set_executing(nullptr);
  }
  if (failure_.empty()) failure_ = thrown;
}

bool Runtime::waits_for_outside() const {
  return std::any_of(streams_.begin(), streams_.end(), [](const auto& stream) {
    return !stream->items.empty() && stream->items.front().ready;
  });
}

std::string Runtime::what_streams_wait_for() const {
  std::string text = "no queued work can run";
  for (const auto& stream : streams_)
    if (!stream->items.empty())
      text +=
          str("; a stream of device ", stream->device, " stands at: ", stream->items.front().name);
  return text;
}

void Runtime::set_seed(uint64_t seed) {
  const MutexLock lock(mutex_);
  // What is queued would draw numbers later.
  if (!executing_) execute(std::numeric_limits<int64_t>::max(), [] { return false; });
  random_ = Random(seed);
}

Statistics Runtime::statistics(int device) {
  check(device >= 0 && device < settings_.devices, "[simulated GPU] expected a device from 0 to ",
        settings_.devices - 1, ", got ", device);
  const MutexLock lock(mutex_);
  return statistics_[static_cast<size_t>(device)];
}

void Runtime::reset_statistics() {
  const MutexLock lock(mutex_);
  std::fill(statistics_.begin(), statistics_.end(), Statistics{});
}

}  // namespace lockstep::cuda::sim
