#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/device/caching_allocator.h"
#include "core/device/cuda/api.h"
#include "core/device/cuda/products.h"
#include "core/device/cuda/stream.h"
#include "core/device/cuda/workspace.h"
#include "core/device/cuda_device.h"

namespace lockstep::cuda {
namespace {

constexpr size_t kAlignment = 512;
constexpr size_t kSlab = size_t{2} << 20;  // what the runtime hands out at least
constexpr size_t kSmall = kSlab / 2;       // smaller blocks are cut from slabs

constexpr int kMostDevices = 64;

// The device of calls that belong to none, such as those for pinned memory.
std::atomic<int> g_bound{0};

// Makes `index` the device of this thread's calls that name no queue.
void make_current(int index) {
  thread_local int current = -1;
  if (current == index) return;
  check_cuda(api().set_device(index), "choosing the device");
  current = index;
}

class DeviceMemory final : public MemorySource {
 public:
  explicit DeviceMemory(int index) : index_(index) {}

  std::string name() const override { return str("cuda:", index_); }
  size_t capacity_for(size_t bytes) const override {
    return stepped_capacity(bytes, kAlignment, kSmall, kSlab);
  }
  void* take(size_t capacity) override {
    if (capacity >= kSmall) return allocate(capacity);
    std::vector<void*>& blocks = small_[capacity];
    if (!blocks.empty()) {
      void* block = blocks.back();
      blocks.pop_back();
      return block;
    }
    if (slab_left_ < capacity) {
      void* slab = allocate(kSlab);
      if (!slab) return nullptr;
      slab_ = static_cast<std::byte*>(slab);
      slab_left_ = kSlab;
    }
    void* block = slab_;
    slab_ += capacity;
    slab_left_ -= capacity;
    return block;
  }
  // Blocks of slabs stay here: a slab is never given back.
  void give_back(void* block, size_t capacity) noexcept override {
    // A device that fails here says so at its next call, to somebody who can act on it.
    try {
      if (capacity < kSmall) return small_[capacity].push_back(block);
      make_current(index_);
    } catch (const std::exception&) {
      return;
    }
    api().free(block);
  }
  Queue queue() const override { return current_queue({DeviceType::cuda, index_}); }
  void freed(void* block, size_t capacity, const Queue& queue) noexcept override {
    if (api().poison) api().poison(block, capacity, queue.native());
  }
  std::string advice() const override {
    size_t free_bytes = 0, total = 0;
    make_current(index_);
    if (api().memory_info(&free_bytes, &total)) return std::string(kMemoryAdvice);
    return str("The device has ", free_bytes, " of ", total, " bytes free, and gives out ", kSlab,
               " at a time. Ranks that share a device share its memory. ", kMemoryAdvice);
  }

 private:
  void* allocate(size_t bytes) const {
    make_current(index_);
    void* block = nullptr;
    const int error = api().allocate(&block, bytes);
    if (is_out_of_memory(error)) return nullptr;
    check_cuda(error, "allocating memory");
    return block;
  }

  const int index_;
  std::map<size_t, std::vector<void*>> small_;  // free blocks by capacity
  std::byte* slab_ = nullptr;
  size_t slab_left_ = 0;
};

class PinnedMemory final : public MemorySource {
 public:
  std::string name() const override { return "pinned"; }
  size_t capacity_for(size_t bytes) const override {
    return stepped_capacity(bytes, 4096, kSmall, 4096);
  }
  void* take(size_t capacity) override {
    make_current(g_bound);
    void* block = nullptr;
    const int error = api().allocate_pinned(&block, capacity);
    if (is_out_of_memory(error)) return nullptr;
    check_cuda(error, "allocating pinned memory");
    return block;
  }
  void give_back(void* block, size_t) noexcept override { api().free_pinned(block); }
  Queue queue() const override { return Queue(kCpu); }
  std::string advice() const override {
    return "Pinned memory cannot be swapped out: raise `ulimit -l`, or use a smaller "
           "train.micro_batch or model";
  }
};

// One device. Never destroyed, because tensors with static lifetime may outlive main.
class Card {
 public:
  explicit Card(int index) : index_(index), memory_(index), allocator_(memory_) {}

