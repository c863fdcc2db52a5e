// Checkpoints: named tensors, whole or sharded, saved by all ranks of a group into one folder and read back by any number of
// ranks. The format is docs/formats/checkpoint.md; what is promised, docs/checkpoint.md.
//
//   save({.dir = run + "/checkpoints", .step = 100, .entries = entries, .metadata = {{"seed", "1337"}}, .keep = 3, .group = &group});
//   LatestGood found = latest_good(run + "/checkpoints");
//   if (found.checkpoint) found.checkpoint->read(entries);
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/file_system.h"
#include "checkpoint/manifest.h"
#include "comm/process_group.h"
#include "core/tensor/shard_spec.h"
#include "core/tensor/tensor.h"

namespace lockstep::checkpoint {

// A rank's part of one named tensor: `tensor` holds `shard.length` elements, from `shard.offset` on, of the flattened global tensor.
struct Entry {
  std::string name;
  Tensor tensor;
  ShardSpec shard;

  // The whole tensor.
  Entry(std::string name_, Tensor tensor_) : name(std::move(name_)), tensor(std::move(tensor_)), shard(ShardSpec::whole(tensor.shape())) {}
  Entry(std::string name_, Tensor tensor_, ShardSpec shard_) : name(std::move(name_)), tensor(std::move(tensor_)), shard(shard_) {}
};

struct SaveRequest {
  std::string dir = {};  // the folder of checkpoints; made where it is missing
  int64_t step = 0;
  std::vector<Entry> entries = {};                   // this rank's. A part that several ranks hold is written once
  std::map<std::string, std::string> metadata = {};  // rank 0's counts
  int64_t keep = 0;                                  // how many of the newest stay, the new one included; 0: all
  comm::ProcessGroup* group = nullptr;               // null: a single rank
  FileSystem* files = nullptr;                       // null: the real one
};

// Collective over the group. Returns the folder, dir/step-NNNNNNNN, once it is complete and on disk: until that moment it does not
// exist under its name. If anything fails on any rank, every rank throws (EnvironmentError, or UsageError where the parts do not
// make up the tensors) with a message that names rank, operation, path and errno; nothing new stays, what was there before stays.
// A checkpoint of the same step is replaced.
std::string save(const SaveRequest& request);

// A checkpoint that was verified: manifest, sizes and SHA-256 of every file. Immutable; reads may come from several threads.
class Checkpoint {
 public:
  // Throws EnvironmentError naming file, expected and got where anything is missing, changed or malformed.
  static Checkpoint open(const std::string& folder);

  const std::string& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }
  int64_t step() const { return manifest_.step; }
  const std::map<std::string, std::string>& metadata() const { return manifest_.metadata; }
  // UsageError naming the key where it is missing.
  const std::string& metadata(const std::string& key) const;
  bool contains(const std::string& name) const { return manifest_.entries.count(name) != 0; }

  // Fills the given parts, whatever parts were saved. Names, dtypes and global shapes of all are checked before the first element
  // is written: UsageError. Tensors of the checkpoint that are not asked for are left alone.
  void read(std::span<const Entry> entries) const;
  // A new tensor on the host with the whole of `name`.
  Tensor read_whole(const std::string& name) const;

 private:
  Checkpoint(std::string folder, Manifest manifest) : folder_(std::move(folder)), manifest_(std::move(manifest)) {}
  std::string folder_;
  Manifest manifest_;
};

struct LatestGood {
  std::optional<Checkpoint> checkpoint;
  std::vector<std::string> skipped;  // one line for each newer one that did not verify: folder and reason
};
// The newest committed checkpoint that verifies. A missing folder holds none.
LatestGood latest_good(const std::string& dir);

struct Listed {
  std::string folder;
  int64_t step = 0;
  int64_t bytes = 0;    // of all files
  std::string problem;  // empty: good
};
enum class Check : uint8_t { manifest, everything };
// All committed checkpoints, oldest first. `manifest` reads the manifest and the files' sizes; `everything` their contents too.
std::vector<Listed> list(const std::string& dir, Check check = Check::manifest);

}  // namespace lockstep::checkpoint
