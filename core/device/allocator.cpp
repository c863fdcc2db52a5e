#include "core/device/allocator.h"

#include <utility>

namespace lockstep {
namespace {
thread_local MemoryCategory t_category = MemoryCategory::activations;
}

std::string_view name_of(MemoryCategory category) {
  switch (category) {
    case MemoryCategory::parameters: return "parameters";
    case MemoryCategory::gathered: return "gathered";
    case MemoryCategory::gradients: return "gradients";
    case MemoryCategory::optimizer: return "optimizer";
    case MemoryCategory::activations: return "activations";
    case MemoryCategory::buffers: return "buffers";
    case MemoryCategory::other: return "other";
    case MemoryCategory::offloaded: return "offloaded";
  }
  return "?";
}

MemoryScope::MemoryScope(MemoryCategory category)
    : previous_(std::exchange(t_category, category)) {}
MemoryScope::~MemoryScope() { t_category = previous_; }
MemoryCategory MemoryScope::current() { return t_category; }

}  // namespace lockstep
