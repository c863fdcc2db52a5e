#include "train/data_note.h"

#include <array>

#include "checkpoint/long_agreement.h"
#include "core/base/error.h"

namespace lockstep::train {
namespace {

constexpr const char* kName = "data";

// The note's lines: identity, identity by samples, stamp. The first is the second until all is read; the last may be empty.
std::array<std::string, 3> lines_of(const std::string& note) {
  const size_t first = note.find('\n'), second = note.find('\n', first + 1);
  return {note.substr(0, first), note.substr(first + 1, second - first - 1), note.substr(second + 1)};
}

}  // namespace

void check_data_note(const JobNotes* notes, Trainer& trainer) {
  DataIdentity& data = trainer.data_identity();
  checkpoint::agree_on_long_work(&trainer.group(), [&](const std::atomic<bool>&) {
    const auto note = notes && trainer.group().rank() == 0 ? notes->earlier(kName) : std::nullopt;
    if (!note) return std::string();
    const auto& [identity, sampled, stamp] = lines_of(*note);
    if (identity != sampled) data.recall(stamp, identity);
    check(data.matches(identity), "[data] the data changed since this job began (", identity, ", now ", data.now(),
          "); put the same data back and start the run again with --resume auto");
    return std::string();
  });
}

void leave_data_note(const JobNotes& notes, Trainer& trainer) {
  const DataIdentity& identity = trainer.data_identity();
  const Dataset& data = trainer.data();
  notes.leave(kName, str(identity.now(), "\n", identity.sampled(), "\n", data.settled() ? data.stamp() : ""));
}

}  // namespace lockstep::train
