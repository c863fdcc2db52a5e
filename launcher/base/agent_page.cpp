#include "launcher/base/agent_page.h"

#include <ctime>

namespace lockstep::launcher {

Duration boot_time() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return std::chrono::seconds(now.tv_sec) + Duration(now.tv_nsec);
}

}  // namespace lockstep::launcher
