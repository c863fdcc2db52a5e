// Checkpoints: named tensors, whole or sharded, saved by all ranks of a group into one folder and
// read back by any number of ranks. The format is docs/formats/checkpoint.md; what is promised,
// docs/checkpoint.md.
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

  // Whether the tensor's shape can be the part's: it has as many elements and, where the part is a
  // box, the box's shape or one dimension.
  bool fits() const {
    const bool shaped =
        !shard.is_box() || tensor.shape().size() == 1 || tensor.shape() == shard.shape();
    return shaped && tensor.numel() == shard.length();
  }
};

// A rank that writes more bytes than this writes two files, whose SHA-256 one thread computes at
// once.
constexpr int64_t kTwoFilesAbove = 32 << 20;

struct SaveRequest {
  std::string dir = {};  // the folder of checkpoints; made where it is missing
  int64_t step = 0;
  std::vector<Entry> entries = {};  // this rank's. A part that several ranks hold is written once
  std::map<std::string, std::string> metadata = {};  // rank 0's counts
  int64_t keep = 0;                     // how many of the newest stay, the new one included; 0: all
  comm::ProcessGroup* group = nullptr;  // null: a single rank
  FileSystem* files = nullptr;          // null: the real one
  int64_t two_files_above = kTwoFilesAbove;  // rank 0's counts
};

// Collective over the group. Returns the folder, dir/step-NNNNNNNN, once it is complete and on
// disk: until that moment it does not exist under its name. If anything fails on any rank, every
// rank throws (EnvironmentError, or UsageError where the parts do not make up the tensors) with a
// message that names rank, operation, path and errno; nothing new stays, what was there before
// stays. A checkpoint of the same step is replaced.
std::string save(const SaveRequest& request);

// Why the file system of a folder cannot take so many bytes more: how many are free, needed and
// missing. Empty where it can, or where it does not say what is free. Of saves to come: room.h.
std::string lack_of_room(const std::string& dir, int64_t needed, FileSystem* files = nullptr);

// What a read cost.
struct ReadReport {
  int64_t bytes = 0;  // read from files: whole chunks, and the headers of the files they lie in
  int64_t files = 0;
};

// A committed checkpoint. Immutable; reads may come from several threads.
class Checkpoint {
 public:
  // Reads the manifest, which its sums must prove, and looks at the files' sizes; the contents of
  // version 1, which has no sums of chunks, are verified at once. Throws EnvironmentError naming
  // file, expected and got where anything is missing, changed or malformed. `files` (null: the real
  // file system) must outlive the checkpoint. Ranks that open it together may share out the looking
  // at files: each then looks at every `ranks`-th of them.
  static Checkpoint open(const std::string& folder, FileSystem* files = nullptr, int rank = 0,
                         int ranks = 1);

  const std::string& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }
  int64_t step() const { return manifest_.step; }
  const std::map<std::string, std::string>& metadata() const { return manifest_.metadata; }
  // UsageError naming the key where it is missing.
  const std::string& metadata(const std::string& key) const;
  bool contains(const std::string& name) const { return manifest_.entries.count(name) != 0; }

  // Fills the given parts, whatever parts were saved, reading only the chunks that hold them.
  // Names, dtypes and global shapes of all are checked before the first element is written:
  // UsageError. A value reaches a tensor only after its chunk was verified: EnvironmentError naming
  // file, tensor, bytes, expected and got; tensors then hold old values, or verified new ones.
  // Tensors of the checkpoint that are not asked for are left alone.
  ReadReport read(std::span<const Entry> entries) const;
  // A new tensor on the host with the whole of `name`.
  Tensor read_whole(const std::string& name) const;
  // Reads every byte of every file. Throws EnvironmentError naming what is wrong with each bad
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
  std::vector<std::string>
      skipped;  // one line for each newer one that cannot be used: folder and reason
};
// The newest committed checkpoint that passes the check. A missing folder holds none.
LatestGood latest_good(const std::string& dir, Check check = Check::everything);

struct Restored {
  std::optional<Checkpoint> checkpoint;  // nothing: there was none at all
  std::vector<std::string> skipped;      // as in LatestGood
  ReadReport read;                       // of this rank
};
// Collective over the group (null: a single rank). Fills `entries` from the newest checkpoint below
// `dir` that every rank can open and read. `accept`, on every rank and before its first read, may
// throw to refuse one for good, as do tensors that do not fit: UsageError. Throws EnvironmentError
// where there are checkpoints but none can be used; tensors may then hold parts of them.
Restored restore_latest(const std::string& dir, std::span<const Entry> entries,
                        comm::ProcessGroup* group,
                        const std::function<void(const Checkpoint&)>& accept = {},
                        FileSystem* files = nullptr);

struct Listed {
  std::string folder;
  int64_t step = 0;
  int64_t bytes = 0;    // of all files
  std::string problem;  // empty: good
  // With Check::everything: what else lies in the folder. Its manifest does not name it, so nothing
  // can be said of its bytes, and nothing reads it: no problem, but not verified either.
  std::vector<std::string> unknown;
};
// Whether a folder is a checkpoint, good or damaged, whatever it is called: it has a manifest, or
// the manifest's checksum.
bool is_checkpoint(const std::string& folder);
// One checkpoint, whatever its folder is called. `step` is what the manifest says; where it cannot
// be read, the folder's name, or else -1.
Listed look_at(const std::string& folder, Check check = Check::manifest);
// All committed checkpoints, oldest first. `manifest` reads the manifest and the files' sizes;
// `everything` their contents too.
std::vector<Listed> list(const std::string& dir, Check check = Check::manifest);

}  // namespace lockstep::checkpoint
