// The library's errors as Python exceptions with the same text (python/lockstep/errors.py).
#pragma once

#include "core/base/error.h"

namespace lockstep::python {

// A type of element that a call does not take: in Python also a TypeError.
class UnsupportedType final : public UsageError {
 public:
  using UsageError::UsageError;
};

void install_errors();

}  // namespace lockstep::python
