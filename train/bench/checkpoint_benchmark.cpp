#include "train/bench/checkpoint_benchmark.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "checkpoint/format/safetensors.h"
#include "checkpoint/save/save_job.h"
#include "checkpoint/save/saver.h"
#include "comm/text.h"
#include "core/base/clock.h"
#include "core/base/parallel.h"
#include "train/bench/measure.h"

namespace lockstep::train {
namespace {

using checkpoint::Entry;

// The POSIX file system, except that syncs return at once.
class UnsyncedFiles final : public checkpoint::FileSystem {
 public:
  std::unique_ptr<checkpoint::WritableFile> create(const std::string& path) override {
    return std::make_unique<File>(real_.create(path));
  }
  void make_directories(const std::string& path) override { real_.make_directories(path); }
  void make_directory(const std::string& path) override { real_.make_directory(path); }
  void sync_directory(const std::string&) override {}
  void rename_directory(const std::string& from, const std::string& to) override {
    real_.rename_directory(from, to);
  }
  void remove_all(const std::string& path) override { real_.remove_all(path); }
  std::vector<std::string> list(const std::string& path) override { return real_.list(path); }
  std::unique_ptr<checkpoint::ReadableFile> open(const std::string& path) override {
    return real_.open(path);
  }
  std::optional<int64_t> free_bytes(const std::string& path) override {
    return real_.free_bytes(path);
  }

 private:
  class File final : public checkpoint::WritableFile {
   public:
    explicit File(std::unique_ptr<checkpoint::WritableFile> real) : real_(std::move(real)) {}
    void write(const void* data, size_t bytes) override { real_->write(data, bytes); }
    void sync() override {}

   private:
    std::unique_ptr<checkpoint::WritableFile> real_;
  };
  checkpoint::FileSystem& real_ = checkpoint::posix_file_system();
};

class Bench {
 public:
  Bench(comm::ProcessGroup& group, const std::string& dir, int64_t bytes, int repetitions)
      : group_(group), dir_(dir), repetitions_(repetitions), entries_(sharded_state(bytes)) {}

  CheckpointBenchmark run() {
    CheckpointBenchmark result{.ranks = group_.size(), .threads = num_threads()};
    int64_t mine = 0;
    for (const Entry& entry : entries_) mine += entry.tensor.bytes();
    result.bytes = mine * group_.size();
    measure_copies(result);
    measure_saves(result);
    measure_loads(result);
    measure_checksums(result);
    return result;
  }

 private:
  // Weights and two moments, as FSDP holds them: tensors of 16 MB. Each rank has a share of each.
  std::vector<Entry> sharded_state(int64_t bytes) const {
    constexpr int64_t kElements = 4'000'000;
    const int64_t tensors = std::max<int64_t>(1, bytes / 4 / kElements),
                  share = kElements / group_.size();
    std::vector<Entry> entries;
    for (int64_t i = 0; i < tensors; ++i) {
      const ShardSpec shard{
          {kElements},
          share * group_.rank(),
          group_.rank() + 1 == group_.size() ? kElements - share * group_.rank() : share};
      const Tensor tensor = Tensor::empty({shard.length()});
      float* data = tensor.data<float>();
      for (int64_t j = 0; j < shard.length(); ++j)
        data[j] = static_cast<float>(i * kElements + shard.offset() + j);
      entries.emplace_back(str("state.", i), tensor, shard);
    }
    return entries;
  }

  // Returns the time of the slowest rank. All ranks start together.
  double once(const std::function<void()>& body) {
    group_.host().barrier().wait();
    const auto begin = Clock::now();
    body();
    return slowest(seconds(Clock::now() - begin), group_);
  }
  // Returns the median over the repetitions. `prepare` is not measured.
  double time(
      const std::function<void(int)>& body, const std::function<void(int)>& prepare = [](int) {}) {
    std::vector<double> times;
    for (int i = 0; i < repetitions_; ++i) {
      prepare(i);
      times.push_back(once([&] { body(i); }));
    }
    return median(times);
  }
  void measure_copies(CheckpointBenchmark& result) {
    std::vector<Tensor> to;
    for (const Entry& entry : entries_) to.push_back(Tensor::zeros(entry.tensor.shape()));
    result.memcpy_s = time([&](int) {
      for (size_t i = 0; i < to.size(); ++i)
        std::memcpy(to[i].raw(), entries_[i].tensor.raw(), static_cast<size_t>(to[i].bytes()));
    });
    to.clear();
    checkpoint::Saver saver({.dir = dir_, .keep = 1, .group = &group_});
    saver.prepare(entries_);
    result.stall_s =
        time([&](int i) { saver.start(i, entries_, {}); }, [&](int) { expect_saved(saver); });
    expect_saved(saver);
  }
  static void expect_saved(checkpoint::Saver& saver) {
    const auto outcome = saver.wait();
    if (outcome && outcome->folder.empty()) throw EnvironmentError(outcome->error);
  }

