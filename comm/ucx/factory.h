// The ucx backend: collectives between hosts over UCX, without MPI. UCX moves bytes over TCP, or
// over RDMA where there is such a network (UCX_TLS and UCX_NET_DEVICES choose). A build without
// UCX has the same functions (no_ucx.cpp), which say what to install.
//
// libucp is loaded when the first group forms, so a program that uses another backend does not
// need it. What travels is clear text. In their first message, ranks prove to each other that they
// met in the same store.
#pragma once

#include <memory>
#include <string>

#include "comm/engine/backend.h"

namespace lockstep::comm {

// Whether this build has the backend.
bool has_ucx();

// "1.13.1"; empty where the library cannot be loaded. Loads it. Throws UsageError where the build
// lacks the backend.
std::string ucx_version();

// Every rank calls it with the same place in a store. A rank asks the store at most ten times,
// whatever the number of ranks, and no key stays. Throws UsageError where ranks differ in what they
// form; TimeoutError naming the ranks that did not come, or cannot be reached; EnvironmentError
// where a rank died meanwhile, or where UCX is not installed.
std::unique_ptr<Backend> make_ucx(std::shared_ptr<Store> store, int rank, int size,
                                  const GroupOptions& options);

}  // namespace lockstep::comm
