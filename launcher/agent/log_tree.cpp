#include "launcher/agent/log_tree.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::launcher {
namespace {

void make_folders(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error)
    throw EnvironmentError(
        str("[launch] cannot make the log folder '", path, "': ", error.message()));
}

// Whether some output would be seen nowhere without files.
bool needs_files(const LaunchSpec& spec) {
  const auto& hidden = spec.hidden_streams;
  return std::any_of(hidden.begin(), hidden.end(), [](int streams) { return streams != 0; }) ||
         !spec.output_filters.empty() || !spec.error_filters.empty();
}

// A run id may hold anything; as the name of a folder it must be one.
std::string as_name(std::string run_id) {
  std::replace(run_id.begin(), run_id.end(), '/', '_');
  return run_id.substr(0, 100);
}

}  // namespace

std::unique_ptr<LogTree> LogTree::make(const LaunchSpec& spec, const std::string& run_id) {
  if (!spec.log_tree || (spec.log_dir.empty() && !needs_files(spec))) return nullptr;
  std::string dir = spec.log_dir;
  if (dir.empty()) {
    const char* temporary = std::getenv("TMPDIR");
    dir = temporary && *temporary ? temporary : "/tmp";
  } else {
    make_folders(dir);
  }
  std::string path =
      str(dir, "/", spec.log_dir.empty() ? "lockstep_" : "", as_name(run_id), "_XXXXXX");
  if (::mkdtemp(path.data()) == nullptr)
    throw EnvironmentError(
        str("[launch] cannot make a log folder below '", dir, "': ", errno_text(errno)));
  if (spec.log_dir.empty())
    log::info("[launch] what the screen does not show of the ranks is in ", path);
  return std::unique_ptr<LogTree>(new LogTree(spec, std::move(path)));
}

void LogTree::put_into(RankOutput::Options& options, int attempt, int local_rank) const {
  const std::string folder = str(path_, "/attempt_", attempt), mine = str(folder, "/", local_rank);
  make_folders(mine);
  options.log_file = mine + "/stdout.log";
  options.error_log_file = mine + "/stderr.log";
  options.report_file = mine + "/error.json";
  if (!spec_.output_filters.empty())
    options.output_copy = {folder + "/filtered_stdout.log", spec_.output_filters};
  if (!spec_.error_filters.empty())
    options.error_copy = {folder + "/filtered_stderr.log", spec_.error_filters};
}

}  // namespace lockstep::launcher
