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

// The meetings at which a rank of this process has failed. Few: a job seldom survives one.
class GivenUpMeetings {
 public:
  void insert(const std::string& id, int rank) {
    const MutexLock lock(mutex_);
    all_.emplace(id, rank);
  }
  bool contains(const std::string& id, int rank) {
    const MutexLock lock(mutex_);
    return all_.contains({id, rank});
  }

 private:
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
  const std::string root = str("group/", name, "/", size), open = root + "/open";
  // Whoever comes first opens a meeting, and the others find it.
  std::string id = store->compare_and_set(open, "", new_id());
  const auto open_another = [&] {
    id = store->compare_and_set(open, id, new_id());
    if (id.empty()) id = store->compare_and_set(open, "", new_id());  // it was closed meanwhile
  };
  const auto place = [&] { return str(root, "/", id); };
  const auto is_taken = [&] {
    if (given_up().contains(id, rank)) return true;
    const std::string arrived = place() + "/arrived";
    const int64_t count = store->add(arrived, 1);
    // The last rank closes the meeting before it comes to `form`, so before any rank is done with
    // its own and may ask for the next group of this name.
    if (count == size) store->remove({open, arrived});
    // Ranks that gave up may come again as other ranks: then more came than the meeting takes.
    return count > size;
  };
  while (is_taken()) open_another();
  try {
    return form(with_prefix(store, place()));
  } catch (...) {
    given_up().insert(id, rank);
    throw;
  }
}

}  // namespace lockstep::comm
