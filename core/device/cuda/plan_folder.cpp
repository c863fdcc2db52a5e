#include "core/device/cuda/plan_folder.h"

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <unistd.h>

#include "core/base/log.h"
#include "core/base/mutex.h"
#include "core/device/cuda_device.h"

namespace lockstep::cuda {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTitle = "lockstep plan 1";
// Plans have some hundred kB.
constexpr uintmax_t kMostBytes = uintmax_t{16} << 20;

// Cuts the first line off `rest`. False if there is none.
bool take_line(std::string_view& rest, std::string_view& line) {
  const size_t end = rest.find('\n');
  if (end == std::string_view::npos) return false;
  line = rest.substr(0, end);
  rest.remove_prefix(end + 1);
  return true;
}

struct Folder {
  Mutex mutex;
  std::string path LOCKSTEP_GUARDED_BY(mutex);
};
Folder& folder() {
  static auto* folder = new Folder;
  return *folder;
}

// Empty without a folder.
fs::path path_of(const std::string& key) {
  const MutexLock lock(folder().mutex);
  if (folder().path.empty()) return {};
  return fs::path(folder().path) / (checksum(key) + ".plan");
}

}  // namespace

std::string checksum(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  char digits[17];
  std::snprintf(digits, sizeof(digits), "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

void keep_plans_in(const std::string& path) {
  const MutexLock lock(folder().mutex);
  folder().path = path;
}

std::string plan_file(std::string_view key, std::string_view plan) {
  return str(kTitle, "\n", key, "\n", checksum(plan), "\n", plan);
}

FoundPlan read_plan_file(std::string_view contents, std::string_view key) {
  std::string_view title, of, sum;
  if (!take_line(contents, title) || title != kTitle || !take_line(contents, of) ||
      !take_line(contents, sum))
    return {.plan = {}, .problem = "it is no plan of this version"};
  if (of != key) return {.plan = {}, .problem = str("it is for ", of)};
  if (checksum(contents) != sum) return {.plan = {}, .problem = "it is damaged"};
  return {.plan = std::string(contents), .problem = {}};
}

std::optional<std::string> kept_plan(const std::string& key) {
  const fs::path path = path_of(key);
  std::error_code error;
  if (path.empty() || !fs::exists(path, error)) return std::nullopt;
  if (fs::file_size(path, error) > kMostBytes || error) {
    say_ignored_plan(key, "it cannot be read");
    return std::nullopt;
  }
  std::ifstream in(path, std::ios::binary);
  const std::string contents{std::istreambuf_iterator<char>(in), {}};
  FoundPlan found = read_plan_file(contents, key);
  if (found.problem.empty()) return std::move(found.plan);
  say_ignored_plan(key, found.problem);
  return std::nullopt;
}

// Another process may keep the same plan at this time: each writes a file of its own, and the last
// one stays.
void keep_plan(const std::string& key, const std::string& plan) {
  const fs::path path = path_of(key);
  if (path.empty()) return;
  static std::atomic<int> count{0};
  const fs::path part = str(path.string(), ".", getpid(), ".", count++);
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  std::ofstream out(part, std::ios::binary);
  out << plan_file(key, plan);
  out.close();
  if (out) fs::rename(part, path, error);
  if (out && !error) return;
  fs::remove(part, error);
  log::warn("[plans] ", path.string(),
            " cannot be written: the next start builds its plans again. Check space and rights.");
}

void say_ignored_plan(const std::string& key, const std::string& reason) {
  log::warn("[plans] ignored ", path_of(key).string(), ": ", reason, ". It is built again.");
}

}  // namespace lockstep::cuda
