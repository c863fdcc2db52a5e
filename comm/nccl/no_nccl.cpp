#include "comm/nccl/factory.h"
#include "core/base/error.h"

namespace lockstep::comm {
namespace {
constexpr const char* kMissing = "[nccl] this version of lockstep was built without NCCL";
}  // namespace

std::string nccl_version() { throw EnvironmentError(kMissing); }
std::string why_no_nccl(ProcessGroup&, Device) { return kMissing; }
std::unique_ptr<Backend> make_nccl(std::unique_ptr<Backend>, Device, const GroupOptions&) {
  throw UsageError(kMissing);
}

}  // namespace lockstep::comm
