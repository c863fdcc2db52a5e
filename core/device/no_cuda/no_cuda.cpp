#include "core/base/error.h"
#include "core/device/cuda_device.h"

namespace lockstep::cuda {
namespace {
[[noreturn]] void absent() { throw UsageError(str("[cuda] ", why_none(), ": use device cpu")); }
}  // namespace

int device_count() { return 0; }
std::string why_none() { return "this version of lockstep was built without CUDA"; }
bool is_simulated() { return false; }
DeviceInfo info(int) { absent(); }
std::string driver_version() { absent(); }
void bind(int) { absent(); }
Allocator& allocator(int) { absent(); }
Allocator& pinned_allocator() { absent(); }
const Kernels& kernel_table() { absent(); }
const Queue& main_queue(int) { absent(); }
Queue create_queue(int) { absent(); }
void synchronize(const Queue&) { absent(); }
AttentionMemory attention_memory(int, const AttentionArgs&) { absent(); }
void keep_plans_in(const std::string&) {}
std::vector<std::string> choices() { return {}; }
std::shared_ptr<void> record(const Queue&) { absent(); }
bool done(int, void*) { absent(); }
void wait(int, void*, const Queue&) { absent(); }
void synchronize(int, void*) { absent(); }
Duration elapsed(int, void*, void*) { absent(); }
void begin_capture(const Queue&) { absent(); }
std::shared_ptr<void> end_capture(const Queue&) { absent(); }
void drop_capture(const Queue&) noexcept {}
void launch_graph(void*, const Queue&) { absent(); }

}  // namespace lockstep::cuda
