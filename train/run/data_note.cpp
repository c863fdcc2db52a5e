#include "train/run/data_note.h"

#include "comm/text.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::train {
namespace {

constexpr const char* kName = "data";

constexpr const char* kUnread = "unread";

// The lines of the note: identity, stamp, and the word "unread" if the data was not read.
std::string text_of(const NotedData& data) {
  return str(data.identity, "\n", data.stamp, "\n", data.unread ? kUnread : "");
}
NotedData parse(const std::string& note) {
  const size_t first = note.find('\n'), second = note.find('\n', first + 1);
  return {.identity = note.substr(0, first),
          .stamp = note.substr(first + 1, second - first - 1),
          .unread = note.substr(second + 1) == kUnread};
}

}  // namespace

void check_data_note(const JobNotes* notes, Trainer& trainer) {
  const std::string note = comm::agree(&trainer.group(), [&] {
    return notes && trainer.group().rank() == 0 ? notes->earlier(kName).value_or("")
                                                : std::string();
  })[0];
  if (note.empty()) return;
  const NotedData noted = parse(note);
  const DataComparison data = trainer.data_identity().compare(noted);
  check(data.same != SameData::no, "[data] the data changed since this job began (", noted.identity,
        ", now ", data.now, "); put the same data back and start the run again with --resume auto");
  if (data.same == SameData::by_samples && trainer.group().rank() == 0)
    log::warn(
        "files of data.path were replaced or written since this job began. They had not all been "
        "read before, so only samples were compared");
}

void leave_data_note(const JobNotes& notes, Trainer& trainer) {
  notes.leave(kName, text_of(trainer.data_identity().noted()));
}

}  // namespace lockstep::train
