// Opens, finds and lists checkpoints.
#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "checkpoint/format/digest.h"
#include "checkpoint/restore/verify.h"
#include "comm/long_agreement.h"
#include "comm/text.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

constexpr int64_t kMaxManifestBytes = 256 << 20;
constexpr char kEndOfName = '\0';  // paths cannot contain this byte

std::string name_of_folder(const std::string& folder) {
  const size_t last = folder.find_last_not_of('/');
  if (last == std::string::npos) return {};
  const size_t slash = folder.find_last_of('/', last);
  return folder.substr(slash == std::string::npos ? 0 : slash + 1,
                       last - (slash == std::string::npos ? 0 : slash + 1) + 1);
}

// The files whose sizes this rank checks: every `of`-th, starting at `first`.
struct Share {
  size_t first = 0, of = 1;
};

// Checks the sizes of files. The error lists every file with a wrong size.
void check_sizes(const std::string& folder, const Manifest& manifest, FileSystem& files,
                 Share share) {
  std::string problems;
  for (size_t i = share.first; i < manifest.files.size(); i += share.of) try {
      const ManifestFile& file = manifest.files[i];
      check_size(*files.open(folder + "/" + file.name), file);
    } catch (const EnvironmentError& e) {
      problems += str(problems.empty() ? "" : "; ", e.what());
    }
  if (!problems.empty()) throw EnvironmentError(problems);
}

// Reads the manifest, verifies it against SHA256SUMS, and checks file sizes.
Manifest read_manifest(const std::string& folder, FileSystem& files, Share share = {}) {
  const std::string path = folder + "/" + Manifest::kFileName;
  const std::string sums_path = folder + "/" + Manifest::kSumsName;
  const std::string text = read_text(*files.open(path), kMaxManifestBytes);
  const std::string sums = read_text(*files.open(sums_path), kMaxManifestBytes);
  const std::string digest = sha256_hex(text);
  if (sums.substr(0, digest.size()) != digest)
    throw EnvironmentError(str("'", path, "' was changed: its SHA-256 is ", digest,
                               ", but SHA256SUMS says ", sums.substr(0, digest.size())));
  Manifest manifest = parse_manifest(text, path);
  if (sums != sums_text(manifest, digest))
    throw EnvironmentError(
        str("'", sums_path, "' was changed: it does not agree with ", Manifest::kFileName));
  const int64_t step = step_of_folder(name_of_folder(folder));
  if (step >= 0 && step != manifest.step)
    throw EnvironmentError(str("'", path, "' is of step ", manifest.step,
                               ", but its folder is named for step ", step));
  check_sizes(folder, manifest, files, share);
  return manifest;
}

