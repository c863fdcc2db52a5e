// What doctor says about the gRPC library.
#include "launcher/trust/grpc_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::launcher {
namespace {

using testing::Contains;
using testing::Not;
using testing::StartsWith;

TEST(GrpcFacts, names_the_weaknesses_of_a_version) {
  const auto debian = weaknesses_of_grpc("1.51.1");
  for (const char* cve : {"CVE-2023-1428", "CVE-2023-32731", "CVE-2023-4785", "CVE-2023-44487"})
    EXPECT_THAT(debian, Contains(StartsWith(cve)));
  EXPECT_THAT(weaknesses_of_grpc("1.57.0"), Contains(StartsWith("CVE-2023-44487")));
  EXPECT_THAT(weaknesses_of_grpc("1.57.0"), Not(Contains(StartsWith("CVE-2023-4785"))));
  EXPECT_TRUE(weaknesses_of_grpc("1.60.0").empty());
  EXPECT_TRUE(weaknesses_of_grpc("unknown").empty());
  EXPECT_THAT(grpc_version(), StartsWith("1."));
}

}  // namespace
}  // namespace lockstep::launcher
