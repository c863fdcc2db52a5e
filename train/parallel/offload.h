// State in files instead of memory. The files are mapped, so kernels use them like memory. The
// system writes pages back when it needs the memory.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "core/tensor/storage.h"

namespace lockstep::train {

// Zeroed memory in an unnamed file below `folder` (which must exist), counted as `offloaded`.
// Reserves the file's space. The file vanishes with the last tensor, or with the process. Throws
// EnvironmentError with folder and cause (no space, no such folder).
std::shared_ptr<Storage> file_memory(const std::string& folder, size_t bytes);

// file_memory() below a folder that is made at first use. For a StorageScope.
StorageScope::Make offload_to(const std::string& folder);

}  // namespace lockstep::train
