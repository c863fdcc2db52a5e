#include "train/run_dir.h"

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "core/base/error.h"

namespace lockstep::train {
namespace {

namespace fs = std::filesystem;

void make_folder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw EnvironmentError(str("make folder '", path, "': ", error.message()));
}

}  // namespace

RunDir::RunDir(const Config& config) : path(config.run.dir + "/" + config.run.name) {}

bool RunDir::has_results() const {
  std::error_code error;
  const auto metrics_bytes = fs::file_size(metrics_file(), error);
  if (!error && metrics_bytes > 0) return true;
  const fs::directory_iterator first(checkpoints(), error);
  return !error && first != fs::directory_iterator();
}

void RunDir::prepare(const Config& config, bool resuming) const {
  check(resuming || !has_results(), "'", path,
        "' holds the results of an earlier run: choose another run.name, or pass --resume auto to continue it");
  make_folder(logs());
  make_folder(checkpoints());
  std::ofstream out(config_file(), std::ios::binary | std::ios::trunc);
  out << to_yaml(config);
  out.close();
  if (!out) throw EnvironmentError(str("write '", config_file(), "': ", errno_text(errno)));
}

}  // namespace lockstep::train
