// The recorder of a timeline: which operation ran when, on which thread of this process, with which
// shape. Everything above core/base may record; whoever starts the recorder gives it a Sink, which
// aggregates events or writes them down (docs/formats/trace.md).
//
// Off, a span costs one relaxed load. On, it costs two readings of the clock and one entry of a
// ring that belongs to the thread alone: no lock, no allocation, no text.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace lockstep::trace {

inline constexpr size_t kMostValues = 6;

// How a value is written: as a number, as the name of a DType, as true or false, or as the text at
// an address (a literal, or from intern()).
enum class Form : uint8_t { number, dtype, flag, text };
struct Field {
  const char* key = nullptr;
  Form form = Form::number;
};

enum class EventType : uint8_t { span, instant, counter };

// What events have in common. Constant, and alive for as long as the process.
struct Kind {
  const char* category;
  const char* name;
  std::array<Field, kMostValues> fields = {};  // those without a key come last
  EventType type = EventType::span;
  // Operations of different values are different rows of a profile.
  bool by_values = false;
};

struct Event {
  const Kind* kind = nullptr;
  const char* name = nullptr;        // instead of the kind's; a literal, or from intern()
  int64_t begin_ns = 0, end_ns = 0;  // of Clock
  int64_t flops = 0, bytes = 0;      // the work; 0: none, or unknown
  bool queued = false;               // the work was only queued on a device in this time
  std::array<int64_t, kMostValues> values = {};
};

struct ThreadInfo {
  int number = 0;    // from 1, in the order of the threads' first events
  std::string name;  // "thread 3" if nobody named it
};

// Receives events in batches, of one thread in the order in which they ended. Calls come one at a
// time, from any thread. An exception ends the recording, and nobody sees it: a sink tells its own
// failures.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void take(const ThreadInfo& thread, std::span<const Event> events) = 0;
};

namespace detail {
inline std::atomic<bool> on{false};
int64_t now_ns();
void push(const Event& event);
}  // namespace detail

inline bool on() { return detail::on.load(std::memory_order_relaxed); }

// Begins to record into `sink`, which must live until stop(). One at a time: throws UsageError if
// the recorder is on.
void start(Sink& sink);
// Gives the sink what the threads have recorded so far. Thread-safe; nothing if it is off.
void drain();
// Drains, and ends the recording. Spans that are open then are lost. Nothing if it is off.
void stop();

// The name of the calling thread in timelines, from its next event on. Cheap.
void name_thread(std::string_view name);
// The same text at an address that stays: for names that are made at run time. The text stays in
// memory, so there should be few different ones.
const char* intern(std::string_view text);

// What a span says beside its times.
struct About {
  std::array<int64_t, kMostValues> values = {};
  int64_t flops = 0, bytes = 0;
  const char* name = nullptr;
  bool queued = false;
};

// Records the time from here to its end. `about()` returns an About, and runs only if the recorder
// is on.
class Span {
 public:
  explicit Span(const Kind& kind) {
    if (on()) [[unlikely]]
      begin(kind, {});
  }
  template <typename F>
  Span(const Kind& kind, const F& about) {
    if (on()) [[unlikely]]
      begin(kind, about());
  }
  ~Span() {
    if (event_) [[unlikely]]
      end();
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  void begin(const Kind& kind, const About& about);
  void end();

  std::optional<Event> event_;  // unset: the recorder was off
};

// A point in time, or a counter's values from now on. Call it only if on().
void mark(const Kind& kind, const About& about);

inline int64_t as_value(const char* text) { return reinterpret_cast<int64_t>(text); }

}  // namespace lockstep::trace
