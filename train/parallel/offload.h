// State that lies in files instead of memory: mapped, so that kernels reach it as they reach
// memory, and written back by the system when the memory is needed for something else.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "core/tensor/storage.h"

namespace lockstep::train {

// Zeroed memory in a file without a name below `folder` (which must exist), counted as `offloaded`.
// The file's space is reserved, and goes with the last tensor or however the process ends. Throws
// EnvironmentError with folder and cause (no space, no such folder).
std::shared_ptr<Storage> file_memory(const std::string& folder, size_t bytes);

// file_memory() below a folder that is made when it is first needed; for a StorageScope.
StorageScope::Make offload_to(const std::string& folder);

}  // namespace lockstep::train
