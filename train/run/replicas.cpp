#include "train/run/replicas.h"

#include <filesystem>

#include "comm/text.h"
#include "core/base/log.h"

namespace lockstep::train {
namespace {

std::string identity_of(const Trainer& trainer, const std::string& run) {
  return str(std::filesystem::absolute(run).lexically_normal().string(), "\n",
             trainer.data().sampled_identity(), "\n", config_digest(trainer.config()));
}

checkpoint::ReplicaOptions options_for(Trainer& trainer, const std::string& run,
                                       const KeptMemory& kept) {
  std::vector<int> node_of;
  for (const std::string& node :
       comm::agree(&trainer.group(), [&] { return std::to_string(kept.node); }))
    node_of.push_back(std::stoi(node));
  const checkpoint::BuddyDistance buddies = checkpoint::buddy_distance(node_of);
  if (buddies.distance > 0 && !buddies.covers_nodes && trainer.group().rank() == 0)
    log::warn(
        "the nodes have different numbers of ranks: the replicas of some ranks are on their own "
        "node, and may be lost with it");
  return {.distance = buddies.distance, .identity = identity_of(trainer, run), .file = kept.file};
}

struct OnDisk {
  std::string folder;
  int64_t step = -1;
};
// Returns the newest checkpoint with a good manifest that rank 0 sees.
OnDisk newest_on_disk(comm::ProcessGroup& group, const std::string& dir) {
  const std::string text = comm::agree(&group, [&] {
    if (group.rank() != 0) return std::string();
    OnDisk newest;
    for (const checkpoint::Listed& listed : checkpoint::list(dir))
      if (listed.problem.empty() && listed.step >= newest.step)
        newest = {listed.folder, listed.step};
    return str(newest.step, " ", newest.folder);
  })[0];
  const size_t space = text.find(' ');
  return {.folder = text.substr(space + 1), .step = std::stoll(text.substr(0, space))};
}

Resumed from_memory(Trainer& trainer, Replicas& replicas, const OnDisk& disk) {
  const checkpoint::ReplicaRestored restored = replicas.restore();
  trainer.set_steps_done(restored.step);
  return {.folder = disk.folder,
          .step = restored.step,
          .from_memory = true,
          .folder_step = disk.step,
          .from_others = restored.from_others};
}

}  // namespace

void check_replicas(const Config& config, bool has_kept_memory) {
  check(config.checkpoint.replica_every == 0 || has_kept_memory,
        "checkpoint.replica_every needs memory that outlives the ranks, which our launcher keeps "
        "for ranks that it may start again: use "
        "`lockstep train -n RANKS --max-restarts N` or `lockstep run --max-restarts N -- lockstep "
        "train … --resume auto`, or set the key "
        "to 0");
}

Replicas::Replicas(Trainer& trainer, const std::string& run, const KeptMemory& kept)
    : trainer_(trainer) {
  const checkpoint::ReplicaOptions options = options_for(trainer, run, kept);
  comm::agree(&trainer.group(), [&] {
    store_ = std::make_unique<checkpoint::ReplicaStore>(options);
    return std::string();
  });
  store_->prepare(entries_of(trainer), trainer.group());
}

Replicas::~Replicas() = default;

Duration Replicas::store() {
  const auto begin = Clock::now();
  store_->start(trainer_.steps_done(), entries_of(trainer_));
  return Clock::now() - begin;
}

std::vector<std::string> Replicas::ended() {
  std::vector<std::string> problems;
  for (auto outcome = store_->poll(); outcome; outcome = store_->poll())
    if (!outcome->error.empty()) problems.push_back(outcome->error);
  return problems;
}

checkpoint::ReplicaRestored Replicas::restore() { return store_->restore(entries_of(trainer_)); }

Resumed resume_newest(Trainer& trainer, Replicas* replicas, const ResumeRequest& request) {
  const bool own = request.restarted || request.from == "auto";
  const OnDisk disk = own ? newest_on_disk(trainer.group(), request.dir) : OnDisk{};
  checkpoint::ReplicasFound found;
  if (replicas && own) {
    found = replicas->find();
    if (trainer.group().rank() == 0) {
      for (const std::string& note : found.notes) log::warn("replicas in memory: ", note);
      if (request.restarted && found.step < 0)
        log::warn("no replicas in memory to resume from: ", found.why_none);
    }
  }
  if (found.step >= 0 && found.step >= disk.step) return from_memory(trainer, *replicas, disk);

  const std::string from = disk.step >= 0 || request.from.empty() ? "auto" : request.from;
  Resumed resumed;
  try {
    if (disk.step >= 0 || !request.from.empty()) resumed = resume(trainer, from, request.dir);
  } catch (const EnvironmentError& e) {
    if (found.step < 0) throw;
    if (trainer.group().rank() == 0) log::warn(e.what());
  }
  // The newer checkpoint turned out to be damaged.
  if (found.step >= 0 && resumed.step < found.step)
    return from_memory(trainer, *replicas, {.folder = resumed.folder, .step = resumed.folder_step});
  if (replicas) replicas->forget();
  return resumed;
}

}  // namespace lockstep::train
