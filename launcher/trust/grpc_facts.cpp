#include "launcher/trust/grpc_facts.h"

#include <array>
#include <cstdio>

#include <grpcpp/grpcpp.h>

namespace lockstep::launcher {
namespace {

struct Weakness {
  int fixed_in;  // the second number of the version
  const char* text;
};
constexpr std::array kWeaknesses = {
    Weakness{53, "CVE-2023-1428: some headers end the process"},
    Weakness{55, "CVE-2023-32731: headers of one caller reach another one behind a proxy"},
    Weakness{57, "CVE-2023-4785: without file descriptors, it never listens again"},
    Weakness{57, "CVE-2023-33953: headers without end take memory and time"},
    Weakness{60, "CVE-2023-44487: rapid resets take memory and time"},
};

}  // namespace

std::string grpc_version() { return grpc::Version(); }

std::vector<std::string> weaknesses_of_grpc(std::string_view version) {
  int major = 0, minor = 0;
  std::vector<std::string> all;
  if (std::sscanf(std::string(version).c_str(), "%d.%d", &major, &minor) != 2 || major != 1)
    return all;
  for (const auto& [fixed_in, text] : kWeaknesses)
    if (minor < fixed_in) all.emplace_back(text);
  return all;
}

}  // namespace lockstep::launcher
