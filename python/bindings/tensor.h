// What several parts of the extension do with tensors.
#pragma once

#include "core/autograd/variable.h"

namespace lockstep::python {

// The values, dense, on the CPU. Called with the GIL, which it releases while it copies.
Tensor on_host(const Tensor& x);

// Throws UsageError if a change in place would be missing in the graph. `call`: "copy_".
void check_writable(const char* call, const Variable& x);

}  // namespace lockstep::python
