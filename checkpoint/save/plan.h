// Decides who writes what: from the parts that all ranks hold to the files of a checkpoint. Pure:
// every rank computes the same plan.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/format/manifest.h"
#include "checkpoint/format/safetensors.h"
#include "core/base/dtype.h"
#include "core/tensor/shard_spec.h"

namespace lockstep::checkpoint {

// A rank's part of a tensor, without its values.
struct Part {
  std::string name;
  DType dtype = DType::f32;
  ShardSpec shard;
};

// One line for each part, to send to other ranks.
std::string parts_text(const std::vector<Part>& parts);
std::vector<Part> parse_parts(std::string_view text);

// A file of the checkpoint and the rank that writes it. It holds at most one part of each tensor.
struct PlannedFile {
  int64_t rank = 0;
  std::vector<Part> parts = {};
};
// What each rank writes. A part that several ranks hold goes to the one with the fewest bytes so
// far; other parts go to their holder.
struct Plan {
  int64_t ranks = 0;
  int64_t version = 0;  // of the format: the oldest that can describe the parts
  // Sorted by rank. Each rank has one file, or two of about equal size if it writes much: one
  // thread then hashes both at once (sha256_pair.h).
  std::vector<PlannedFile> files = {};

  std::vector<size_t> files_of(int64_t rank) const;  // indices into `files`
  std::vector<Part> parts_of(int64_t rank) const;    // in all files of the rank
};
// A rank that writes more than `two_files_above` bytes gets two files.
// Throws UsageError if ranks differ in a tensor's dtype or shape, or if parts overlap or miss an
// element. The error names the element and the ranks that hold it.
Plan make_plan(const std::vector<std::vector<Part>>& held, int64_t two_files_above);

std::string shard_name(size_t file, size_t files);

// The header of a shard file, and its first bytes.
struct ShardLayout {
  SafetensorsHeader header;
  std::string bytes;
  int64_t file_bytes = 0;
};
ShardLayout lay_out_shard(const Plan& plan, size_t file, int64_t step);

// Estimates the bytes of all files of a checkpoint, headers and manifest included, rather too high.
int64_t planned_bytes(const Plan& plan);

// What a rank tells the others about the files that it wrote: one line for each.
std::string written_text(const std::vector<WrittenFile>& files);
std::vector<WrittenFile> parse_written(std::string_view text);

// Makes the manifest of a plan after its files were written; metadata stays empty. `held` also has
// the tensors without elements.
Manifest make_manifest(const Plan& plan, const std::vector<std::vector<Part>>& held,
                       const std::vector<WrittenFile>& files, int64_t step);

}  // namespace lockstep::checkpoint
