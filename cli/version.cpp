#include "cli/version.h"

#include "core/base/build_info.h"
#include "core/base/error.h"
#include "core/device/kernels.h"

namespace lockstep::cli {

std::string version_text() {
  using namespace build_info;
  return str("lockstep ", kVersion, " (", kGitSha, ", ", kBuildType, ")\ncompiler ", kCompiler,
             ", Open MPI ", kMpi, ", UCX ", kUcx, ", CUDA ", kCuda, "\nkernels ",
             cpu_instruction_set());
}

}  // namespace lockstep::cli
