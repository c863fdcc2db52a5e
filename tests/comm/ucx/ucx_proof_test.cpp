// Ranks show each other that they met in the same store before they exchange data.
#include <array>
#include <cstdlib>
#include <latch>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/ucx/proof.h"
#include "comm/ucx/transport.h"
#include "core/base/error.h"

namespace lockstep::comm::ucx {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr auto kLong = std::chrono::seconds(60);

// Two ranks, as threads, that believe in these secrets. Returns what each says of the other.
std::array<std::string, 2> meet(const std::array<GroupSecret, 2>& secrets) {
  ::setenv("UCX_TLS", "tcp", 1);
  std::array<std::string, 2> addresses, errors;
  std::latch known(2), done(2);
  const auto rank = [&](int r) {
    const auto place = static_cast<size_t>(r);
    UcxTransport transport(r, 2, "g");
    addresses[place] = transport.address();
    known.arrive_and_wait();
    std::vector<Attendant> members;
    for (const auto& address : addresses) members.push_back(this_process(address));
    try {
      transport.connect(secrets[place], members, Limit(Deadline::after(kLong)));
    } catch (const EnvironmentError& error) {
      errors[place] = error.what();
    }
    done.arrive_and_wait();
  };
  std::thread other([&] { rank(1); });
  rank(0);
  other.join();
  return errors;
}

GroupSecret secret() {
  return {.group = 77,
          .key = std::string(kKeyBytes, 'k'),
          .numbers = {std::string(kNumberBytes, 'a'), std::string(kNumberBytes, 'b')}};
}

TEST(UcxProof, ranks_that_know_the_secret_meet) {
  const auto errors = meet({secret(), secret()});
  EXPECT_EQ(errors[0] + errors[1], "");
}

TEST(UcxProof, a_rank_that_does_not_know_the_key_or_a_number_is_refused_by_name) {
  for (const bool key : {true, false}) {
    GroupSecret other = secret();
    (key ? other.key : other.numbers[0])[3] ^= 1;
    const auto errors = meet({secret(), other});
    for (int r : {0, 1})
      EXPECT_THAT(errors[static_cast<size_t>(r)],
                  AllOf(HasSubstr("whoever speaks for rank " + std::to_string(1 - r)),
                        HasSubstr("does not prove that it is that rank")));
  }
}

TEST(UcxProof, says_for_whom_and_to_whom_it_is) {
  const Claim claim{.group = 1,
                    .name = 2,
                    .from = 0,
                    .to = 1,
                    .size = 2,
                    .from_number = std::string(kNumberBytes, 'a'),
                    .to_number = std::string(kNumberBytes, 'b')};
  const Digest digest = prove("key", claim);
  EXPECT_TRUE(equal(digest, prove("key", claim)));
  for (int field = 0; field < 7; ++field) {
    Claim other = claim;
    if (field == 0) other.group = 9;
    if (field == 1) other.name = 9;
    if (field == 2) other.from = 9;
    if (field == 3) other.to = 9;
    if (field == 4) other.size = 9;
    if (field == 5) other.from_number[0] = 'x';
    if (field == 6) other.to_number[0] = 'x';
    EXPECT_FALSE(equal(digest, prove("key", other))) << "field " << field;
  }
  EXPECT_FALSE(equal(digest, prove("other", claim)));
  EXPECT_NE(split_key("key", 1), split_key("key", 2));
}

}  // namespace
}  // namespace lockstep::comm::ucx
