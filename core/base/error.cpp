#include "core/base/error.h"

#include <system_error>

namespace lockstep {

std::string errno_text(int error_number) {
  return str(std::generic_category().message(error_number), " (errno ", error_number, ")");
}

}  // namespace lockstep
