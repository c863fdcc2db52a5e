// The recorder: what a sink gets, and when.
#include "core/trace/trace.h"

#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include "core/base/error.h"

namespace lockstep::trace {
namespace {

using ::testing::SizeIs;

constexpr Kind kOuter{"test", "outer"};
constexpr Kind kInner{"test", "inner", {{{"n"}}}};

class Kept : public Sink {
 public:
  void take(const ThreadInfo& thread, std::span<const Event> batch) override {
    events[thread.name].insert(events[thread.name].end(), batch.begin(), batch.end());
  }
  std::map<std::string, std::vector<Event>> events;
};

About number(int64_t n) { return {.values = {n}}; }

TEST(Trace, SpansOfAThreadNest) {
  Kept kept;
  name_thread("nesting");
  start(kept);
  {
    const Span outer(kOuter);
    const Span inner(kInner, [] { return number(7); });
  }
  stop();
  const auto& events = kept.events.at("nesting");
  ASSERT_THAT(events, SizeIs(2));
  EXPECT_EQ(events[0].kind, &kInner);
  EXPECT_EQ(events[0].values[0], 7);
  EXPECT_EQ(events[1].kind, &kOuter);
  EXPECT_LE(events[1].begin_ns, events[0].begin_ns);
  EXPECT_LE(events[0].begin_ns, events[0].end_ns);
  EXPECT_LE(events[0].end_ns, events[1].end_ns);
}

TEST(Trace, OffNothingIsRecordedAndNoValueIsComputed) {
  bool asked = false;
  {
    const Span span(kInner, [&] {
      asked = true;
      return number(1);
    });
  }
  Kept kept;
  start(kept);
  stop();
  EXPECT_FALSE(asked);
  EXPECT_TRUE(kept.events.empty());
}

// Far more events than a thread keeps: none is lost, and their order stays.
TEST(Trace, AFullRingIsDrained) {
  constexpr int64_t kMany = 20'000;
  Kept kept;
  name_thread("full");
  start(kept);
  for (int64_t i = 0; i < kMany; ++i) const Span span(kInner, [&] { return number(i); });
  stop();
  const auto& events = kept.events.at("full");
  ASSERT_THAT(events, SizeIs(kMany));
  for (int64_t i = 0; i < kMany; ++i) ASSERT_EQ(events[static_cast<size_t>(i)].values[0], i);
}

TEST(Trace, WhatAThreadRecordedOutlivesIt) {
  Kept kept;
  start(kept);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      name_thread(str("worker ", t));
      for (int i = 0; i < 1000; ++i) const Span span(kInner, [&] { return number(t); });
    });
  for (auto& thread : threads) thread.join();
  drain();
  stop();
  for (int t = 0; t < 4; ++t) {
    const auto& events = kept.events.at(str("worker ", t));
    ASSERT_THAT(events, SizeIs(1000));
    for (const Event& event : events) ASSERT_EQ(event.values[0], t);
  }
}

// While others record, too.
TEST(Trace, ThreadsMayDrainAtAnyTime) {
  Kept kept;
  start(kept);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      name_thread(str("drainer ", t));
      for (int i = 0; i < 2000; ++i) {
        {
          const Span span(kInner, [&] { return number(i); });
        }
        if (i % 100 == 0) drain();
      }
    });
  for (auto& thread : threads) thread.join();
  stop();
  for (int t = 0; t < 4; ++t) EXPECT_THAT(kept.events.at(str("drainer ", t)), SizeIs(2000));
}

TEST(Trace, ASecondRecordingIsRefused) {
  Kept kept, other;
  start(kept);
  EXPECT_THROW(start(other), UsageError);
  stop();
}

TEST(Trace, WhatEndsAfterTheRecordingIsNotInTheNextOne) {
  Kept first, second;
  start(first);
  {
    const Span late(kOuter);
    stop();
  }
  start(second);
  stop();
  EXPECT_TRUE(first.events.empty());
  EXPECT_TRUE(second.events.empty());
}

TEST(Trace, ASinkThatThrowsEndsTheRecording) {
  class Failing : public Sink {
    void take(const ThreadInfo&, std::span<const Event>) override {
      throw std::runtime_error("no");
    }
  } failing;
  start(failing);
  { const Span span(kOuter); }
  EXPECT_NO_THROW(drain());
  EXPECT_FALSE(on());
  { const Span span(kOuter); }
  stop();
}

TEST(Trace, EqualTextsHaveOneAddress) {
  const char* here = intern(std::string("blocks.") + "3");
  const char* there = nullptr;
  std::thread([&] { there = intern("blocks.3"); }).join();
  EXPECT_EQ(here, there);
  EXPECT_STREQ(here, "blocks.3");
}

}  // namespace
}  // namespace lockstep::trace