std::vector<std::pair<int64_t, std::string>> committed(const std::string& dir, FileSystem& files) {
  std::vector<std::pair<int64_t, std::string>> found;
  for (const auto& name : files.list(dir)) {
    const int64_t step = step_of_folder(name);
    if (step >= 0) found.emplace_back(step, dir + "/" + name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<std::string> unknown_names(const std::string& folder, const Manifest& manifest,
                                       FileSystem& files) {
  std::set<std::string> known = {Manifest::kFileName, Manifest::kSumsName};
  for (const ManifestFile& file : manifest.files) known.insert(file.name);
  std::vector<std::string> names = files.list(folder);
  std::erase_if(names, [&](const std::string& name) { return known.count(name) != 0; });
  return names;
}

// Restores on all ranks. Returns why some rank cannot use the checkpoint, or "" on success.
std::string try_restore(const std::string& folder, std::span<const Entry> entries,
                        comm::ProcessGroup* group,
                        const std::function<void(const Checkpoint&)>& accept, FileSystem& files,
                        Restored& result) {
  const auto reasons = agree_on_long_work(group, [&](const std::atomic<bool>&) -> std::string {
    try {
      result.checkpoint = group ? Checkpoint::open(folder, &files, group->rank(), group->size())
                                : Checkpoint::open(folder, &files);
      if (accept) accept(*result.checkpoint);
      result.read = result.checkpoint->read(entries);
      return {};
    } catch (const EnvironmentError& e) {
      return e.what();
    }
  });
  for (size_t rank = 0; rank < reasons.size(); ++rank)
    if (!reasons[rank].empty())
      return reasons.size() == 1 ? reasons[rank] : str("rank ", rank, ": ", reasons[rank]);
  return {};
}

}  // namespace

Checkpoint Checkpoint::open(const std::string& folder, FileSystem* files, int rank, int ranks) {
  FileSystem& used = files ? *files : posix_file_system();
  try {
    Checkpoint checkpoint(
        folder,
        read_manifest(folder, used, {static_cast<size_t>(rank), static_cast<size_t>(ranks)}), used);
    if (checkpoint.manifest_.version == 1) verify_contents(folder, checkpoint.manifest_, used);
    return checkpoint;
  } catch (const EnvironmentError& e) {
    throw EnvironmentError(str("[checkpoint] '", folder, "' cannot be used: ", e.what()));
  }
}

const std::string& Checkpoint::metadata(const std::string& key) const {
  const auto found = manifest_.metadata.find(key);
  check(found != manifest_.metadata.end(), "[checkpoint] the metadata of '", folder_, "' has no '",
        key, "'");
  return found->second;
}

void Checkpoint::verify() const {
  try {
    verify_contents(folder_, manifest_, *files_);
  } catch (const EnvironmentError& e) {
    throw EnvironmentError(str("[checkpoint] '", folder_, "' cannot be used: ", e.what()));
  }
}

LatestGood latest_good(const std::string& dir, Check check) {
  LatestGood result;
  auto folders = committed(dir, posix_file_system());
  for (auto it = folders.rbegin(); it != folders.rend() && !result.checkpoint; ++it) {
    try {
      Checkpoint found = Checkpoint::open(it->second);
      if (check == Check::everything && found.manifest().version > 1) found.verify();
      result.checkpoint = std::move(found);
    } catch (const EnvironmentError& e) {
      result.skipped.emplace_back(e.what());
    }
  }
  return result;
}

Restored restore_latest(const std::string& dir, std::span<const Entry> entries,
                        comm::ProcessGroup* group,
                        const std::function<void(const Checkpoint&)>& accept, FileSystem* files) {
  FileSystem& used = files ? *files : posix_file_system();
  // Only rank 0 lists the folder, so all ranks try the same checkpoints in the same order.
  const std::string names = comm::agree(group, [&] {
    std::string text;
    if (group && group->rank() != 0) return text;
    for (const auto& [step, folder] : committed(dir, used)) text = folder + kEndOfName + text;
    return text;
  })[0];
  Restored result;
  for (size_t at = 0; at < names.size();) {
    const size_t end = names.find(kEndOfName, at);
    const std::string reason =
        try_restore(names.substr(at, end - at), entries, group, accept, used, result);
    if (reason.empty()) return result;
    result.checkpoint.reset();
    result.skipped.push_back(reason);
    at = end + 1;
  }
  if (result.skipped.empty()) return result;
  std::string reasons;
  for (const auto& reason : result.skipped) reasons += "\n  " + reason;
  throw EnvironmentError(
      str("[checkpoint] none of the ", result.skipped.size(), " checkpoints in '", dir,
          "' can be used; to start from the beginning, move them away:", reasons));
}

bool is_checkpoint(const std::string& folder) {
  return std::filesystem::exists(folder + "/" + Manifest::kFileName) ||
         std::filesystem::exists(folder + "/" + Manifest::kSumsName);
}

Listed look_at(const std::string& folder, Check check) {
  FileSystem& files = posix_file_system();
  Listed listed{.folder = folder,
                .step = step_of_folder(name_of_folder(folder)),
                .bytes = 0,
                .problem = {},
                .unknown = {}};
  try {
    const Manifest manifest = read_manifest(folder, files);
    listed.step = manifest.step;
    for (const auto& file : manifest.files) listed.bytes += file.bytes;
    if (check == Check::everything) {
      listed.unknown = unknown_names(folder, manifest, files);
      verify_contents(folder, manifest, files);
    }
  } catch (const EnvironmentError& e) {
    listed.problem = e.what();
  }
  return listed;
}

std::vector<Listed> list(const std::string& dir, Check check) {
  std::vector<Listed> all;
  for (const auto& [step, folder] : committed(dir, posix_file_system()))
    all.push_back(look_at(folder, check));
  return all;
}

}  // namespace lockstep::checkpoint
