#include "train/trace/merge.h"

#include <cerrno>
#include <filesystem>
#include <fstream>

#include <unistd.h>

#include "core/base/error.h"
#include "train/trace/part_file.h"

namespace lockstep::train {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void cannot_write(const std::string& path) {
  throw EnvironmentError(str("write '", path, "': ", errno_text(errno)));
}

// Appends the whole events of a rank's file; `first`: no event was written yet.
void append_part(std::ifstream& in, std::ofstream& out, bool& first) {
  for (std::string line; std::getline(in, line);) {
    if (in.eof() || !line.starts_with('{') || !line.ends_with("},")) continue;
    line.pop_back();
    out << (first ? "" : ",\n") << line;
    first = false;
  }
}

}  // namespace

Merged merge_parts(const std::string& file, int ranks) {
  Merged merged;
  for (int rank = 0; rank < ranks; ++rank)
    (fs::is_regular_file(part_path(file, rank)) ? merged.ranks : merged.missing).push_back(rank);
  if (merged.ranks.empty()) return merged;
  const std::string aside = file + ".tmp";
  {
    std::ofstream out(aside, std::ios::binary | std::ios::trunc);
    out << "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
    bool first = true;
    for (const int rank : merged.ranks) {
      std::ifstream in(part_path(file, rank), std::ios::binary);
      append_part(in, out, first);
    }
    out << "\n]}\n" << std::flush;
    if (!out) cannot_write(aside);
  }
  std::error_code error;
  fs::rename(aside, file, error);
  if (error) throw EnvironmentError(str("rename '", aside, "' to '", file, "': ", error.message()));
  for (const int rank : merged.ranks) fs::remove(part_path(file, rank), error);
  return merged;
}

void remove_parts(const std::string& file) {
  const fs::path path(file);
  const fs::path folder = path.has_parent_path() ? path.parent_path() : ".";
  const std::string prefix = path.filename().string() + ".rank-";
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file(error) && name.starts_with(prefix) &&
        name.find_first_not_of("0123456789", prefix.size()) == std::string::npos)
      fs::remove(entry.path(), error);
  }
}

void check_trace_file(const std::string& file) {
  check(!file.empty(), "--trace: expected the name of a file, got an empty one");
  const fs::path path(file);
  std::error_code error;
  check(!fs::is_directory(path, error), "--trace: '", file, "' is a folder; give a file's name");
  const std::string folder = path.has_parent_path() ? path.parent_path().string() : ".";
  check(fs::is_directory(folder, error), "--trace: the folder of '", file, "' does not exist");
  if (::access(folder.c_str(), W_OK) != 0)
    throw EnvironmentError(
        str("--trace: nothing can be written to the folder of '", file, "': ", errno_text(errno)));
}

}  // namespace lockstep::train
