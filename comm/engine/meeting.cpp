#include "comm/engine/meeting.h"

#include <cstdio>
#include <random>
#include <set>
#include <utility>

#include "core/base/error.h"
#include "core/base/mutex.h"

namespace lockstep::comm {
namespace {

// Never the same twice, in whichever process.
std::string new_id() {
  std::random_device random;
  char text[33];
  std::snprintf(text, sizeof text, "%08x%08x%08x%08x", random(), random(), random(), random());
  return text;
}

// The meetings at which ranks of this process have failed. The same rank does not join one again,
// nor does the same thread under another number. Other ranks, which may be threads of this process,
// still find the place, and learn of the failure there. Few: a job seldom survives one.
class GivenUpMeetings {
 public:
  void insert(const std::string& id, int rank) {
    const MutexLock lock(mutex_);
    all_.emplace(id, rank);
    of_this_thread().insert(id);
  }
  bool contains(const std::string& id, int rank) {
    const MutexLock lock(mutex_);
    return all_.contains({id, rank}) || of_this_thread().contains(id);
  }

 private:
  static std::set<std::string>& of_this_thread() {
    thread_local std::set<std::string> ids;
    return ids;
  }

  Mutex mutex_;
  std::set<std::pair<std::string, int>> all_ LOCKSTEP_GUARDED_BY(mutex_);
};

GivenUpMeetings& given_up() {
  static GivenUpMeetings instance;
  return instance;
}

}  // namespace

std::unique_ptr<Backend> meet(
    const std::shared_ptr<Store>& store, const std::string& name, int rank, int size,
    const std::function<std::unique_ptr<Backend>(std::shared_ptr<Store> place)>& form) {
  const std::string root = str("group/", name), open = root + "/open";
  // Whoever comes first opens a meeting, and the others find it.
  std::string id = store->compare_and_set(open, "", new_id());
  while (given_up().contains(id, rank)) {
    id = store->compare_and_set(open, id, new_id());
    if (id.empty()) id = store->compare_and_set(open, "", new_id());  // it was closed meanwhile
  }
  const std::string place = str(root, "/", id), arrived = place + "/arrived";
  try {
    // The last rank closes the meeting before it comes to `form`, so before any rank is done with
    // its own and may ask for the next group of this name.
    if (store->add(arrived, 1) == size) store->remove({open, arrived});
    return form(with_prefix(store, place));
  } catch (...) {
    given_up().insert(id, rank);
    throw;
  }
}

}  // namespace lockstep::comm
