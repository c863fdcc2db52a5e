#include "core/trace/trace.h"

#include <algorithm>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/base/mutex.h"

namespace lockstep::trace {
namespace {

// Events of one thread that wait for the sink. The thread writes at `head`; whoever holds the
// recorder's lock reads from `tail`.
class Ring {
 public:
  static constexpr uint64_t kCapacity = 4096;

  Ring(int number, std::string name) : info_{number, std::move(name)}, events_(kCapacity) {}

  bool push(const Event& event) {
    const uint64_t head = head_.load(std::memory_order_relaxed);
    if (head - tail_.load(std::memory_order_acquire) == kCapacity) return false;
    events_[head % kCapacity] = event;
    head_.store(head + 1, std::memory_order_release);
    return true;
  }

  // Null: drops the events.
  void give(Sink* sink) {
    const uint64_t head = head_.load(std::memory_order_acquire);
    uint64_t tail = tail_.load(std::memory_order_relaxed);
    while (tail != head) {
      const uint64_t first = tail % kCapacity, count = std::min(head - tail, kCapacity - first);
      if (sink) sink->take(info_, std::span(events_).subspan(first, count));
      tail += count;
    }
    tail_.store(tail, std::memory_order_release);
  }

  void rename(std::string name) { info_.name = std::move(name); }
  void thread_ended() { ended_.store(true, std::memory_order_release); }
  bool is_over() const { return ended_.load(std::memory_order_acquire); }

 private:
  ThreadInfo info_;
  std::vector<Event> events_;
  std::atomic<uint64_t> head_{0}, tail_{0};
  std::atomic<bool> ended_{false};
};

class Recorder {
 public:
  // Never destroyed, because threads may outlive main.
  static Recorder& instance() {
    static Recorder& recorder = *new Recorder;
    return recorder;
  }

  void start(Sink& sink) {
    const MutexLock lock(mutex_);
    check(!sink_, "[trace] the recorder is on already: a process records one timeline at a time");
    for (const auto& ring : rings_) ring->give(nullptr);
    sink_ = &sink;
    detail::on.store(true, std::memory_order_relaxed);
  }

  void stop() {
    const MutexLock lock(mutex_);
    detail::on.store(false, std::memory_order_relaxed);
    give_all();
    sink_ = nullptr;
  }

  void drain() {
    const MutexLock lock(mutex_);
    give_all();
  }

  void drain(Ring& ring) {
    const MutexLock lock(mutex_);
    give(ring);
  }

  std::shared_ptr<Ring> add(std::string name) {
    const MutexLock lock(mutex_);
    const int number = ++last_number_;
    if (name.empty()) name = str("thread ", number);
    return rings_.emplace_back(std::make_shared<Ring>(number, std::move(name)));
  }

  void rename(Ring& ring, std::string name) {
    const MutexLock lock(mutex_);
    give(ring);
    ring.rename(std::move(name));
  }

  const char* intern(std::string_view text) {
    const MutexLock lock(mutex_);
    return texts_.emplace(text).first->c_str();
  }

 private:
  void give(Ring& ring) LOCKSTEP_REQUIRES(mutex_) {
    try {
      ring.give(sink_);
    } catch (const std::exception&) {
      detail::on.store(false, std::memory_order_relaxed);
      sink_ = nullptr;
      ring.give(nullptr);
    }
  }

  void give_all() LOCKSTEP_REQUIRES(mutex_) {
    for (const auto& ring : rings_) {
      // Read before the events: a thread that ends between the two is seen the next time.
      const bool over = ring->is_over();
      give(*ring);
      if (over) over_.push_back(ring.get());
    }
    std::erase_if(rings_, [&](const auto& ring) LOCKSTEP_REQUIRES(mutex_) {
      return std::find(over_.begin(), over_.end(), ring.get()) != over_.end();
    });
    over_.clear();
  }

  Mutex mutex_;
  Sink* sink_ LOCKSTEP_GUARDED_BY(mutex_) = nullptr;
  std::vector<std::shared_ptr<Ring>> rings_ LOCKSTEP_GUARDED_BY(mutex_);
  std::vector<Ring*> over_ LOCKSTEP_GUARDED_BY(mutex_);
  int last_number_ LOCKSTEP_GUARDED_BY(mutex_) = 0;
  // Its elements keep their addresses.
  std::unordered_set<std::string> texts_ LOCKSTEP_GUARDED_BY(mutex_);
};

// What a thread keeps. The ring is made at its first event.
struct Local {
  std::string name;
  std::shared_ptr<Ring> ring;
  std::unordered_map<std::string, const char*> texts;
  ~Local() {
    if (ring) ring->thread_ended();
  }
};
thread_local Local t_local;

Ring& ring_of_thread() {
  if (!t_local.ring) t_local.ring = Recorder::instance().add(t_local.name);
  return *t_local.ring;
}

Event event_of(const Kind& kind, const About& about) {
  return {.kind = &kind,
          .name = about.name,
          .flops = about.flops,
          .bytes = about.bytes,
          .queued = about.queued,
          .values = about.values};
}

}  // namespace

int64_t detail::now_ns() {
  return std::chrono::duration_cast<Duration>(Clock::now().time_since_epoch()).count();
}

void detail::push(const Event& event) {
  Ring& ring = ring_of_thread();
  while (!ring.push(event)) Recorder::instance().drain(ring);
}

void start(Sink& sink) { Recorder::instance().start(sink); }
void drain() {
  if (on()) Recorder::instance().drain();
}
void stop() { Recorder::instance().stop(); }

void name_thread(std::string_view name) {
  t_local.name = name;
  if (t_local.ring) Recorder::instance().rename(*t_local.ring, t_local.name);
}

const char* intern(std::string_view text) {
  auto [known, is_new] = t_local.texts.try_emplace(std::string(text), nullptr);
  if (is_new) known->second = Recorder::instance().intern(text);
  return known->second;
}

void Span::begin(const Kind& kind, const About& about) {
  event_ = event_of(kind, about);
  event_->begin_ns = detail::now_ns();
}

void Span::end() {
  event_->end_ns = detail::now_ns();
  detail::push(*event_);
}

void mark(const Kind& kind, const About& about) {
  Event event = event_of(kind, about);
  event.begin_ns = event.end_ns = detail::now_ns();
  detail::push(event);
}

}  // namespace lockstep::trace
