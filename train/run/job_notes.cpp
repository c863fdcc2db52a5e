#include "train/run/job_notes.h"

#include <utility>

#include "checkpoint/format/digest.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::train {
namespace {

std::string config_note(int rank) { return str("config/", rank); }
// A note of any rank, for a rank that ended before it left its own.
constexpr const char* kAnyConfigNote = "config/any";

std::string prefix_of(const std::string& run) {
  return str("run/", checkpoint::sha256_hex(run).substr(0, 32), "/");
}

std::string text_of(int64_t epoch, const std::string& note) { return str(epoch, '\n', note); }

// Describes what the command line would change now; empty if nothing.
std::string change_of(const Config& before, const std::function<Config()>& load) {
  try {
    std::string text;
    for (const auto& [key, old_value, new_value] : differences(
             canonical_text(before, KeyScope::local), canonical_text(load(), KeyScope::local)))
      text += str(text.empty() ? "" : ", ", key, " = ", new_value, " instead of ", old_value);
    return text;
  } catch (const UsageError& e) {
    return e.what();
  }
}

}  // namespace

JobNotes::JobNotes(std::shared_ptr<comm::Store> store, const std::string& run, int64_t epoch)
    : store_(std::move(store)), prefix_(prefix_of(run)), epoch_(epoch) {}

std::optional<std::string> JobNotes::earlier(const std::string& name) const {
  // Compares with a text that no note has: this returns the note and changes nothing.
  const std::string note = store_->compare_and_set(prefix_ + name, "-", "");
  const size_t line = note.find('\n');
  if (line == std::string::npos || std::stoll(note.substr(0, line)) >= epoch_) return std::nullopt;
  return note.substr(line + 1);
}

void JobNotes::leave(const std::string& name, const std::string& text) const {
  if (!earlier(name)) store_->set(prefix_ + name, text_of(epoch_, text));
}

Config config_of_job(const JobNotes& notes, int rank, const std::function<Config()>& load) {
  std::optional<std::string> note = notes.earlier(config_note(rank));
  if (!note) note = notes.earlier(config_note(0));
  if (!note) note = notes.earlier(kAnyConfigNote);
  if (!note) {
    const Config config = load();
    for (const std::string& name : {std::string(kAnyConfigNote), config_note(rank)})
      notes.leave(name, to_yaml(config));
    return config;
  }
  const Config config = parse_config(*note, "the config that this job began with");
  if (const std::string change = rank == 0 ? change_of(config, load) : ""; !change.empty())
    log::warn("the config was changed since this job began (", change,
              "): the ranks continue with the original config");
  return config;
}

std::pair<std::string, std::string> config_note_for_ranks(const std::string& run,
                                                          const Config& config) {
  // Epoch 0 precedes all epochs of ranks.
  return {prefix_of(run) + config_note(0), text_of(/*epoch=*/0, to_yaml(config))};
}

}  // namespace lockstep::train
