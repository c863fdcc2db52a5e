// Saves: plan, write to a temporary folder, agree, commit by rename.
#include <algorithm>
#include <random>
#include <set>
#include <unordered_map>

#include "checkpoint/format/digest.h"
#include "checkpoint/format/strict_json.h"
#include "checkpoint/save/claim.h"
#include "checkpoint/save/save_job.h"
#include "comm/long_agreement.h"
#include "comm/peer_failure.h"
#include "comm/text.h"
#include "core/base/byte_text.h"
#include "core/base/log.h"
#include "core/base/mutex.h"
#include "core/trace/trace.h"

namespace lockstep::checkpoint {
namespace {

constexpr trace::Kind kSave{"phase", "save a checkpoint", {{{"step"}}}};

constexpr const char* kAside = ".tmp-";
constexpr const char* kTaken = ".old";  // marks a folder that its writer must not find any more

// Warns once for each path that cannot be removed, because every save tries it again.
void warn_once(const std::string& path, const std::string& message) {
  struct Said {
    Mutex mutex;
    std::set<std::string> paths LOCKSTEP_GUARDED_BY(mutex);
  };
  static Said said;
  const MutexLock lock(said.mutex);
  if (said.paths.insert(path).second) log::warn(message);
}

// Removes a folder that nobody needs. A failure wastes disk space but fails no save: it is logged
// once, and the next save tries again.
void remove_or_warn(FileSystem& files, const std::string& path) noexcept {
  try {
    files.remove_all(path);
  } catch (const std::exception& e) {
    warn_once(path,
              str("[checkpoint] '", path,
                  "' is not needed any more and could not be removed; later saves try again: ",
                  e.what()));
  }
}

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

void write_text(FileSystem& files, const std::string& path, const std::string& text) {
  const auto file = files.create(path);
  file->write(text.data(), text.size());
  file->sync();
}

class Save {
 public:
  explicit Save(const SaveJob& job)
      : job_(job),
        files_(job.files ? *job.files : posix_file_system()),
        rank_(job.group ? job.group->rank() : 0),
        final_(job.dir + "/" + step_folder(job.step)) {}

  std::string run() {
    try {
      aside_ = comm::agree(job_.group, [&] { return prepare(); })[0];
      const auto written = write();
      agree_on_long_work(job_.group, [&](const std::atomic<bool>&) {
        return rank_ == 0 ? commit(written) : std::string();
      });
    } catch (const std::exception&) {
      give_up();
      throw;
    }
    if (rank_ == 0) tidy_up();
    return final_;
  }

 private:
  // Rank 0 checks the free space and creates the folder.
  std::string prepare() {
    check(job_.step >= 0, "[checkpoint] step must not be negative, got ", job_.step);
    check(step_of_folder(step_folder(job_.step)) == job_.step, "[checkpoint] step ", job_.step,
          " has more digits than a folder's name holds");
    check(job_.problem.empty(), job_.problem);
    if (rank_ != 0) return {};
    for (const auto& [key, value] : job_.metadata)
      for (const std::string& text : {key, value})
        check(find_no_utf8(text) == std::string::npos, "[checkpoint] metadata ", shown(key),
              " is not UTF-8, which a manifest needs; text_of_bytes() of core/base/byte_text.h "
              "makes UTF-8 of any bytes");
    require_claim(files_, job_.dir, job_.claim);  // what lies half-written may be a later epoch's
    files_.make_directories(job_.dir);
    remove_half_written(files_, job_.dir);
    if (const std::string lack = lack_of_room(job_.dir, planned_bytes(job_.plan->plan), &files_);
        !lack.empty())
      throw EnvironmentError(lack +
                             ": free some space by hand. A save removes older checkpoints only "
                             "when it has succeeded: to keep N takes room for N + 1");
    aside_ = final_ + kAside + unique_suffix();
    files_.make_directory(aside_);
    return aside_;
  }

  // Writes this rank's files. Returns what all ranks wrote, in the plan's order.
  std::vector<WrittenFile> write() {
    const auto texts = agree_on_long_work(job_.group, [&](const std::atomic<bool>& stop) {
      return written_text(write_safetensors(
          files_, planned_files(*job_.plan, rank_, job_.step, aside_, job_.tensors), &stop));
    });
    std::vector<WrittenFile> written;
    for (const auto& text : texts)
      for (WrittenFile& file : parse_written(text)) written.push_back(std::move(file));
    return written;
  }

