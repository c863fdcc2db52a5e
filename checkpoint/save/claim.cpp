#include "checkpoint/save/claim.h"

#include <algorithm>
#include <cstdio>

#include "checkpoint/format/digest.h"
#include "checkpoint/save/save_job.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

constexpr const char* kPrefix = ".epoch-";

}  // namespace

std::string claim_folder(FileSystem& files, const std::string& dir, const std::string& run,
                         int64_t epoch) {
  char number[24];
  std::snprintf(number, sizeof number, "%08lld", static_cast<long long>(epoch));
  const std::string of_run = str(kPrefix, sha256_hex(run).substr(0, 16), "-"),
                    claim = of_run + number;
  files.make_directories(dir);
  const auto later = [&](const std::string& name) {
    return name.starts_with(of_run) &&
           (name.size() > claim.size() || (name.size() == claim.size() && name > claim));
  };
  const std::vector<std::string> names = files.list(dir);
  if (const auto found = std::find_if(names.begin(), names.end(), later); found != names.end())
    throw EnvironmentError(str("[checkpoint] '", dir, "' belongs to a later epoch of this job (",
                               *found, ") than ", epoch, ": these ranks must not write to it"));
  files.make_directories(dir + "/" + claim);
  for (const std::string& name : names)
    if (name.starts_with(kPrefix) && name != claim) files.remove_all(dir + "/" + name);
  remove_half_written(files, dir);
  return claim;
}

void require_claim(FileSystem& files, const std::string& dir, const std::string& claim) {
  if (claim.empty()) return;
  const std::vector<std::string> names = files.list(dir);
  if (std::find(names.begin(), names.end(), claim) != names.end()) return;
  const auto other = std::find_if(names.begin(), names.end(), [](const std::string& name) {
    return name.starts_with(kPrefix);
  });
  throw EnvironmentError(str("[checkpoint] '", dir, "' does not belong to these ranks (", claim,
                             ") any more, but to others (", other == names.end() ? "none" : *other,
                             "): a later epoch or another job has begun"));
}

}  // namespace lockstep::checkpoint
