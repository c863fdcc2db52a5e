// Opening, verifying, reading and listing.
#include "checkpoint/checkpoint.h"

#include <algorithm>

#include "checkpoint/digest.h"
#include "checkpoint/readable_file.h"
#include "core/base/error.h"
#include "core/base/parallel.h"

namespace lockstep::checkpoint {
namespace {

constexpr int64_t kMaxManifestBytes = 256 << 20;

// The manifest, proved by SHA256SUMS, and the sizes of all files.
Manifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + Manifest::kFileName;
  const std::string sums_path = folder + "/" + Manifest::kSumsName;
  const std::string text = read_text(path, kMaxManifestBytes);
  const std::string sums = read_text(sums_path, kMaxManifestBytes);
  const std::string digest = sha256_hex(text);
  if (sums.substr(0, digest.size()) != digest)
    throw EnvironmentError(
        str("'", path, "' was changed: its SHA-256 is ", digest, ", but SHA256SUMS says ", sums.substr(0, digest.size())));
  Manifest manifest = parse_manifest(text, path);
  if (sums != sums_text(manifest, digest))
    throw EnvironmentError(str("'", sums_path, "' was changed: it does not agree with ", Manifest::kFileName));
  for (const auto& file : manifest.files) {
    const ReadableFile shard(folder + "/" + file.name);
    if (shard.bytes() != file.bytes)
      throw EnvironmentError(str("'", shard.path(), "' was changed: it has ", shard.bytes(), " bytes, expected ", file.bytes));
  }
  return manifest;
}

void verify_contents(const std::string& folder, const Manifest& manifest) {
  parallel_for(static_cast<int64_t>(manifest.files.size()), [&](int64_t i) {
    const ManifestFile& file = manifest.files[static_cast<size_t>(i)];
    const ReadableFile shard(folder + "/" + file.name);
    const std::string digest = shard.sha256();
    if (digest != file.sha256)
      throw EnvironmentError(str("'", shard.path(), "' was changed: its SHA-256 is ", digest, ", expected ", file.sha256));
  });
}

void check_wanted(const Manifest& manifest, const Entry& entry, const std::string& folder) {
  const auto found = manifest.entries.find(entry.name);
  check(found != manifest.entries.end(), "[checkpoint] '", folder, "' holds no '", entry.name, "'");
  const ManifestEntry& stored = found->second;
  check(entry.tensor.defined() && entry.tensor.numel() == entry.shard.length, "[checkpoint] '", entry.name, "': no tensor of ",
        entry.shard.length, " elements to read into");
  check(stored.dtype == entry.tensor.dtype() && stored.shape == entry.shard.global_shape, "[checkpoint] '", entry.name, "' is ",
        stored.dtype, stored.shape, " in '", folder, "', but the program has ", entry.tensor.dtype(), entry.shard.global_shape);
  check(entry.shard.offset >= 0 && entry.shard.offset + entry.shard.length <= stored.shape.numel(), "[checkpoint] '", entry.name,
        "': elements ", entry.shard.offset, " to ", entry.shard.offset + entry.shard.length, " do not lie in ", stored.shape);
}

// The wanted range, from whatever pieces hold it, to a host address.
void read_range(const ManifestEntry& stored, const ShardSpec& wanted, const std::vector<std::unique_ptr<ReadableFile>>& files, char* to) {
  const int64_t element = size_of(stored.dtype);
  for (const Piece& piece : stored.pieces) {
    const int64_t first = std::max(piece.offset, wanted.offset);
    const int64_t last = std::min(piece.offset + piece.length, wanted.offset + wanted.length);
    if (first >= last) continue;
    files[static_cast<size_t>(piece.file)]->read(piece.begin + (first - piece.offset) * element, to + (first - wanted.offset) * element,
                                                 (last - first) * element);
  }
}

std::vector<std::pair<int64_t, std::string>> committed(const std::string& dir) {
  std::vector<std::pair<int64_t, std::string>> found;
  for (const auto& name : posix_file_system().list(dir)) {
    const int64_t step = step_of_folder(name);
    if (step >= 0) found.emplace_back(step, dir + "/" + name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

Checkpoint Checkpoint::open(const std::string& folder) {
  try {
    Manifest manifest = read_manifest(folder);
    verify_contents(folder, manifest);
    return Checkpoint(folder, std::move(manifest));
  } catch (const EnvironmentError& e) {
    throw EnvironmentError(str("[checkpoint] '", folder, "' cannot be used: ", e.what()));
  }
}

const std::string& Checkpoint::metadata(const std::string& key) const {
  const auto found = manifest_.metadata.find(key);
  check(found != manifest_.metadata.end(), "[checkpoint] the metadata of '", folder_, "' has no '", key, "'");
  return found->second;
}

void Checkpoint::read(std::span<const Entry> entries) const {
  for (const Entry& entry : entries) check_wanted(manifest_, entry, folder_);
  std::vector<std::unique_ptr<ReadableFile>> files;
  for (const auto& file : manifest_.files) files.push_back(std::make_unique<ReadableFile>(folder_ + "/" + file.name));
  for (const Entry& entry : entries) {
    const ManifestEntry& stored = manifest_.entries.at(entry.name);
    const bool direct = entry.tensor.device() == kCpu && entry.tensor.is_contiguous();
    const Tensor host = direct ? entry.tensor : Tensor::empty(entry.tensor.shape(), entry.tensor.dtype());
    read_range(stored, entry.shard, files, static_cast<char*>(host.raw()));
    if (!direct) entry.tensor.copy_(host);
  }
}

Tensor Checkpoint::read_whole(const std::string& name) const {
  const auto found = manifest_.entries.find(name);
  check(found != manifest_.entries.end(), "[checkpoint] '", folder_, "' holds no '", name, "'");
  const Entry entry(name, Tensor::empty(found->second.shape, found->second.dtype));
  read({&entry, 1});
  return entry.tensor;
}

LatestGood latest_good(const std::string& dir) {
  LatestGood result;
  auto folders = committed(dir);
  for (auto it = folders.rbegin(); it != folders.rend() && !result.checkpoint; ++it) {
    try {
      result.checkpoint = Checkpoint::open(it->second);
    } catch (const EnvironmentError& e) {
      result.skipped.emplace_back(e.what());
    }
  }
  return result;
}

std::vector<Listed> list(const std::string& dir, Check check) {
  std::vector<Listed> all;
  for (const auto& [step, folder] : committed(dir)) {
    Listed listed{.folder = folder, .step = step, .bytes = 0, .problem = {}};
    try {
      const Manifest manifest = read_manifest(folder);
      for (const auto& file : manifest.files) listed.bytes += file.bytes;
      if (check == Check::everything) verify_contents(folder, manifest);
    } catch (const EnvironmentError& e) {
      listed.problem = e.what();
    }
    all.push_back(std::move(listed));
  }
  return all;
}

}  // namespace lockstep::checkpoint
