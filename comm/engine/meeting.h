// Where the ranks of a new group meet in a store, whatever its backend.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/engine/backend.h"
#include "comm/store.h"

namespace lockstep::comm {

// Calls `form` with a place in the store that belongs to this group alone, and returns what it
// returns. The n-th group of a name on one rank meets the n-th on the others. `form` must not
// return before all `size` ranks are in theirs, and removes its own keys.
//
// A rank asks the store twice, whatever their number. Once all ranks have come, nothing is left of
// the meeting itself. Where `form` throws, its keys stay: a rank that comes late still finds the
// place, and there learns of the failure. This rank's next group of that name meets elsewhere.
//
// Thread-safe. Throws what the store and `form` throw.
std::unique_ptr<Backend> meet(
    const std::shared_ptr<Store>& store, const std::string& name, int rank, int size,
    const std::function<std::unique_ptr<Backend>(std::shared_ptr<Store> place)>& form);

}  // namespace lockstep::comm