  CachingAllocator& allocator() { return allocator_; }
  const Queue& main_queue() {
    std::call_once(made_, [this] { main_ = std::make_unique<Queue>(new_queue()); });
    return *main_;
  }
  Queue new_queue() const {
    make_current(index_);
    StreamHandle stream = nullptr;
    check_cuda(api().stream_create(&stream), "creating a queue");
    return Queue({DeviceType::cuda, index_},
                 std::shared_ptr<void>(stream, [](void* s) { api().stream_destroy(s); }));
  }
  // Events are used again, because creating one costs more than recording it.
  std::shared_ptr<void> event() {
    EventHandle handle = nullptr;
    {
      const MutexLock lock(mutex_);
      if (!events_.empty()) {
        handle = events_.back();
        events_.pop_back();
      }
    }
    if (!handle) {
      make_current(index_);
      check_cuda(api().event_create(&handle), "creating an event");
    }
    return {handle, [this](void* event) { keep(event); }};
  }

 private:
  void keep(EventHandle event) noexcept {
    try {
      const MutexLock lock(mutex_);
      events_.push_back(event);
    } catch (const std::bad_alloc&) {
      api().event_destroy(event);
    }
  }

  const int index_;
  DeviceMemory memory_;
  CachingAllocator allocator_;
  std::once_flag made_;
  std::unique_ptr<Queue> main_;
  Mutex mutex_;
  std::vector<EventHandle> events_ LOCKSTEP_GUARDED_BY(mutex_);
};

struct Count {
  int devices = 0;
  std::string why_none;
};

// Why the runtime finds no device.
std::string driver_problem(int error) {
  constexpr int kNeeded = 13000;
  int version = 0;
  if (api().driver_version(&version) == 0 && version < kNeeded) {
    constexpr const char* kDo = "install NVIDIA's driver for CUDA 13 (580 or later)";
    if (version == 0) return str("no CUDA device can be used: no driver is loaded; ", kDo);
    return str("no CUDA device can be used: the driver is for CUDA ", version / 1000, ".",
               version % 1000 / 10, "; ", kDo);
  }
  return str("no CUDA device can be used: ", api().error_text(error));
}

const Count& count() {
  static const Count found = [] {
    Count c;
    if (const int error = api().device_count(&c.devices)) {
      c.devices = 0;
      c.why_none = driver_problem(error);
    } else if (c.devices == 0) {
      c.why_none = "this machine has no CUDA device";
    }
    return c;
  }();
  return found;
}

Card& card(int index) {
  const Count& found = count();
  if (found.devices == 0) throw UsageError(str("[cuda] ", found.why_none, ": use device cpu"));
  check(index >= 0 && index < found.devices && index < kMostDevices,
        "[cuda] there is no cuda:", index, ": this process can use ", found.devices,
        found.devices == 1 ? " device" : " devices", ", from cuda:0 on");
  static std::array<std::once_flag, kMostDevices> made;
  static std::array<Card*, kMostDevices> cards;
  const auto i = static_cast<size_t>(index);
  std::call_once(made[i], [&] { cards[i] = new Card(index); });
  return *cards[i];
}

}  // namespace

int device_count() { return count().devices; }
std::string why_none() { return count().why_none; }

// Only the simulation overwrites what was freed.
bool is_simulated() { return api().poison != nullptr; }

DeviceInfo info(int index) {
  card(index);  // throws if there is none
  DeviceProperties found;
  check_cuda(api().properties(index, &found), "asking for a device's properties");
  return {.model = found.name,
          .major = found.major,
          .minor = found.minor,
          .memory_bytes = found.memory_bytes,
          .uuid = found.uuid};
}

std::string driver_version() {
  int version = 0;
  check_cuda(api().driver_version(&version), "asking for the driver's version");
  return str(version / 1000, ".", version % 1000 / 10);
}

void bind(int index) {
  card(index);
  g_bound = index;
  make_current(index);
  load_products();
}

Allocator& allocator(int index) { return card(index).allocator(); }

Allocator& pinned_allocator() {
  static auto* allocator = new CachingAllocator(*new PinnedMemory);
  return *allocator;
}

const Queue& main_queue(int index) { return card(index).main_queue(); }
Queue create_queue(int index) { return card(index).new_queue(); }

void synchronize(const Queue& queue) {
  check_cuda(api().stream_synchronize(stream_of(queue)), "waiting for a queue");
}

std::shared_ptr<void> record(const Queue& queue) {
  std::shared_ptr<void> event = card(queue.device().index).event();
  check_cuda(api().event_record(event.get(), stream_of(queue)), "recording an event");
  return event;
}

bool done(int index, void* event) {
  make_current(index);
  bool is_done = false;
  check_cuda(api().event_done(event, &is_done), "asking for an event");
  return is_done;
}

void wait(int, void* event, const Queue& queue) {
  check_cuda(api().stream_wait(stream_of(queue), event), "making a queue wait");
}

void synchronize(int index, void* event) {
  make_current(index);
  check_cuda(api().event_synchronize(event), "waiting for an event");
}

Duration elapsed(int index, void* start, void* end) {
  make_current(index);
  float ms = 0;
  check_cuda(api().event_elapsed_ms(start, end, &ms), "timing two events");
  return std::chrono::duration_cast<Duration>(std::chrono::duration<float, std::milli>(ms));
}

namespace {

// A graph, with the queue whose memory it uses.
struct RecordedWork {
  GraphHandle graph;
  Queue queue;
  std::vector<Queue> launched_on{};
  RecordedWork(GraphHandle made, Queue memory) : graph(made), queue(std::move(memory)) {}
  RecordedWork(const RecordedWork&) = delete;
  RecordedWork& operator=(const RecordedWork&) = delete;
  ~RecordedWork() {
    api().graph_destroy(graph);
    leave(queue, launched_on);
  }
  // Its memory may go to others, once no launch uses it any more.
  static void leave(const Queue& queue, const std::vector<Queue>& launched_on) noexcept {
    try {
      Card& on = card(queue.device().index);
      for (const Queue& each : launched_on) each.synchronize();
      on.allocator().keep_blocks_of(queue, false);
      on.allocator().release_cached();
    } catch (const std::exception&) {
      // The device has failed: nobody uses the memory again.
    }
  }
};

}  // namespace

void begin_capture(const Queue& queue) {
  Card& on = card(queue.device().index);
  // The graph takes as much memory as a step has free here. Work before it may still use that.
  on.allocator().release_cached();
  on.allocator().keep_blocks_of(queue, true);
  const int error = api().capture_begin(stream_of(queue));
  if (error) on.allocator().keep_blocks_of(queue, false);
  check_cuda(error, "starting to record work");
}

std::shared_ptr<void> end_capture(const Queue& queue) {
  GraphHandle graph = nullptr;
  const int error = api().capture_end(stream_of(queue), &graph);
  if (error) RecordedWork::leave(queue, {});
  check_cuda(error, "making a graph of recorded work");
  return std::make_shared<RecordedWork>(graph, queue);
}

void drop_capture(const Queue& queue) noexcept {
  api().capture_end(queue.native(), nullptr);
  RecordedWork::leave(queue, {});
}

void launch_graph(void* graph, const Queue& queue) {
  auto& work = *static_cast<RecordedWork*>(graph);
  std::vector<Queue>& on = work.launched_on;
  if (std::find(on.begin(), on.end(), queue) == on.end()) on.push_back(queue);
  check_cuda(api().graph_launch(work.graph, stream_of(queue)), "launching a graph");
}

void* stream_of(const Queue& queue) {
  make_current(queue.device().index);
  return queue.native();
}

Workspace::Workspace(const Queue& queue, size_t bytes) : queue_(queue), bytes_(bytes) {
  const QueueScope scope(queue_);
  data_ = lockstep::allocator(queue_.device()).allocate(bytes_, MemoryCategory::buffers);
}

Workspace::~Workspace() {
  lockstep::allocator(queue_.device()).deallocate(data_, bytes_, MemoryCategory::buffers);
}

}  // namespace lockstep::cuda
