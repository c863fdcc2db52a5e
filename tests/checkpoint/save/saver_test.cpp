// Saving in the background: what is saved, what goes on meanwhile, and how failures come to light.
#include "checkpoint/save/saver.h"

#include <condition_variable>
#include <mutex>

#include "comm/long_agreement.h"
#include "core/base/log.h"
#include "tests/checkpoint/forwarding_files.h"
#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Entry> model(int64_t start) {
  return {Entry("w", counting({300, 7}, DType::f32, start)),
          Entry("v", counting({40}, DType::bf16, start)),
          Entry("big", counting({700, 1000}, DType::f32, start)),
          Entry("t", counting({5, 3}, DType::f32, start).transpose(0, 1))};
}
void expect_values(const std::string& folder, const std::vector<Entry>& expected) {
  const Checkpoint checkpoint = Checkpoint::open(folder);
  EXPECT_NO_THROW(checkpoint.verify());
  for (const Entry& entry : expected)
    EXPECT_EQ(bytes_of(checkpoint.read_whole(entry.name)), bytes_of(entry.tensor.contiguous()))
        << entry.name;
}

// Holds every sync of a file until it is let go.
class HeldFiles final : public ForwardingFiles {
 public:
  void let_go() {
    const std::lock_guard lock(mutex_);
    held_ = false;
    changed_.notify_all();
  }
  // Until a sync waits.
  void expect_sync() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waits_; });
  }
  std::unique_ptr<WritableFile> create(const std::string& path) override {
    return std::make_unique<File>(*this, real_.create(path));
  }

 private:
  class File final : public ForwardingFile {
   public:
    File(HeldFiles& files, std::unique_ptr<WritableFile> real)
        : ForwardingFile(std::move(real)), files_(files) {}
    void sync() override {
      std::unique_lock lock(files_.mutex_);
      files_.waits_ = true;
      files_.changed_.notify_all();
      files_.changed_.wait(lock, [&] { return !files_.held_; });
      real_->sync();
    }

   private:
    HeldFiles& files_;
  };
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = true, waits_ = false;
};

class SaverOnRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, SaverOnRanks, ::testing::Values(1, 2, 4));

TEST_P(SaverOnRanks, SavesTheStateOfTheMomentWhileCollectivesGoOn) {
  const test::TempDir dir;
  with_ranks(GetParam(), [&](comm::ProcessGroup& group) {
    HeldFiles files;
    Saver saver({.dir = dir.path(), .group = &group, .files = &files});
    const auto entries = model(0);
    saver.start(1, entries, {{"seed", "7"}});
    for (const Entry& entry : entries)
      entry.tensor.fill_(-1);  // training goes on with the same memory
    for (int i = 0; i < 300; ++i) {
      const Tensor ones = Tensor::full({64}, 1);
      group.all_reduce(ones).wait();
      ASSERT_EQ(ones.to_vector<float>()[63], static_cast<float>(group.size()));
    }
    EXPECT_TRUE(saver.busy());
    EXPECT_FALSE(saver.poll());
    EXPECT_TRUE(list(dir.path()).empty());
    group.barrier().wait();
    files.let_go();
    const auto outcome = saver.wait();
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->error, "");
    EXPECT_EQ(outcome->folder, dir.path() + "/step-00000001");
    EXPECT_FALSE(saver.busy());
  });
  expect_values(dir.path() + "/step-00000001", model(0));
  EXPECT_EQ(Checkpoint::open(dir.path() + "/step-00000001").metadata("seed"), "7");
}

TEST_P(SaverOnRanks, WritesTheSameBytesAsASaveThatWaits) {
  const test::TempDir one, other;
  with_ranks(GetParam(), [&](comm::ProcessGroup& group) {
    save({.dir = one.path(),
          .step = 3,
          .entries = model(5),
          .metadata = {{"a", "b"}},
          .group = &group,
          .two_files_above = 1000});
    Saver saver({.dir = other.path(), .group = &group, .two_files_above = 1000});
    saver.prepare(model(0));
    saver.start(3, model(5), {{"a", "b"}});
    saver.wait();
  });
  EXPECT_GT(names_in(one.path() + "/step-00000003").size(), static_cast<size_t>(GetParam() + 2))
      << "a rank with two files";
  for (const auto& name : names_in(one.path() + "/step-00000003"))
    EXPECT_EQ(read_file(one.path() + "/step-00000003/" + name),
              read_file(other.path() + "/step-00000003/" + name))
        << name;
}

TEST_P(SaverOnRanks, StartWaitsForTheSaveBeforeAndKeepsItsOutcome) {
  const test::TempDir dir;
  with_ranks(GetParam(), [&](comm::ProcessGroup& group) {
    Saver saver({.dir = dir.path(), .keep = 2, .group = &group});
    for (int64_t step = 1; step <= 4; ++step) saver.start(step, model(step), {});
    std::vector<int64_t> steps;
    for (auto outcome = saver.wait(); outcome; outcome = saver.poll()) {
      EXPECT_EQ(outcome->error, "");
      steps.push_back(outcome->step);
    }
    EXPECT_THAT(steps, ElementsAre(1, 2, 3, 4));
  });
  EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000003", "step-00000004"));
  expect_values(dir.path() + "/step-00000003", model(3));
  expect_values(dir.path() + "/step-00000004", model(4));
}

// Writes fail on this rank.
class FullFiles final : public ForwardingFiles {
 public:
  bool full = true;
  std::unique_ptr<WritableFile> create(const std::string& path) override {
    return std::make_unique<File>(*this, path, real_.create(path));
  }