  void measure_saves(CheckpointBenchmark& result) {
    UnsyncedFiles unsynced;
    const auto save = [&](int64_t step, checkpoint::FileSystem* files) {
      checkpoint::save({.dir = dir_,
                        .step = step,
                        .entries = entries_,
                        .keep = 1,
                        .group = &group_,
                        .files = files});
    };
    result.save_unsynced_s = time([&](int i) { save(100 + i, &unsynced); });
    const auto plain = [&] {
      checkpoint::write_bytes(checkpoint::posix_file_system(), files_, never_stop);
    };
    const auto summed = [&] {
      checkpoint::write_safetensors(checkpoint::posix_file_system(), files_);
    };
    // Runs the measurements in turn, and then in reverse order. The other load on the disk drifts
    // over time, and this order spreads the drift equally.
    std::vector<double> plain_before, plain_after, with_sums, saved;
    for (int i = 0; i < repetitions_; ++i) {
      const auto measure = [&](std::vector<double>& times, const std::function<void()>& body) {
        flush();
        times.push_back(once(body));
      };
      measure(plain_before, plain);
      measure(with_sums, summed);
      measure(with_sums, summed);
      measure(plain_after, plain);
      measure(saved, [&] { save(200 + i, nullptr); });
    }
    flush();
    result.noise_s = std::abs(median(plain_before) - median(plain_after));
    plain_before.insert(plain_before.end(), plain_after.begin(), plain_after.end());
    result.plain_write_s = median(plain_before);
    result.summed_write_s = median(with_sums);
    result.save_s = median(saved);
  }

  void measure_loads(CheckpointBenchmark& result) {
    std::vector<Entry> into;
    for (const Entry& entry : entries_)
      into.emplace_back(entry.name, Tensor::zeros(entry.tensor.shape()), entry.shard);
    const auto load = [&](int) { checkpoint::restore_latest(dir_, into, &group_); };
    load(0);  // refills the page cache, which large files may have left
    result.load_s = time(load);
    for (size_t i = 0; i < into.size(); ++i)
      check(std::memcmp(into[i].tensor.raw(), entries_[i].tensor.raw(),
                        static_cast<size_t>(into[i].tensor.bytes())) == 0,
            "[bench] the values read differ from the values saved");
    bool dropped = true;
    const double cold = time(load, [&](int) { dropped = drop_page_cache() && dropped; });
    if (slowest(dropped ? 0 : 1, group_) == 0) result.load_cold_s = cold;
  }

  void measure_checksums(CheckpointBenchmark& result) {
    result.checksum_s = time([&](int) { checkpoint::compute_sums(files_); });
  }

  // This rank's files of a checkpoint, as a save writes them.
  std::vector<checkpoint::FileToWrite> shard_files() const {
    const checkpoint::SavePlan plan = checkpoint::plan_save(&group_, entries_);
    return checkpoint::planned_files(plan, group_.rank(), 0, dir_,
                                     checkpoint::planned_tensors(plan, group_.rank(), entries_));
  }
  // Removes all traces of earlier measurements that could slow down a later one.
  void flush() {
    for (const auto& file : files_) ::unlink(file.path.c_str());
    ::sync();
    group_.host().barrier().wait();
  }
  bool drop_page_cache() {
    bool done = true;
    if (group_.rank() == 0) {
      ::sync();
      const int fd = ::open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
      done = fd >= 0 && ::write(fd, "1", 1) == 1;
      if (fd >= 0) ::close(fd);
    }
    group_.host().barrier().wait();
    return done;
  }

  static bool never_stop() { return false; }

  comm::ProcessGroup& group_;
  const std::string dir_;
  const int repetitions_;
  const std::vector<Entry> entries_;
  const std::vector<checkpoint::FileToWrite> files_ = shard_files();
};

}  // namespace

CheckpointBenchmark bench_checkpoint(comm::ProcessGroup& group, const std::string& dir,
                                     int64_t bytes, int repetitions) {
  check(repetitions >= 1 && bytes >= 1, "[bench] repetitions and bytes must be at least 1");
  auto& files = checkpoint::posix_file_system();
  const std::string own = comm::agree(&group, [&] {
    if (group.rank() != 0) return std::string();
    check(std::filesystem::is_directory(dir), "[bench] '", dir,
          "' is not a folder: give one on the disk to measure");
    std::string path = dir + "/lockstep-bench-checkpoint-XXXXXX";
    if (!::mkdtemp(path.data()))
      throw EnvironmentError(str("make folder '", path, "': ", errno_text(errno)));
    return path;
  })[0];
  const auto remove = [&] {
    if (group.rank() == 0) files.remove_all(own);
  };
  try {
    const CheckpointBenchmark result = Bench(group, own, bytes, repetitions).run();
    group.host().barrier().wait();
    remove();
    return result;
  } catch (...) {
    remove();
    throw;
  }
}

}  // namespace lockstep::train
