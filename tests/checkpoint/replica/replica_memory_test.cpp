// The memory that outlives a process: whatever was left in it, nobody takes it for a copy that it
// is not.
#include "checkpoint/replica/replica_memory.h"

#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/replica/replica.h"
#include "comm/shm/factory.h"
#include "tests/checkpoint/helpers.h"
#include "tests/checkpoint/replica/replica_helpers.h"
#include "tests/support/fork_store.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::HasSubstr;

// What an agent keeps for a rank.
class Kept {
 public:
  Kept() : fd_(::memfd_create("kept-by-a-test", MFD_CLOEXEC)) {}
  ~Kept() { ::close(fd_); }
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  std::string path() const { return str("/proc/", ::getpid(), "/fd/", fd_); }
  int fd() const { return fd_; }
  std::string contents() const {
    struct stat info {};
    ::fstat(fd_, &info);
    std::string bytes(static_cast<size_t>(info.st_size), '\0');
    EXPECT_EQ(::pread(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return bytes;
  }
  void put(const std::string& bytes) const {
    ASSERT_EQ(::ftruncate(fd_, 0), 0);
    ASSERT_EQ(::pwrite(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }

 private:
  int fd_;
};

constexpr int64_t kBytes = 5000;

CopyLabel label_of_step(int64_t step) {
  return {.owner = 1, .ranks = 2, .step = step, .bytes = kBytes, .layout = 77};
}

void store(ReplicaMemory& memory, int copy, int64_t step) {
  memory.break_seal(copy);
  const StateCopy view = memory.view(copy, kBytes);
  const Tensor values = counting({kBytes}, DType::u8, step);
  view.fill({values},
            {.parts = {{{"v", DType::u8, ShardSpec::whole({kBytes})}, 0}}, .bytes = kBytes});
  memory.seal(copy, label_of_step(step));
}

// Leaves copies of steps 7 and 8 there; returns what the file then holds.
std::string store_two(const Kept& kept) {
  ReplicaMemory memory(kept.path());
  memory.reserve(2, kBytes, kBytes);
  store(memory, 0, 7);
  store(memory, 1, 8);
  return kept.contents();
}

// The steps that a new process would take for whole, by copy; -1: none.
std::vector<int64_t> found_in(const std::string& path) {
  ReplicaMemory memory(path);
  memory.reserve(2, kBytes, kBytes);
  std::vector<int64_t> steps;
  for (int copy = 0; copy < 2; ++copy) {
    const auto label = memory.label(copy);
    const bool whole = label && memory.view(copy, label->bytes).first_damaged_chunk() < 0;
    if (whole) {
      const CopyLabel expected = label_of_step(label->step);
      EXPECT_EQ(std::memcmp(&*label, &expected, sizeof expected), 0);
      EXPECT_EQ(bytes_of(memory.view(copy, kBytes).data),
                bytes_of(counting({kBytes}, DType::u8, label->step)));
    }
    steps.push_back(whole ? label->step : -1);
  }
  return steps;
}

TEST(ReplicaMemory, WhatOneLeavesTheNextFinds) {
  const Kept kept;
  EXPECT_THAT(found_in(kept.path()), ::testing::ElementsAre(-1, -1));
  store_two(kept);
  ReplicaMemory(kept.path()).break_seal(0);
  EXPECT_THAT(found_in(kept.path()), ::testing::ElementsAre(-1, 8));
  // Room of another size, as for another state, begins anew.
  {
    ReplicaMemory memory(kept.path());
    memory.reserve(2, kBytes + 1, kBytes);
    EXPECT_FALSE(memory.label(1));
  }
  EXPECT_THAT(found_in(kept.path()), ::testing::ElementsAre(-1, -1));
}

TEST(ReplicaMemory, AnyChangedBitCostsItsCopyAndNoOther) {
  const Kept kept;
  const std::string good = store_two(kept);
  const size_t page = 4096, copy_bytes = (good.size() - page) / 2;
  int64_t lost = 0;
  for (size_t at = 0; at < good.size(); ++at) {
    const auto changed = static_cast<char>(good[at] ^ (1 << at % 8));
    ASSERT_EQ(::pwrite(kept.fd(), &changed, 1, static_cast<off_t>(at)), 1);
    const std::vector<int64_t> found = found_in(kept.path());  // what it finds has the right bytes
    if (found == std::vector<int64_t>{7, 8}) {                 // nobody reads that byte
      ASSERT_EQ(::pwrite(kept.fd(), &good[at], 1, static_cast<off_t>(at)), 1);
      continue;
    }
    ++lost;
    if (at < page) {
      ASSERT_THAT(found, ::testing::ElementsAre(-1, -1)) << "byte " << at;
      kept.put(good);  // it was laid out anew
    } else {
      ASSERT_EQ(found, (at < page + copy_bytes ? std::vector<int64_t>{-1, 8}
                                               : std::vector<int64_t>{7, -1}))
          << "byte " << at;
      ASSERT_EQ(::pwrite(kept.fd(), &good[at], 1, static_cast<off_t>(at)), 1);
    }
  }
  // The header; each copy's seal, label, one sum and bytes.
  EXPECT_EQ(lost, 32 + 2 * (48 + 8 + kBytes));
}

TEST(ReplicaMemory, AnyLengthIsTakenAsItIs) {
  const Kept kept;
  const std::string good = store_two(kept);
  for (size_t length = 0; length < good.size(); length += length < 64 ? 1 : 509) {
    kept.put(good.substr(0, length));
    EXPECT_THAT(found_in(kept.path()), ::testing::ElementsAre(-1, -1)) << length << " bytes";
  }
  kept.put(good + "x");
  EXPECT_THAT(found_in(kept.path()), ::testing::ElementsAre(-1, -1));
  kept.put(good);
  EXPECT_THAT(found_in(kept.path()), ::testing::ElementsAre(7, 8));
}

TEST(ReplicaMemory, RandomBytesAreNoCopies) {
  const Kept kept;
  {
    ReplicaMemory memory(kept.path());
    memory.reserve(2, kBytes, kBytes);
  }
  const std::string header = kept.contents().substr(0, 32);
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    std::string bytes = kept.contents();
    for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
      // Sizes that are near to something, as well as any.
      const uint64_t value = random() % 3 == 0   ? random()
                             : random() % 3 == 0 ? random() % 10000
                                                 : ~uint64_t{0} - random() % 3;
      std::memcpy(&bytes[at], &value, 8);
    }
    if (round % 2 == 0) bytes.replace(0, header.size(), header);
    kept.put(bytes);
    EXPECT_THAT(found_in(kept.path()), ::testing::ElementsAre(-1, -1));
  }
}

TEST(ReplicaMemory, WrongFiles) {
  EXPECT_THAT(error_of([] { ReplicaMemory("/proc/1/fd/no-such-file"); }),
              HasSubstr("[replica] open /proc/1/fd/no-such-file: "));
  EXPECT_THAT(error_of([] { ReplicaMemory("/dev/null"); }),
              HasSubstr("[replica] /dev/null is not a file in memory"));
  const Kept kept;
  const ReplicaMemory user(kept.path());
  EXPECT_THAT(error_of([&] { ReplicaMemory(kept.path()); }),
              HasSubstr("is in use by another process"));
}

// A rank dies at its n-th call, its memory stays; the others go on storing until they hear of it,
// some one step later than others.
TEST(ReplicaMemory, WhoeverGoesOnAfterADeathSpoilsNothing) {
  constexpr int kRanks = 3, kDying = 2;
  for (int64_t calls = 0, died = 1; died != 0 && !HasFailure(); ++calls) {
    const Kept kept[kRanks];
    const auto meetings =
        std::vector{std::make_shared<comm::HashStore>(), std::make_shared<comm::HashStore>()};
    std::atomic<bool> dead = false;
    test::run_threads(kRanks, [&](int rank) {
      const comm::GroupOptions options;
      const auto death = std::make_shared<Death>();
      {
        auto backend = std::make_unique<MortalBackend>(
            comm::make_local(meetings[0], rank, kRanks, options), death);
        comm::ProcessGroup group(std::move(backend), options);
        ReplicaStore store({.distance = 0, .file = kept[rank].path()});
        store.prepare(state(Held::slices, rank, kRanks, 1, 1000), group);
        store.store(1, state(Held::slices, rank, kRanks, 1, 1000));
        if (rank == kDying) death->calls_left = calls;
        for (int64_t step = 2; step <= 4 && death->calls_left >= 0; ++step) {
          try {
            store.store(step, state(Held::slices, rank, kRanks, step, 1000));
          } catch (const EnvironmentError&) {
          }
        }
        if (death->calls_left < 0) dead = true;
      }
      comm::ProcessGroup group(comm::make_local(meetings[1], rank, kRanks, options), options);
      ReplicaStore store({.distance = 0, .file = kept[rank].path()});
      const auto entries = state(Held::slices, rank, kRanks, 0, 1000);
      const Back back = restore(store, entries, group);
      EXPECT_GE(back.step, 1) << "died at call " << calls << ": " << back.why_none;
      if (back.step >= 0) expect_equal(entries, state(Held::slices, rank, kRanks, back.step, 1000));
    });
    died = dead ? 1 : 0;
  }
}

// Processes that store steps until they are killed at any moment; those that come after them go on.
TEST(ReplicaMemory, KilledAtAnyMomentItHoldsTheStepOrTheOneBefore) {
  constexpr int kRanks = 2, kEpochs = 12;
  const Kept kept[kRanks];
  const Kept progress;  // by rank, the last step that was stored and heard of
  ASSERT_EQ(::ftruncate(progress.fd(), sizeof(int64_t) * kRanks), 0);
  const auto last = [&](int rank) {
    int64_t step = 0;
    EXPECT_EQ(::pread(progress.fd(), &step, sizeof step, rank * 8), 8);
    return step;
  };
  std::mt19937 random(7);
  for (const int distance : {0, 1}) {
    for (const Kept& each : kept) ASSERT_EQ(::ftruncate(each.fd(), 0), 0);
    for (int rank = 0; rank < kRanks; ++rank) {
      const int64_t none = -1;
      ASSERT_EQ(::pwrite(progress.fd(), &none, 8, rank * 8), 8);
    }
    for (int epoch = 0; epoch < kEpochs; ++epoch) {
      const std::shared_ptr<comm::Store> meeting = std::make_shared<test::ForkStore>();
      const auto wait_us = static_cast<useconds_t>(random() % (distance == 0 ? 30000 : 100000));
      const int victim = epoch % kRanks;
      const auto ends = test::fork_ranks(kRanks, [&](int rank) {
        const comm::GroupOptions options{.timeout = std::chrono::seconds(60)};
        auto group = std::make_unique<comm::ProcessGroup>(
            comm::make_shm(meeting, rank, kRanks, options), options);
        ReplicaStore store({.distance = distance, .file = kept[rank].path()});
        const auto entries = state(Held::slices, rank, kRanks, 0, 300000);
        const Back back = restore(store, entries, *group);
        EXPECT_THAT(back.notes, ::testing::IsEmpty());
        const int64_t heard = std::max(last(0), last(1));  // all had it then
        EXPECT_GE(back.step, heard) << back.why_none;
        if (back.step >= 0)
          expect_equal(entries, state(Held::slices, rank, kRanks, back.step, 300000));
        int64_t step = std::max<int64_t>(back.step, 0);
        if (::testing::Test::HasFailure()) return;
        bool doomed = rank != victim || epoch + 1 == kEpochs;
        const auto die_soon = [&] {
          if (std::exchange(doomed, true)) return;
          std::thread([wait_us] {
            ::usleep(wait_us);
            ::kill(::getpid(), SIGKILL);
          }).detach();
        };
        if (epoch % 4 == 3) die_soon();  // else when a step was stored, however long that takes
        try {
          while (epoch + 1 < kEpochs) {
            ++step;
            group->barrier().wait();  // as training does
            store.start(step, state(Held::slices, rank, kRanks, step, 300000));
            for (auto outcome = store.poll(); outcome; outcome = store.poll()) {
              if (!outcome->error.empty()) throw EnvironmentError(outcome->error);
              EXPECT_EQ(::pwrite(progress.fd(), &outcome->step, 8, rank * 8), 8);
              die_soon();
            }
          }
        } catch (const EnvironmentError&) {  // the victim is gone
        }
      });
      for (int rank = 0; rank < kRanks; ++rank) {
        const auto end = static_cast<size_t>(rank);
        if (rank != victim || epoch + 1 == kEpochs) {
          test::expect_well(ends[end], end);
        } else {
          EXPECT_EQ(ends[end].signal, SIGKILL);
        }
      }
      if (HasFailure()) return;
    }
    EXPECT_GT(std::max(last(0), last(1)), 0) << "no epoch stored a whole step";
  }
}

}  // namespace
}  // namespace lockstep::checkpoint