 private:
  class File final : public ForwardingFile {
   public:
    File(FullFiles& files, std::string path, std::unique_ptr<WritableFile> real)
        : ForwardingFile(std::move(real)), files_(files), path_(std::move(path)) {}
    void write(const void* data, size_t bytes) override {
      if (files_.full)
        throw EnvironmentError("write '" + path_ +
                               "' at byte 0: No space left on device (errno 28)");
      real_->write(data, bytes);
    }

   private:
    FullFiles& files_;
    std::string path_;
  };
};

TEST_P(SaverOnRanks, AFailureOnOneRankIsTheSameOutcomeOnAllAndTheNextSaveWorks) {
  const test::TempDir dir;
  with_ranks(GetParam(), [&](comm::ProcessGroup& group) {
    FullFiles files;
    Saver saver({.dir = dir.path(),
                 .keep = 1,
                 .group = &group,
                 .files = group.rank() == group.size() - 1 ? &files : nullptr});
    files.full = false;
    saver.start(1, model(1), {});
    ASSERT_EQ(saver.wait()->error, "");
    files.full = true;
    saver.start(2, model(2), {});
    const auto failed = saver.wait();
    ASSERT_TRUE(failed);
    EXPECT_EQ(failed->folder, "");
    EXPECT_THAT(failed->error,
                AllOf(HasSubstr(str("step 2 was not saved: rank ", group.size() - 1, ": write '")),
                      HasSubstr("errno 28"), HasSubstr(str("shard-0000", group.size() - 1))));
    group.barrier().wait();  // rank 0 has removed what was begun
    EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000001"));
    group.barrier().wait();
    files.full = false;
    saver.start(3, model(3), {});
    EXPECT_EQ(saver.wait()->error, "");
  });
  EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000003"));
}

TEST_P(SaverOnRanks, AnotherStateNeedsAnotherSaver) {
  const test::TempDir dir;
  with_ranks(GetParam(), [&](comm::ProcessGroup& group) {
    Saver saver({.dir = dir.path(), .group = &group});
    saver.prepare(model(1));
    auto entries = model(1);
    if (group.rank() == 0) entries.pop_back();
    saver.start(1, entries, {});
    EXPECT_THAT(saver.wait()->error,
                AllOf(HasSubstr("rank 0: "), HasSubstr("not those of the first save")));
    saver.start(2, model(2), {});
    EXPECT_EQ(saver.wait()->error, "");
  });
}

TEST(Saver, NewOwnersOfAFolderKeepOldOnesFromCommitting) {
  const test::TempDir dir;
  HeldFiles files;
  Saver stale({.dir = dir.path(), .files = &files});
  stale.start(5, model(1), {});
  files.expect_sync();  // frozen, with its files written
  Saver fresh({.dir = dir.path()});
  fresh.start(5, model(2), {});
  EXPECT_EQ(fresh.wait()->error, "");
  files.let_go();
  EXPECT_THAT(stale.wait()->error, HasSubstr("step 5 was not saved"));
  EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000005"));
  expect_values(dir.path() + "/step-00000005", model(2));
}

TEST(Saver, TooLittleSpaceIsFoundBeforeAnythingIsWritten) {
  class SmallFiles final : public ForwardingFiles {
   public:
    std::optional<int64_t> free_bytes(const std::string&) override { return 1 << 20; }
    std::unique_ptr<WritableFile> create(const std::string& path) override {
      ADD_FAILURE() << path << " was created";
      return real_.create(path);
    }
  };
  const test::TempDir dir;
  with_ranks(2, [&](comm::ProcessGroup& group) {
    SmallFiles files;
    EXPECT_THAT(error_of([&] {
                  save({.dir = dir.path(),
                        .step = 1,
                        .entries = model(1),
                        .group = &group,
                        .files = &files});
                }),
                AllOf(HasSubstr("step 1 was not saved: rank 0: '" + dir.path() +
                                "' has 1.0 MB free, and the checkpoint needs "),
                      HasSubstr(" MB more: free some space by hand"),
                      HasSubstr("to keep N takes room for N + 1")));
  });
  EXPECT_TRUE(names_in(dir.path()).empty());
}

TEST(LongAgreement, OutlastsTheLimitOfACollective) {
  const auto store = std::make_shared<comm::HashStore>();
  const Duration limit = std::chrono::seconds(4);
  test::run_threads(2, [&](int rank) {
    const comm::GroupOptions options{.timeout = limit};
    comm::ProcessGroup group(comm::make_local(store, rank, 2, options), options);
    const auto texts = agree_on_long_work(&group, [&](const std::atomic<bool>&) {
      if (rank == 1)
        std::this_thread::sleep_for(limit * 5 / 4);  // work that takes as long as it takes
      return str("from ", rank);
    });
    EXPECT_THAT(texts, ElementsAre("from 0", "from 1"));
  });
}

TEST(LongAgreement, AFailureEndsTheWorkOfAll) {
  with_ranks(3, [&](comm::ProcessGroup& group) {
    const std::string error = error_of([&] {
      agree_on_long_work(&group, [&](const std::atomic<bool>& stop) -> std::string {
        if (group.rank() == 1) throw EnvironmentError("disk full");
        while (!stop) std::this_thread::yield();
        return {};
      });
    });
    EXPECT_EQ(error, "rank 1: disk full");
  });
}

}  // namespace
}  // namespace lockstep::checkpoint
