#include "train/metrics/metrics_file.h"

#include <cerrno>
#include <fstream>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::train {
namespace {

// Returns the step of a line that this class wrote, or -1 for any other text.
int64_t step_of(const std::string& line) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) return -1;
  return json["step"].get<int64_t>();
}

struct Kept {
  int64_t bytes = 0;   // size of the complete lines up to the resumed step
  int64_t others = 0;  // number of complete lines of later steps
};
Kept kept_of(const std::string& path, int64_t last_step) {
  std::ifstream in(path, std::ios::binary);
  Kept kept;
  for (std::string line; std::getline(in, line);) {
    const int64_t step = step_of(line);
    if (in.eof() || step < 0) break;  // at eof the line feed is missing: an incomplete line
    if (step > last_step) {
      ++kept.others;
    } else if (kept.others == 0) {
      kept.bytes += static_cast<int64_t>(line.size()) + 1;
    } else {
      break;
    }
  }
  return kept;
}

}  // namespace

MetricsFile::MetricsFile(std::string path, int64_t resumed_step)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666)) {
  if (fd_ < 0) throw EnvironmentError(str("open '", path_, "': ", errno_text(errno)));
  const Kept kept = kept_of(path_, resumed_step);
  bytes_ = kept.bytes;
  lost_steps_ = kept.others;
  if (::ftruncate(fd_, bytes_) != 0) {
    const int error = errno;
    ::close(fd_);
    throw EnvironmentError(str("truncate '", path_, "': ", errno_text(error)));
  }
}

MetricsFile::~MetricsFile() { ::close(fd_); }

void MetricsFile::append(const StepMetrics& metrics) {
  const std::string line = to_json(metrics) + "\n";
  for (size_t done = 0; done < line.size();) {
    const ssize_t written =
        ::pwrite(fd_, line.data() + done, line.size() - done, bytes_ + static_cast<int64_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const int error = written < 0 ? errno : ENOSPC;
      // The next append() overwrites the incomplete line even if this fails.
      [[maybe_unused]] const int cut = ::ftruncate(fd_, bytes_);
      throw EnvironmentError(str("write '", path_, "': ", errno_text(error)));
    }
    done += static_cast<size_t>(written);
  }
  bytes_ += static_cast<int64_t>(line.size());
}

}  // namespace lockstep::train
