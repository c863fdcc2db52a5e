// What is known of the gRPC library in use.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lockstep::launcher {

// "1.51.1".
std::string grpc_version();

// The published weaknesses of a version of gRPC that concern a server, each as "CVE-2023-4785: what
// happens". Empty for a text that is no version.
std::vector<std::string> weaknesses_of_grpc(std::string_view version);

}  // namespace lockstep::launcher
