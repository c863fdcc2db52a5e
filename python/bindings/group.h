// Groups of ranks as Python holds them.
#pragma once

#include <memory>
#include <string>

#include <pybind11/pybind11.h>

#include "comm/device_mesh.h"
#include "comm/process_group.h"

namespace lockstep::python {

struct Group {
  std::shared_ptr<comm::ProcessGroup> group;  // null: destroyed

  // Throws UsageError for a destroyed group. `call`: "all_reduce".
  comm::ProcessGroup& get(const char* call) const;
};

struct Mesh {
  std::shared_ptr<comm::DeviceMesh> mesh;
  comm::DeviceMesh& get() const;
};

// Lets go of the group without the GIL, as the end of a group waits; in a forked child not at all.
// Remembers it for abort_groups().
std::shared_ptr<comm::ProcessGroup> shared(std::shared_ptr<comm::ProcessGroup> group);
std::shared_ptr<comm::DeviceMesh> shared(comm::DeviceMesh mesh);
// Ends every living group of this process with this reason.
void abort_groups(const std::string& reason);

}  // namespace lockstep::python
