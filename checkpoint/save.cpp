// Saving: plan, write aside, agree, commit by rename.
#include <algorithm>
#include <random>
#include <unordered_map>

#include "checkpoint/checkpoint.h"
#include "checkpoint/digest.h"
#include "checkpoint/plan.h"
#include "comm/text.h"
#include "core/base/log.h"

namespace lockstep::checkpoint {
namespace {

constexpr const char* kAside = ".tmp-";

bool is_half_written(const std::string& name) {
  const size_t at = name.find(kAside);
  return at != std::string::npos && step_of_folder(name.substr(0, at)) >= 0;
}

std::string unique_suffix() {
  std::random_device random;
  char text[20];
  std::snprintf(text, sizeof text, "%08x%08x", random(), random());
  return text;
}

std::vector<Part> parts_of(const std::vector<Entry>& entries) {
  std::vector<Part> parts;
  for (const Entry& entry : entries) {
    const ShardSpec& shard = entry.shard;
    check(entry.tensor.defined(), "[checkpoint] '", entry.name, "' has no tensor");
    check(entry.tensor.numel() == shard.length && shard.offset >= 0 && shard.offset + shard.length <= shard.global_shape.numel(),
          "[checkpoint] '", entry.name, "': a tensor of ", entry.tensor.numel(), " elements cannot be elements ", shard.offset, " to ",
          shard.offset + shard.length, " of ", shard.global_shape);
    parts.push_back({entry.name, entry.tensor.dtype(), shard});
  }
  return parts;
}

// The tensors that a shard file holds, on the host, in the file's order. A copy only where a tensor is elsewhere or not contiguous.
std::vector<Tensor> host_tensors(const std::vector<Entry>& entries, const SafetensorsHeader& header) {
  std::unordered_map<std::string, const Tensor*> by_name;
  for (const Entry& entry : entries)
    if (entry.shard.length > 0) by_name[entry.name] = &entry.tensor;
  std::vector<Tensor> tensors;
  for (const auto& info : header.tensors) tensors.push_back(by_name.at(info.name)->contiguous().to(kCpu));
  return tensors;
}

void write_text(FileSystem& files, const std::string& path, const std::string& text) {
  const auto file = files.create(path);
  file->write(text.data(), text.size());
  file->sync();
}

class Save {
 public:
  explicit Save(const SaveRequest& request)
      : request_(request),
        files_(request.files ? *request.files : posix_file_system()),
        rank_(request.group ? request.group->rank() : 0),
        final_(request.dir + "/" + step_folder(request.step)) {}

  std::string run() {
    try {
      prepare();
      const auto written = write();
      comm::agree(request_.group, [&] { return rank_ == 0 ? commit(written) : std::string(); });
    } catch (const std::exception& e) {
      give_up();
      const std::string text = str("[checkpoint] step ", request_.step, " was not saved: ", e.what());
      if (dynamic_cast<const UsageError*>(&e)) throw UsageError(text);
      throw EnvironmentError(text);
    }
    if (rank_ == 0) tidy_up();
    return final_;
  }

 private:
  // All ranks learn what every rank holds and where to write.
  void prepare() {
    const auto texts = comm::agree(request_.group, [&] {
      check(request_.step >= 0, "[checkpoint] step must not be negative, got ", request_.step);
      const std::string parts = parts_text(parts_of(request_.entries));
      return (rank_ == 0 ? make_aside() : std::string()) + "\n" + parts;
    });
    aside_ = texts[0].substr(0, texts[0].find('\n'));
    for (const auto& text : texts) held_.push_back(parse_parts(std::string_view(text).substr(text.find('\n') + 1)));
    plan_ = make_plan(held_);
  }

  std::string make_aside() {
    files_.make_directories(request_.dir);
    for (const auto& name : files_.list(request_.dir))
      if (is_half_written(name)) files_.remove_all(request_.dir + "/" + name);
    aside_ = final_ + kAside + unique_suffix();
    files_.make_directory(aside_);
    return aside_;
  }

  // This rank's shard; returns what all ranks wrote.
  std::vector<WrittenFile> write() {
    const auto texts = comm::agree(request_.group, [&] {
      const ShardLayout layout = lay_out_shard(plan_, rank_, request_.step);
      const std::string path = aside_ + "/" + shard_name(rank_, static_cast<int64_t>(plan_.by_rank.size()));
      const WrittenFile file = write_safetensors(files_, path, layout.bytes, host_tensors(request_.entries, layout.header));
      return written_text(file);
    });
    std::vector<WrittenFile> written;
    for (const auto& text : texts) written.push_back(parse_written(text));
    return written;
  }

  // Rank 0: the manifest, then the rename that makes it all real.
  std::string commit(const std::vector<WrittenFile>& written) {
    Manifest manifest = make_manifest(plan_, held_, written, request_.step);
    manifest.metadata = request_.metadata;
    const std::string text = to_json(manifest);
    write_text(files_, aside_ + "/" + Manifest::kFileName, text);
    write_text(files_, aside_ + "/" + Manifest::kSumsName, sums_text(manifest, sha256_hex(text)));
    files_.sync_directory(aside_);
    files_.rename_directory(aside_, final_);
    try {
      files_.sync_directory(request_.dir);
    } catch (const std::exception&) {
      // It could vanish with a power cut, so it must not count; whatever had its name before comes back.
      files_.rename_directory(final_, aside_);
      throw;
    }
    return {};
  }

  // Rank 0 removes what was begun. The others are past their writes: agree() has heard from all.
  void give_up() noexcept {
    if (rank_ != 0 || aside_.empty()) return;
    try {
      files_.remove_all(aside_);
    } catch (const std::exception& e) {
      log::warn("[checkpoint] a half-written folder is left, which the next save removes: ", e.what());
    }
  }

  // After the commit nothing may fail any more: what cannot be removed now is tried again next time.
  void tidy_up() noexcept {
    try {
      files_.remove_all(aside_);  // a replaced checkpoint of the same step
      if (request_.keep <= 0) return;
      std::vector<int64_t> older;
      for (const auto& name : files_.list(request_.dir)) {
        const int64_t step = step_of_folder(name);
        // Later steps are left alone: the run was taken up again from before them, and this one must not be their victim.
        if (step >= 0 && step < request_.step) older.push_back(step);
      }
      std::sort(older.rbegin(), older.rend());
      for (size_t i = static_cast<size_t>(request_.keep) - 1; i < older.size(); ++i)
        remove_checkpoint(request_.dir + "/" + step_folder(older[i]));
    } catch (const std::exception& e) {
      log::warn("[checkpoint] old checkpoints could not be removed: ", e.what());
    }
  }

  // Takes its name away first: a checkpoint that is half removed must not look like one.
  void remove_checkpoint(const std::string& folder) {
    const std::string doomed = folder + kAside + unique_suffix();
    files_.rename_directory(folder, doomed);
    files_.remove_all(doomed);
  }

  const SaveRequest& request_;
  FileSystem& files_;
  int64_t rank_;
  std::string final_;
  std::string aside_;  // where it is written until it is complete
  std::vector<std::vector<Part>> held_;
  Plan plan_;
};

}  // namespace

std::string save(const SaveRequest& request) { return Save(request).run(); }

}  // namespace lockstep::checkpoint
