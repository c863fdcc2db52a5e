#include "train/run/checkpoints.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "checkpoint/checkpoint.h"
#include "checkpoint/save/claim.h"
#include "checkpoint/save/save_job.h"
#include "comm/long_agreement.h"
#include "comm/text.h"
#include "core/base/build_info.h"
#include "core/base/log.h"
#include "core/base/number_text.h"
#include "core/device/cuda_device.h"
#include "launcher/rank/rank_env.h"
#include "train/run/saved_model.h"

namespace lockstep::train {
namespace {

constexpr auto kStartLimit = std::chrono::seconds(30);  // the launcher set it before any rank began

namespace fs = std::filesystem;

// Returns the folder of checkpoints that a path means, or "" if the path is itself a checkpoint.
std::string folder_of_checkpoints(const std::string& path) {
  check(fs::is_directory(path), "no such folder: ", path,
        "; expected a checkpoint, or the folder of a run");
  if (checkpoint::is_checkpoint(path)) return {};
  return fs::is_directory(path + "/checkpoints") ? path + "/checkpoints" : path;
}

std::string none_in(const std::string& path) {
  return str("no checkpoint in ", path,
             "; expected a checkpoint, or the folder of a run that saved one");
}

// "KEY = NEW instead of OLD, …" for changed keys that influence the trained bits.
std::string changed_settings(Config saved, Config now) {
  // A run saves what `auto` was resolved to. A config without the key is from a CPU run.
  if (saved.device == DeviceKind::automatic) saved.device = DeviceKind::cpu;
  // With a constant rate, the steps equal those of a longer run, so the number of steps does not
  // matter.
  const auto constant = [](const Config& config) {
    return config.optim.schedule.kind == ScheduleKind::constant;
  };
  if (constant(saved) && constant(now)) now.train.steps = saved.train.steps;
  std::string text;
  for (const auto& [key, before, after] :
       differences(canonical_text(saved, KeyScope::result), canonical_text(now, KeyScope::result)))
    text += str(text.empty() ? "" : ", ", key, " = ", after, " instead of ", before);
  return text;
}

// Whether the checkpoint was imported and never trained. It fits any data and settings.
bool is_untrained(const checkpoint::Checkpoint& saved) { return saved.step() == 0; }

std::string value_or_none(const checkpoint::Checkpoint& saved, const std::string& key) {
  const auto found = saved.metadata().find(key);
  return found == saved.metadata().end() ? "" : found->second;
}

// Collective. May read the whole data.
void compare_data(Trainer& trainer, const checkpoint::Checkpoint& saved) {
  if (is_untrained(saved)) return;
  const NotedData noted{.identity = saved.metadata("data"),
                        .stamp = value_or_none(saved, "data_stamp"),
                        .unread = value_or_none(saved, "data_unread") == "true"};
  const DataComparison data = trainer.data_identity().compare(noted);
  check(data.same != SameData::no, "[resume] ", saved.folder(), " was trained on other data (",
        noted.identity, ", now ", data.now, "); give data.path the same file, or start a new run");
  if (data.same == SameData::by_samples && trainer.group().rank() == 0)
    log::warn("[resume] ", saved.folder(),
              " was saved before all of its data was read, and files of data.path were replaced "
              "or written since: only samples were compared");
}

void compare_with_saved(Trainer& trainer, const checkpoint::Checkpoint& saved) {
  const auto& entries = saved.manifest().entries;
  std::set<std::string> names;
  for (const Parameter& p : trainer.model().module->parameters()) names.insert(p.name());
  for (const auto& [name, values] : trainer.model().module->buffers()) {
    names.insert(name);
    check(entries.contains(name), "[resume] ", saved.folder(), " holds no buffer '", name,
          "', which this model has: resume with the model that was trained, or start a new run");
  }
  for (const auto& [name, entry] : entries)
    check(name.starts_with("optim.") || names.contains(name), "[resume] ", saved.folder(),
          " holds '", name, "', which this model lacks: resume with the model that was trained (`",
          saved.folder(), "/manifest.json` has its config)");
  if (is_untrained(saved)) return;
  check(trainer.config().train.precision == Precision::fp16 ||
            !entries.contains("optim.gradient_scale"),
        "[resume] ", saved.folder(),
        " was trained in fp16, whose optimizer left steps out: resume with train.precision fp16");
  const std::string changed = changed_settings(saved_config(saved), trainer.config());
  if (!changed.empty() && trainer.group().rank() == 0)
    log::warn("resuming with ", changed,
              ": the final bits will differ from those of an uninterrupted run");
}

// Refuses a folder with newer checkpoints than the one resumed from: a later `--resume auto` would
// continue from those.
void check_newest(const std::string& dir, int64_t step) {
  for (const checkpoint::Listed& later : checkpoint::list(dir))
    check(
        later.step <= step || !later.problem.empty(), "'", later.folder, "' is later than step ",
        step,
        ", from which to resume: choose another run.name to branch off, or remove all later ones");
}

bool same_folder(const std::string& a, const std::string& b) {
  std::error_code error;
  return fs::equivalent(a, b, error);
}

}  // namespace

std::vector<checkpoint::Entry> entries_of(const Trainer& trainer) {
  std::vector<checkpoint::Entry> entries;
  for (const auto& [name, values, shard] : trainer.state())
    entries.emplace_back(name, values, shard);
  return entries;
}

Checkpoints::Checkpoints(Trainer& trainer, std::string dir, Now now)
    : trainer_(trainer), dir_(std::move(dir)), now_(std::move(now)) {
  const CheckpointConfig& config = trainer.config().checkpoint;
  size_ = checkpoint::size_of_save(entries_of(trainer), &trainer.group());
  claim_ = comm::agree(&trainer.group(), [&] { return claim(); })[0];
  if (!config.async) {
    // Removes half-written checkpoints, as a Saver does: they waste disk space.
    if (trainer.group().rank() == 0)
      checkpoint::remove_half_written(checkpoint::posix_file_system(), dir_);
    return;
  }
  saver_ = std::make_unique<checkpoint::Saver>(checkpoint::SaverOptions{
      .dir = dir_, .keep = config.keep, .group = &trainer.group(), .claim = claim_});
  saver_->prepare(entries_of(trainer));
}

Checkpoints::~Checkpoints() = default;

// On rank 0 of ranks that our agent may start more than once.
std::string Checkpoints::claim() const {
  if (trainer_.group().rank() != 0 || !launcher::has_agent()) return {};
  // The same command may have been run before, and its epochs are none of this start.
  const std::string start = launcher::connect_job_store()->get(launcher::kStartKey, kStartLimit);
  return checkpoint::claim_folder(checkpoint::posix_file_system(), dir_,
                                  str(launcher::run_id(), " ", start), launcher::agent_env().epoch);
}

std::map<std::string, std::string> Checkpoints::metadata() {
  const Config& config = trainer_.config();
  // A save never waits for the data to be read, because a stop may have only seconds. Until they
  // are read, it stores the identity by samples, which also allows a resume.
  DataIdentity& identity = trainer_.data_identity();
  if (identity.read_within(Duration::zero())) identity.text();
  const NotedData data = identity.noted();
  const int64_t step = trainer_.steps_done();
  const char* epoch = std::getenv("LOCKSTEP_EPOCH");
  std::map<std::string, std::string> all = {
      {"config", to_yaml(config)},
      {"settings", canonical_text(config, KeyScope::result)},
      {"config_digest", config_digest(config)},
      {"data", data.identity},
      {"data_position", str(step * config.train.global_batch, " samples")},
      {"random_state", str("philox, seed ", config.run.seed, ", step ", step)},
      {"seed", std::to_string(config.run.seed)},
      {"devices", trainer_.devices().text()},
      {"cuda", build_info::kCuda},
      {"world_size", std::to_string(trainer_.group().size())},
      {"epoch", epoch ? epoch : "0"}};
  if (const std::vector<std::string> choices = cuda::choices(); !choices.empty()) {
    std::string& lines = all["algorithms"];
    for (const std::string& choice : choices) lines += choice + "\n";
  }
  if (!data.stamp.empty()) all["data_stamp"] = data.stamp;
  if (data.unread) all["data_unread"] = "true";
  return all;
}

std::string Checkpoints::save_last(bool keep_all) {
  wait();
  return write(metadata(), keep_all ? 0 : trainer_.config().checkpoint.keep);
}

std::string Checkpoints::write(std::map<std::string, std::string> metadata, int64_t keep) {
  return checkpoint::save({.dir = dir_,
                           .step = trainer_.steps_done(),
                           .entries = entries_of(trainer_),
                           .metadata = std::move(metadata),
                           .keep = keep,
                           .group = &trainer_.group(),
                           .claim = claim_});
}

std::string Checkpoints::lack_of_file_size() {
  comm::ProcessGroup& group = trainer_.group();
  const auto texts = comm::agree(&group, [&] {
    return checkpoint::lack_of_file_size(size_.largest[static_cast<size_t>(group.rank())]);
  });
  const auto lacks = std::find_if(texts.begin(), texts.end(),
                                  [](const std::string& text) { return !text.empty(); });
  if (lacks == texts.end() || group.rank() != 0) return {};
  return str("rank ", lacks - texts.begin(), ": ", *lacks);
}

checkpoint::Lack Checkpoints::lack_of_room(int64_t saves) const {
  return checkpoint::lack_of_room(
      dir_, trainer_.steps_done(),
      {.bytes = size_.bytes, .saves = saves, .keep = trainer_.config().checkpoint.keep});
}

void Checkpoints::save() {
  if (saver_) {
    saver_->start(trainer_.steps_done(), entries_of(trainer_), metadata());
    return;
  }
  checkpoint::SaveOutcome outcome{.step = trainer_.steps_done(), .folder = {}, .error = {}};
  try {
    auto about = metadata();
    const auto begin = now_();
    outcome.folder = write(std::move(about), trainer_.config().checkpoint.keep);
    outcome.duration = now_() - begin;
  } catch (const EnvironmentError& e) {
    outcome.error = e.what();
  }
  ended_.push_back(std::move(outcome));
}

void Checkpoints::wait() {
  if (!saver_) return;
  for (auto outcome = saver_->wait(); outcome; outcome = saver_->poll())
    ended_.push_back(std::move(*outcome));
}

std::vector<checkpoint::SaveOutcome> Checkpoints::ended() {
  if (saver_)
    for (auto outcome = saver_->poll(); outcome; outcome = saver_->poll())
      ended_.push_back(std::move(*outcome));
  return std::exchange(ended_, {});
}

std::string find_checkpoint(const std::string& path) {
  const std::string below = folder_of_checkpoints(path);
  if (below.empty()) return path;
  const checkpoint::LatestGood latest = checkpoint::latest_good(below);
  for (const std::string& reason : latest.skipped)
    log::warn("skipped a damaged checkpoint: ", reason);
  check(latest.checkpoint.has_value() || !latest.skipped.empty(), none_in(path));
  if (!latest.checkpoint)
    throw EnvironmentError(
        str("none of the ", count_text(static_cast<long long>(latest.skipped.size()), "checkpoint"),
            " in ", path, " can be used"));
  return latest.checkpoint->folder();
}

void check_resume(const std::string& from) {
  if (from != "auto") folder_of_checkpoints(from);
}

Resumed resume(Trainer& trainer, const std::string& from, const std::string& dir) {
  const auto entries = entries_of(trainer);
  const auto accept = [&](const checkpoint::Checkpoint& saved) {
    compare_with_saved(trainer, saved);
  };
  // Only rank 0 looks, so all ranks choose the same checkpoint.
  const std::string below = comm::agree(&trainer.group(), [&] {
    if (trainer.group().rank() != 0) return std::string();
    return from == "auto" ? dir : folder_of_checkpoints(from);
  })[0];
  std::optional<checkpoint::Checkpoint> saved;
  if (below.empty()) {  // this checkpoint and no other
    comm::agree_on_long_work(&trainer.group(), [&](const std::atomic<bool>&) {
      saved = checkpoint::Checkpoint::open(from);
      accept(*saved);
      saved->read(entries);
      return std::string();
    });
  } else {
    auto restored = checkpoint::restore_latest(below, entries, &trainer.group(), accept);
    if (trainer.group().rank() == 0)
      for (const std::string& reason : restored.skipped)
        log::warn("skipped a damaged checkpoint: ", reason);
    check(restored.checkpoint.has_value() || from == "auto", none_in(from));
    saved = std::move(restored.checkpoint);
  }
  Resumed resumed;
  if (saved) {
    compare_data(trainer, *saved);
    resumed = {.folder = below.empty() ? from : saved->folder(),
               .step = saved->step(),
               .folder_step = saved->step()};
  }
  if (!same_folder(below, dir)) check_newest(dir, resumed.step);
  if (!resumed.folder.empty()) trainer.set_steps_done(resumed.step);
  return resumed;
}

}  // namespace lockstep::train
