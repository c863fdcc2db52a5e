// Errors of this folder, and what Python needs to know of those that came from lockstep.
#pragma once

#include <exception>
#include <string>

#include "core/base/error.h"

namespace lockstep::pytorch {

// A type of element or of tensor that no call takes. Python sees a TypeError.
class UnsupportedType final : public UsageError {
 public:
  using UsageError::UsageError;
};

// Remembers a failure that a call handed out. PyTorch passes some errors on as text alone, so the
// text is what an error is known by later. Thread-safe.
void remember_failure(const std::exception_ptr& error);

// Whether `text` holds the message of a remembered failure that another rank caused. Thread-safe.
bool is_peer_failure(const std::string& text);

}  // namespace lockstep::pytorch
