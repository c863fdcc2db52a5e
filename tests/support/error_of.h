// What an action threw, for tests of messages.
#pragma once

#include <string>

#include "core/base/error.h"

namespace lockstep::test {

template <typename F>
std::string error_of(const F& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "(no error)";
}

}  // namespace lockstep::test
