#include "checkpoint/save/saver.h"

#include <deque>
#include <functional>
#include <thread>

#include "checkpoint/save/host_copy.h"
#include "checkpoint/save/save_job.h"
#include "comm/text.h"
#include "core/base/log.h"
#include "core/base/mutex.h"
#include "core/base/thread.h"
#include "core/trace/trace.h"

namespace lockstep::checkpoint {
namespace {

bool same(const std::vector<Part>& a, const std::vector<Part>& b) {
  return parts_text(a) == parts_text(b);
}

}  // namespace

class Saver::Impl {
 public:
  explicit Impl(const SaverOptions& options) : options_(options) {
    if (options.group && options.group->size() > 1)
      group_ = options.group->host().split(0, options.group->rank());
    rank_ = group_ ? group_->rank() : 0;
    comm::agree(group_.get(), [&] {
      if (rank_ == 0)
        remove_half_written(options_.files ? *options_.files : posix_file_system(), options_.dir);
      return std::string();
    });
  }
  ~Impl() {
    if (thread_.joinable()) thread_.join();
  }

  void prepare(const std::vector<Entry>& entries) {
    if (thread_.joinable()) thread_.join();
    plan_ = std::make_unique<SavePlan>(plan_save(group_.get(), entries, options_.two_files_above));
    buffers_.clear();
    // Zeros touch the memory, so the first copy need not wait for it.
    for (const Tensor& tensor : planned_tensors(*plan_, rank_, entries))
      buffers_.push_back(host_memory_like(tensor).zero_());
  }

  void start(int64_t step, const std::vector<Entry>& entries,
             std::map<std::string, std::string> metadata) {
    const auto begin = Clock::now();
    if (thread_.joinable()) thread_.join();
    if (!plan_) prepare(entries);
    SaveJob job{.dir = options_.dir,
                .step = step,
                .keep = options_.keep,
                .metadata = std::move(metadata),
                .group = group_.get(),
                .files = options_.files,
                .claim = options_.claim,
                .plan = plan_.get(),
                .tensors = buffers_};
    try {
      check(same(parts_of(entries), plan_->held[static_cast<size_t>(rank_)]),
            "[checkpoint] names, shapes or shards are not those of the first save; make a new "
            "Saver for another state");
      copy_to_host(planned_tensors(*plan_, rank_, entries), buffers_, copies_);
    } catch (const std::exception& e) {
      job.problem = e.what();  // the background thread tells the other ranks
    }
    {
      const MutexLock lock(mutex_);
      busy_ = true;
    }
    const Duration stall = Clock::now() - begin;
    const std::function<void()> work = [this, job = std::move(job), begin, stall] {
      write(job, begin, stall);
    };
    try {
      thread_ = start_thread("to save in the background", [work] {
        trace::name_thread("background save");
        work();
      });
    } catch (const EnvironmentError& e) {
      log::warn("[checkpoint] step ", step, " is saved while training waits: ", e.what());
      work();  // the other ranks wait for this rank's part
      const MutexLock lock(mutex_);
      ended_.back().stall = Clock::now() - begin;
    }
  }

  bool busy() const {
    const MutexLock lock(mutex_);
    return busy_;
  }

  std::optional<SaveOutcome> poll() {
    const MutexLock lock(mutex_);
    if (ended_.empty()) return std::nullopt;
    SaveOutcome outcome = std::move(ended_.front());
    ended_.pop_front();
    return outcome;
  }

  std::optional<SaveOutcome> wait() {
    if (thread_.joinable()) thread_.join();
    return poll();
  }

 private:
  // Runs in the background.
  void write(SaveJob job, Clock::time_point begin, Duration stall) noexcept {
    SaveOutcome outcome{.step = job.step, .folder = {}, .error = {}, .stall = stall};
    try {
      finish_copies(copies_, job);
      outcome.folder = write_checkpoint(job);
    } catch (const std::exception& e) {
      outcome.error = e.what();
    }
    outcome.duration = Clock::now() - begin;
    const MutexLock lock(mutex_);
    ended_.push_back(std::move(outcome));
    busy_ = false;
  }

  const SaverOptions options_;
  std::unique_ptr<comm::ProcessGroup> group_;  // null for a single rank
  int64_t rank_ = 0;
  std::unique_ptr<SavePlan> plan_;
  // The copy, and what of it is under way. Both belong to the thread while it runs.
  std::vector<Tensor> buffers_;
  DeviceCopies copies_;
  std::thread thread_;
  mutable Mutex mutex_;
  bool busy_ LOCKSTEP_GUARDED_BY(mutex_) = false;
  std::deque<SaveOutcome> ended_ LOCKSTEP_GUARDED_BY(mutex_);
};

Saver::Saver(const SaverOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Saver::~Saver() = default;
void Saver::prepare(const std::vector<Entry>& entries) { impl_->prepare(entries); }
void Saver::start(int64_t step, const std::vector<Entry>& entries,
                  std::map<std::string, std::string> metadata) {
  impl_->start(step, entries, std::move(metadata));
}
bool Saver::busy() const { return impl_->busy(); }
std::optional<SaveOutcome> Saver::poll() { return impl_->poll(); }
std::optional<SaveOutcome> Saver::wait() { return impl_->wait(); }

}  // namespace lockstep::checkpoint
