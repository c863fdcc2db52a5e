#include "train/run/run_dir.h"

#include <cerrno>
#include <filesystem>
#include <thread>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "checkpoint/files/file_system.h"
#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::train {
namespace {

namespace fs = std::filesystem;

// A killed run keeps its lock until its last process is gone.
constexpr auto kEndingRun = std::chrono::seconds(1);
constexpr auto kLookAgain = std::chrono::milliseconds(20);

void make_folder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw EnvironmentError(str("make folder '", path, "': ", error.message()));
}

}  // namespace

RunLock::RunLock(const std::string& folder)
    : fd_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (fd_ < 0) throw EnvironmentError(str("open folder '", folder, "': ", errno_text(errno)));
  const Deadline deadline = Deadline::after(kEndingRun);
  // Locks the folder itself, so no lock file can be left behind.
  while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) {
      why_none_ = errno_text(errno);
      return;
    }
    if (deadline.passed()) {
      ::close(fd_);
      throw UsageError(str("another process is training into '", folder,
                           "': wait for its end, or choose another run.name"));
    }
    std::this_thread::sleep_for(kLookAgain);
  }
}

RunLock::~RunLock() { ::close(fd_); }

RunDir::RunDir(const Config& config) : path(config.run.dir + "/" + config.run.name) {}

bool RunDir::has_results() const {
  std::error_code error;
  const auto metrics_bytes = fs::file_size(metrics_file(), error);
  if (!error && metrics_bytes > 0) return true;
  const fs::directory_iterator first(checkpoints(), error);
  return !error && first != fs::directory_iterator();
}

void RunDir::check_no_results(bool resuming) const {
  check(resuming || !has_results(), "'", path,
        "' holds the results of an earlier run: choose another run.name, or pass --resume auto to "
        "continue it");
}

void RunDir::check_free(bool resuming) const {
  std::error_code error;
  if (fs::is_directory(path, error)) RunLock probe(path);
  check_no_results(resuming);
}

std::unique_ptr<RunLock> RunDir::lock(bool resuming) const {
  check_free(resuming);  // check before anything is created
  make_folder(path);
  auto held = std::make_unique<RunLock>(path);
  if (!held->why_none().empty())
    log::warn("the file system of '", path, "' supports no lock (", held->why_none(),
              "): nothing keeps another run from writing to the same folder; make sure that each "
              "run has its own run.name");
  check_no_results(resuming);
  return held;
}

void RunDir::prepare(const Config& config) const {
  make_folder(logs());
  make_folder(checkpoints());
  checkpoint::write_whole_file(config_file(), to_yaml(config), /*replaces=*/true);
}

}  // namespace lockstep::train
