#include "comm/ucx/factory.h"
#include "core/base/error.h"

namespace lockstep::comm {
namespace {

constexpr const char* kMissing =
    "[ucx] this build has no UCX: install libucx-dev, configure with -DLOCKSTEP_UCX=ON and build "
    "again";

}  // namespace

bool has_ucx() { return false; }

std::string ucx_version() { throw UsageError(kMissing); }

std::unique_ptr<Backend> make_ucx(std::shared_ptr<Store>, int, int, const GroupOptions&) {
  throw UsageError(kMissing);
}

}  // namespace lockstep::comm
