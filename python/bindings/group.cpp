#include "python/bindings/group.h"

#include <utility>
#include <vector>

#include <unistd.h>

#include "core/base/mutex.h"
#include "python/bindings/guard.h"

namespace lockstep::python {
namespace {

struct Living {
  Mutex mutex;
  std::vector<std::weak_ptr<comm::ProcessGroup>> groups LOCKSTEP_GUARDED_BY(mutex);
};

// Never destroyed: groups may outlive static objects.
Living& living() {
  static auto* const all = new Living;
  return *all;
}

// The same object, whose last owner in Python lets go of it without the GIL.
template <typename T>
std::shared_ptr<T> held_apart(std::shared_ptr<T> it) {
  auto* const raw = it.get();
  auto* const held = new std::shared_ptr<T>(std::move(it));
  return std::shared_ptr<T>(raw, [held, own = ::getpid()](T*) {
    if (::getpid() != own) return;  // its threads, and what it shares, are the parent's
    if (Py_IsInitialized() && PyGILState_Check()) {
      const py::gil_scoped_release release;
      delete held;
    } else {
      delete held;
    }
  });
}

}  // namespace

comm::ProcessGroup& Group::get(const char* call) const {
  check(group != nullptr, "[", call, "] the process group was destroyed");
  return *group;
}

comm::DeviceMesh& Mesh::get() const {
  check(mesh != nullptr, "[mesh] use of a mesh that was not made");
  return *mesh;
}

std::shared_ptr<comm::DeviceMesh> shared(comm::DeviceMesh mesh) {
  return held_apart(std::make_shared<comm::DeviceMesh>(std::move(mesh)));
}

std::shared_ptr<comm::ProcessGroup> shared(std::shared_ptr<comm::ProcessGroup> group) {
  const std::shared_ptr<comm::ProcessGroup> kept = held_apart(std::move(group));
  Living& all = living();
  const MutexLock lock(all.mutex);
  std::erase_if(all.groups, [](const auto& weak) { return weak.expired(); });
  all.groups.push_back(kept);
  return kept;
}

void abort_groups(const std::string& reason) {
  std::vector<std::shared_ptr<comm::ProcessGroup>> groups;
  {
    Living& all = living();
    const MutexLock lock(all.mutex);
    for (const auto& weak : all.groups)
      if (auto group = weak.lock()) groups.push_back(std::move(group));
  }
  for (const auto& group : groups) group->abort(reason);
}

}  // namespace lockstep::python
