#include "launcher/base/random_id.h"

#include <cstdio>
#include <random>

namespace lockstep::launcher {

std::string random_id() {
  std::random_device random;
  char text[17];
  std::snprintf(text, sizeof text, "%08x%08x", random(), random());
  return text;
}

}  // namespace lockstep::launcher