  // Rank 0 writes the manifest and then commits all files with a rename.
  std::string commit(const std::vector<WrittenFile>& written) {
    Manifest manifest = make_manifest(job_.plan->plan, job_.plan->held, written, job_.step);
    manifest.metadata = job_.metadata;
    const std::string text = to_json(manifest);
    write_text(files_, aside_ + "/" + Manifest::kFileName, text);
    write_text(files_, aside_ + "/" + Manifest::kSumsName, sums_text(manifest, sha256_hex(text)));
    files_.sync_directory(aside_);
    // Whoever claims the folder after this line renames `aside_`.
    require_claim(files_, job_.dir, job_.claim);
    files_.rename_directory(aside_, final_);
    try {
      files_.sync_directory(job_.dir);
    } catch (const std::exception&) {
      // The new name could vanish in a power cut, so the save must not count. Undo the rename,
      // which also brings back a checkpoint that had this name before.
      files_.rename_directory(final_, aside_);
      throw;
    }
    return {};
  }

  // Rank 0 removes the unfinished folder. The other ranks have finished writing: all have answered.
  void give_up() noexcept {
    if (rank_ == 0 && !aside_.empty()) remove_or_warn(files_, aside_);
  }

  // Nothing may fail after the commit. What cannot be removed now is tried again by the next
  // save.
  void tidy_up() noexcept {
    remove_or_warn(files_, aside_);  // a replaced checkpoint of the same step
    if (job_.keep <= 0) return;
    try {
      require_claim(files_, job_.dir, job_.claim);
      std::vector<int64_t> older;
      for (const auto& name : files_.list(job_.dir)) {
        const int64_t step = step_of_folder(name);
        // Leave later steps alone. The run restarted from before them, and this save must not
        // delete them.
        if (step >= 0 && step < job_.step) older.push_back(step);
      }
      std::sort(older.rbegin(), older.rend());
      for (size_t i = static_cast<size_t>(job_.keep) - 1; i < older.size(); ++i)
        remove_checkpoint(job_.dir + "/" + step_folder(older[i]));
    } catch (const std::exception& e) {
      warn_once(job_.dir, str("[checkpoint] old checkpoints could not be listed: ", e.what()));
    }
  }

  // Renames the checkpoint first: a half-removed folder must not look like a checkpoint.
  void remove_checkpoint(const std::string& folder) noexcept {
    const std::string doomed = folder + kAside + unique_suffix() + kTaken;
    try {
      files_.rename_directory(folder, doomed);
    } catch (const std::exception& e) {
      return warn_once(folder, str("[checkpoint] the old checkpoint '", folder,
                                   "' could not be removed; later saves try again: ", e.what()));
    }
    remove_or_warn(files_, doomed);
  }

