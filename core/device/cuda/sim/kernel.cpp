#include "core/device/cuda/sim/kernel.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "core/device/cuda/sim/fiber.h"
#include "core/device/cuda/sim/kernel_language.h"
#include "core/device/cuda/sim/memory/protection.h"

namespace lockstep::cuda::sim {

Position position;

namespace {

constexpr int kWarp = 32;
constexpr int kMostThreads = 1024;
// A stack has a page below it that nobody may touch.
constexpr size_t kStack = size_t{128} << 10;

enum class Wait : uint8_t { none, block, warp, shuffle, finished };

struct Thread {
  Context context;
  Wait wait = Wait::none;
  const char* file = "";
  int line = 0;
};

// Threads that wait for one another. ThreadSanitizer sees the barriers by the tags. They alternate,
// so that a thread that is late to leave a barrier learns nothing of what others did after it.
struct Group {
  int arrived = 0;
  int first = 0;  // the thread that arrived first
  unsigned round = 0;
  std::array<char, 2> tags{};
};

// The block that runs now. Threads that can run are in `ready`.
struct Block {
  const Kernel* kernel = nullptr;
  bool in_fibers = false;
  bool hasty = false;  // a warp that can go on does, while threads of others have not begun
  int current = 0, finished = 0;
  uint64_t random = 0;
  int ready_count = 0;
  std::array<int, kMostThreads> ready;
  Group all;
  std::array<Group, kMostThreads / kWarp> warps;
  std::array<std::array<uint64_t, kMostThreads>, 2> slots;  // of shuffles, by their round
  char start = 0, end = 0;                                  // tags
  Context main;
  int created = 0;
  char* stacks = nullptr;
  std::array<Thread, kMostThreads> threads;
};
Block& block = *new Block;

const char* text_of(Wait wait) {
  switch (wait) {
    case Wait::block: return "waits at __syncthreads()";
    case Wait::warp: return "waits at __syncwarp()";
    case Wait::shuffle: return "waits at a shuffle";
    case Wait::finished: return "has finished";
    default: return "runs";
  }
}

void print_thread(int index) {
  const Thread& thread = block.threads[static_cast<size_t>(index)];
  std::fprintf(stderr, "thread %d %s", index, text_of(thread.wait));
  if (thread.wait != Wait::finished) std::fprintf(stderr, " of %s:%d", thread.file, thread.line);
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "[simulated GPU] kernel %s, block %u: %s\n", block.kernel->name,
               position.block.x, what);
  std::abort();
}

// Two threads are where they may not be at the same time.
[[noreturn]] LOCKSTEP_SIM_NO_TSAN void fail(int one, int other) {
  std::fprintf(stderr, "[simulated GPU] kernel %s, block %u: ", block.kernel->name,
               position.block.x);
  print_thread(one);
  std::fprintf(stderr, ", but ");
  print_thread(other);
  std::fprintf(stderr, "\n");
  std::abort();
}

bool same_place(const Thread& a, const Thread& b) {
  return a.wait == b.wait && a.line == b.line &&
         (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// No thread can go on, and not all have finished.
[[noreturn]] LOCKSTEP_SIM_NO_TSAN void fail_stuck() {
  int waiting = 0;
  while (block.threads[static_cast<size_t>(waiting)].wait == Wait::finished) ++waiting;
  int other = 0;
  while (same_place(block.threads[static_cast<size_t>(waiting)],
                    block.threads[static_cast<size_t>(other)]))
    ++other;
  fail(waiting, other);
}

LOCKSTEP_SIM_NO_TSAN uint64_t draw_below(int n) {
  block.random ^= block.random << 13;
  block.random ^= block.random >> 7;
  block.random ^= block.random << 17;
  return ((block.random >> 32) * static_cast<uint64_t>(n)) >> 32;
}

// Takes a random thread that can run. In a hasty block, one of the warp that runs, if all of its
// threads have just met: they are the last ones. So warps get far ahead of each other.
LOCKSTEP_SIM_NO_TSAN int take_ready() {
  const auto last = static_cast<size_t>(block.ready_count - 1);
  const bool goes_on = block.hasty && block.ready[last] / kWarp == block.current / kWarp;
  const auto at = goes_on ? last : static_cast<size_t>(draw_below(block.ready_count));
  const int taken = block.ready[at];
  block.ready[at] = block.ready[static_cast<size_t>(--block.ready_count)];
  return taken;
}

LOCKSTEP_SIM_NO_TSAN void make_ready(int first, int count) {
  for (int i = first; i < first + count; ++i) {
    block.threads[static_cast<size_t>(i)].wait = Wait::none;
    block.ready[static_cast<size_t>(block.ready_count++)] = i;
  }
}

LOCKSTEP_SIM_NO_TSAN void resume(Context& from, int thread) {
  Context& to = block.threads[static_cast<size_t>(thread)].context;
  block.current = thread;
  position.thread.x = static_cast<unsigned>(thread);
  if (&from != &to) from.switch_to(to);
}

// The calling thread waits until all `size` threads of the group, from number `begin` on, do.
// Returns the group's round, which alternates between 0 and 1.
LOCKSTEP_SIM_NO_TSAN unsigned meet(Group& group, int begin, int size, Wait wait, const char* file,
                                   int line) {
  const int self = block.current;
  Thread& thread = block.threads[static_cast<size_t>(self)];
  thread.wait = wait;
  thread.file = file;
  thread.line = line;
  const unsigned round = group.round;
  if (group.arrived == 0) group.first = self;
  if (!same_place(block.threads[static_cast<size_t>(group.first)], thread)) fail(self, group.first);
  if (++group.arrived == size) {
    group.arrived = 0;
    group.round ^= 1;
    make_ready(begin, size);
  }
  if (block.ready_count == 0) fail_stuck();
  resume(thread.context, take_ready());
  return round;
}

LOCKSTEP_SIM_NO_TSAN void synchronize(Group& group, int begin, int size, Wait wait,
                                      const char* file, int line) {
  char* tag = &group.tags[group.round];
  __tsan_release(tag);
  meet(group, begin, size, wait, file, line);
  __tsan_acquire(tag);
}

void require_fibers(const char* what, const char* file, int line) {
  if (block.in_fibers) return;
  char text[512];
  std::snprintf(text, sizeof text, "%s at %s:%d, but it was launched as independent threads", what,
                file, line);
  fail(text);
}

// The calling thread is done, and its fiber waits for its next kernel.
LOCKSTEP_SIM_NO_TSAN void finish() {
  Thread& thread = block.threads[static_cast<size_t>(block.current)];
  thread.wait = Wait::finished;
  ++block.finished;
  if (block.ready_count > 0) return resume(thread.context, take_ready());
  if (block.finished < block.kernel->threads) fail_stuck();
  thread.context.switch_to(block.main);
}

LOCKSTEP_SIM_NO_TSAN void run_thread() {
  __tsan_acquire(&block.start);
  try {
    block.kernel->thread();
  } catch (const std::exception& error) {
    fail(error.what());
  }
  __tsan_release(&block.end);
}

void live() {
  Context::enter();
  for (;;) {
    run_thread();
    finish();
  }
}

void create_fibers(int count) {
  const size_t page = page_size(), stride = kStack + page;
  if (!block.stacks) {
    block.stacks = reserve_addresses(kMostThreads * stride);
    if (!block.stacks) fail("no memory for the stacks of its threads");
  }
  for (; block.created < count; ++block.created) {
    const auto i = static_cast<size_t>(block.created);
    char* stack = block.stacks + i * stride + page;
    open_pages(stack, kStack);
    // Tops at equal offsets of their pages would share few lines of the caches.
    constexpr size_t kShift = 320;
    block.threads[i].context.create(stack, kStack - i * kShift % page, live);
  }
}

LOCKSTEP_SIM_NO_TSAN void run_block_in_fibers() {
  block.finished = 0;
  block.ready_count = 0;
  make_ready(0, block.kernel->threads);
  __tsan_release(&block.start);
  resume(block.main, take_ready());
  __tsan_acquire(&block.end);
}

void run_independent(const Kernel& kernel, bool backwards) {
  const auto threads = static_cast<unsigned>(kernel.threads);
  for (unsigned i = 0; i < threads; ++i) {
    position.thread.x = backwards ? threads - 1 - i : i;
    kernel.thread();
  }
}

}  // namespace

void run_kernel(const Kernel& kernel, Random& random) {
  position.block_size = {static_cast<unsigned>(kernel.threads), 1, 1};
  position.grid_size = {static_cast<unsigned>(kernel.blocks), 1, 1};
  block.kernel = &kernel;
  block.in_fibers = kernel.together;
  block.current = 0;  // the order is the seed's, whatever ran before
  if (kernel.together) {
    create_fibers(kernel.threads);
    block.main.adopt_thread();
    block.random = random.next() | 1;
  }
  in_random_order(kernel.blocks, random, [&](int64_t index) {
    position.block.x = static_cast<unsigned>(index);
    block.hasty = random.below(2) == 1;
    if (kernel.together)
      run_block_in_fibers();
    else
      run_independent(kernel, random.below(2) == 1);
  });
  block.kernel = nullptr;
}

bool in_kernel() { return block.kernel; }

void block_barrier(const char* file, int line) {
  require_fibers("__syncthreads()", file, line);
  synchronize(block.all, 0, block.kernel->threads, Wait::block, file, line);
}

LOCKSTEP_SIM_NO_TSAN void warp_barrier(const char* file, int line) {
  require_fibers("__syncwarp()", file, line);
  const int warp = block.current / kWarp;
  synchronize(block.warps[static_cast<size_t>(warp)], warp * kWarp, kWarp, Wait::warp, file, line);
}

LOCKSTEP_SIM_NO_TSAN uint64_t exchange(uint64_t value, int from, const char* file, int line) {
  require_fibers("a shuffle", file, line);
  const int self = block.current, begin = self / kWarp * kWarp;
  Group& warp = block.warps[static_cast<size_t>(begin / kWarp)];
  // A round's slots are free: nobody comes to the round after the next before all have read them.
  block.slots[warp.round][static_cast<size_t>(self)] = value;
  const unsigned round = meet(warp, begin, kWarp, Wait::shuffle, file, line);
  const int source = from >= 0 && from < kWarp ? begin + from : self;
  return block.slots[round][static_cast<size_t>(source)];
}

}  // namespace lockstep::cuda::sim
