// Checkpoints: named tensors, whole or sharded. All ranks of a group save them to one folder, and
// any number of ranks can read them back. docs/formats/checkpoint.md describes the format,
// docs/checkpoint.md the guarantees.
//
//   save({.dir = run + "/checkpoints", .step = 100, .entries = entries, .group = &group});
//   LatestGood found = latest_good(run + "/checkpoints");
//   if (found.checkpoint) found.checkpoint->read(entries);
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/files/file_system.h"
#include "checkpoint/format/manifest.h"
#include "comm/process_group.h"
#include "core/tensor/shard_spec.h"
#include "core/tensor/tensor.h"

namespace lockstep::checkpoint {

// A rank's part of one named tensor: `tensor` holds the values of `shard`, row-major.
struct Entry {
  std::string name;
  Tensor tensor;
  ShardSpec shard;

  // The whole tensor.
  Entry(std::string name_, Tensor tensor_)
      : name(std::move(name_)),
        tensor(std::move(tensor_)),
        shard(ShardSpec::whole(tensor.shape())) {}
  Entry(std::string name_, Tensor tensor_, ShardSpec shard_)
      : name(std::move(name_)), tensor(std::move(tensor_)), shard(std::move(shard_)) {}

  // Whether the tensor's shape suits the part: it has as many elements and, if the part is a box,
  // either the shape of the box or one dimension.
  bool fits() const {
    const bool shaped =
        !shard.is_box() || tensor.shape().size() == 1 || tensor.shape() == shard.shape();
    return shaped && tensor.numel() == shard.length();
  }
};

// A rank that writes more bytes than this writes two files. One thread computes the SHA-256 of both
// at once.
constexpr int64_t kTwoFilesAbove = 32 << 20;

struct SaveRequest {
  std::string dir = {};  // the folder of checkpoints; created if missing
  int64_t step = 0;
  std::vector<Entry> entries = {};  // this rank's. A part that several ranks hold is written once
  std::map<std::string, std::string> metadata = {};  // rank 0's metadata counts
  int64_t keep = 0;                     // number of newest to keep, the new one included; 0: all
  comm::ProcessGroup* group = nullptr;  // null: a single rank
  FileSystem* files = nullptr;          // null: the real file system
  // Not empty: nothing is committed once the folder has lost this claim (checkpoint/save/claim.h).
  std::string claim = {};
  int64_t two_files_above = kTwoFilesAbove;  // rank 0's value counts
};

// Collective over the group. Returns the folder, dir/step-NNNNNNNN, once it is complete and on
// disk; before that, the name does not exist. If anything fails on any rank, every rank throws
// EnvironmentError, or UsageError if the parts do not make up the tensors. The message names rank,
// operation, path and errno. Then nothing new stays, and everything older stays. A checkpoint of
// the same step is replaced.
std::string save(const SaveRequest& request);

// Explains why the file system of a folder lacks room for `needed` bytes: how many are free, needed
// and missing. Empty if there is room, or if it is unknown. For future saves: room.h.
std::string lack_of_room(const std::string& dir, int64_t needed, FileSystem* files = nullptr);

// The cost of a read.
struct ReadReport {
  int64_t bytes = 0;  // read from files: whole chunks, and the headers of their files
  int64_t files = 0;
};

// A committed checkpoint. Immutable: several threads may read from it.
class Checkpoint {
 public:
  // Reads the manifest, verifies it by its checksum file, and checks the sizes of the files.
  // Version 1 has no sums of chunks, so all of its contents are verified at once. Throws
  // EnvironmentError that names file, expected and found if anything is missing, changed or
  // malformed. `files` (null: the real file system) must outlive the checkpoint. Ranks that open it
  // together may share the checks of sizes: each then checks every `ranks`-th file.
  static Checkpoint open(const std::string& folder, FileSystem* files = nullptr, int rank = 0,
                         int ranks = 1);

  const std::string& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }
  int64_t step() const { return manifest_.step; }
  const std::map<std::string, std::string>& metadata() const { return manifest_.metadata; }
  // Throws UsageError that names the key if it is missing.
  const std::string& metadata(const std::string& key) const;
  bool contains(const std::string& name) const { return manifest_.entries.count(name) != 0; }

  // Fills the given parts, however they were sharded when saved, and reads only the chunks that
  // hold them. First checks all names, dtypes and global shapes: UsageError, before any element is
  // written. A value reaches a tensor only after its chunk was verified. Otherwise throws
  // EnvironmentError that names file, tensor, bytes, expected and found; tensors then hold old or
  // verified new values. Tensors that were not asked for stay unread.
  ReadReport read(std::span<const Entry> entries) const;
  // Returns a new tensor on the host with all of `name`.
  Tensor read_whole(const std::string& name) const;
  // Reads every byte of every file. Throws EnvironmentError that names what is wrong with each bad
  // file.
  void verify() const;

 private:
  Checkpoint(std::string folder, Manifest manifest, FileSystem& files)
      : folder_(std::move(folder)), manifest_(std::move(manifest)), files_(&files) {}
  std::string folder_;
  Manifest manifest_;
  FileSystem* files_;
};

enum class Check : uint8_t { manifest, everything };

struct LatestGood {
  std::optional<Checkpoint> checkpoint;
  std::vector<std::string> skipped;  // one line for each newer, unusable one: folder and reason
};
// Returns the newest committed checkpoint that passes the check. A missing folder has none.
LatestGood latest_good(const std::string& dir, Check check = Check::everything);

struct Restored {
  std::optional<Checkpoint> checkpoint;  // nothing if there was none at all
  std::vector<std::string> skipped;      // as in LatestGood
  ReadReport read;                       // of this rank
};
// Collective over the group (null: a single rank). Fills `entries` from the newest checkpoint below
// `dir` that every rank can open and read. Every rank calls `accept` before its first read.
// `accept` may throw to end the search, as tensors that do not fit do: UsageError. Throws
// EnvironmentError if no checkpoint can be used; tensors may then be partly filled.
Restored restore_latest(const std::string& dir, std::span<const Entry> entries,
                        comm::ProcessGroup* group,
                        const std::function<void(const Checkpoint&)>& accept = {},
                        FileSystem* files = nullptr);

struct Listed {
  std::string folder;
  int64_t step = 0;
  int64_t bytes = 0;    // of all files
  std::string problem;  // empty if the checkpoint is good
  // Only with Check::everything: other files in the folder. The manifest does not name them, so
  // they cannot be verified, and nothing reads them. They are not a problem.
  std::vector<std::string> unknown;
};
// Whether a folder of any name is a checkpoint, good or damaged: it has a manifest, or the
// manifest's checksum.
bool is_checkpoint(const std::string& folder);
// Looks at one checkpoint in a folder of any name. `step` comes from the manifest; if that is
// unreadable, from the folder's name; else it is -1.
Listed look_at(const std::string& folder, Check check = Check::manifest);
// Lists all committed checkpoints, the oldest first. Check::manifest reads the manifest and the
// files' sizes, Check::everything the contents, too.
std::vector<Listed> list(const std::string& dir, Check check = Check::manifest);

}  // namespace lockstep::checkpoint