  const SaveJob& job_;
  FileSystem& files_;
  int64_t rank_;
  std::string final_;
  std::string aside_;  // the temporary folder, until the save is complete
};

// Runs `body`. Adds the step to the message of whatever it throws, and keeps the error's type.
template <typename Body>
auto naming_step(int64_t step, const Body& body) {
  try {
    return body();
  } catch (const std::exception& e) {
    std::rethrow_exception(
        comm::reworded(e, str("[checkpoint] step ", step, " was not saved: ", e.what())));
  }
}

}  // namespace

std::vector<Part> parts_of(const std::vector<Entry>& entries) {
  std::vector<Part> parts;
  for (const Entry& entry : entries) {
    const ShardSpec& shard = entry.shard;
    check(entry.tensor.defined(), "[checkpoint] '", entry.name, "' has no tensor");
    check(find_no_utf8(entry.name) == std::string::npos, "[checkpoint] ", shown(entry.name),
          " cannot be the name of a tensor: it is not UTF-8, which a manifest needs");
    check(entry.fits(), "[checkpoint] '", entry.name, "': a tensor of shape ", entry.tensor.shape(),
          " cannot be ", shard, "; expected ", shard.shape());
    parts.push_back({entry.name, entry.tensor.dtype(), shard});
  }
  return parts;
}

SavePlan plan_save(comm::ProcessGroup* group, const std::vector<Entry>& entries,
                   int64_t two_files_above) {
  SavePlan plan;
  const auto texts =
      comm::agree(group, [&] { return str(two_files_above, '\n', parts_text(parts_of(entries))); });
  for (const std::string& text : texts)
    plan.held.push_back(parse_parts(std::string_view(text).substr(text.find('\n') + 1)));
  plan.plan = make_plan(plan.held, std::stoll(texts[0]));
  return plan;
}

std::vector<Tensor> planned_tensors(const SavePlan& plan, int64_t rank,
                                    const std::vector<Entry>& entries) {
  std::unordered_map<std::string_view, const Entry*> by_name;
  for (const Entry& entry : entries) by_name[entry.name] = &entry;
  std::vector<Tensor> tensors;
  for (const size_t file : plan.plan.files_of(rank)) {
    std::unordered_map<std::string_view, const Part*> parts;
    for (const Part& part : plan.plan.files[file].parts) parts[part.name] = &part;
    const ShardLayout layout = lay_out_shard(plan.plan, file, 0);
    for (const SafetensorsInfo info : layout.header.tensors) {
      const Entry& entry = *by_name.at(info.name);
      const ShardSpec& shard = parts.at(info.name)->shard;
      tensors.push_back(
          entry.tensor.flatten().narrow(0, entry.shard.position(shard.offset()), shard.length()));
    }
  }
  return tensors;
}

std::vector<FileToWrite> planned_files(const SavePlan& plan, int64_t rank, int64_t step,
                                       const std::string& folder,
                                       const std::vector<Tensor>& tensors) {
  std::vector<FileToWrite> files;
  auto tensor = tensors.begin();
  for (const size_t file : plan.plan.files_of(rank)) {
    ShardLayout layout = lay_out_shard(plan.plan, file, step);
    const auto end = tensor + static_cast<std::ptrdiff_t>(layout.header.tensors.size());
    files.push_back({folder + "/" + shard_name(file, plan.plan.files.size()),
                     std::move(layout.bytes),
                     {tensor, end}});
    tensor = end;
  }
  return files;
}

std::string write_checkpoint(const SaveJob& job) {
  const trace::Span span(kSave, [&] { return trace::About{.values = {job.step}}; });
  return naming_step(job.step, [&] { return Save(job).run(); });
}

void remove_half_written(FileSystem& files, const std::string& dir) {
  for (const auto& name : files.list(dir)) {
    if (!is_half_written(name)) continue;
    std::string path = dir + "/" + name;
    if (!name.ends_with(kTaken)) {
      // Rename it first: a stale process that still writes here must not be able to commit the
      // rest.
      try {
        files.rename_directory(path, path + kTaken);
        path += kTaken;
      } catch (const std::exception&) {  // if the removal fails, too, it reports why
      }
    }
    remove_or_warn(files, path);
  }
}

void finish_copies(DeviceCopies& copies, SaveJob& job) {
  try {
    copies.wait();
  } catch (const std::exception& e) {
    if (job.problem.empty()) job.problem = e.what();
  }
}

std::string save(const SaveRequest& request) {
  const SavePlan plan = naming_step(request.step, [&] {
    return plan_save(request.group, request.entries, request.two_files_above);
  });
  SaveJob job{.dir = request.dir,
              .step = request.step,
              .keep = request.keep,
              .metadata = request.metadata,
              .group = request.group,
              .files = request.files,
              .claim = request.claim,
              .plan = &plan};
  DeviceCopies copies;
  try {
    for (const Tensor& tensor :
         planned_tensors(plan, request.group ? request.group->rank() : 0, request.entries)) {
      if (tensor.device() == kCpu) {
        job.tensors.push_back(tensor);
        continue;
      }
      job.tensors.push_back(host_memory_like(tensor));
      copies.start(job.tensors.back(), tensor);
    }
  } catch (const std::exception& e) {
    job.problem = e.what();
  }
  finish_copies(copies, job);
  return write_checkpoint(job);
}

}  // namespace lockstep::checkpoint
