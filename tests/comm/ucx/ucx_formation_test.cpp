// How the ranks of a ucx group find each other through the store.
#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

#include "comm/process_group.h"
#include "core/base/error.h"
#include "tests/support/counting_store.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

constexpr auto kLong = std::chrono::seconds(90);

class UcxFormation : public testing::Test {
 protected:
  void SetUp() override { ::setenv("UCX_TLS", "tcp", 1); }
  const std::shared_ptr<test::ForkStore> store_ = std::make_shared<test::ForkStore>();
};

// The meeting asks twice, and its last rank once more.
TEST_F(UcxFormation, ARankAsksTheStoreFewTimesWhateverTheNumberOfRanks) {
  for (const int size : {2, 8}) {
    test::run_ranks(size, [&](int rank) {
      const auto counting = std::make_shared<test::CountingStore>(store_);
      create("ucx", counting, rank, size, {.timeout = kLong})->barrier().wait();
      EXPECT_LE(counting->requests(), 13) << "rank " << rank << " of " << size;
    });
    EXPECT_EQ(store_->size(), 0u) << "keys are left in the store";
  }
}

TEST_F(UcxFormation, RanksThatDoNotComeAreNamedOnAll) {
  test::run_ranks(4, [&](int rank) {
    if (rank == 1 || rank == 3) return;
    try {
      create("ucx", store_, rank, 4, {.timeout = std::chrono::seconds(1)});
      ADD_FAILURE() << "formed without two ranks";
    } catch (const EnvironmentError& e) {
      EXPECT_NE(std::string(e.what()).find("ranks 1 and 3 of 4 did not join"), std::string::npos)
          << e.what();
    }
  });
}

// Groups that are formed at the same time, and split, never meet each other's messages.
TEST_F(UcxFormation, GroupsDoNotMix) {
  test::run_ranks(4, [&](int rank) {
    const auto a = create("ucx", store_, rank, 4, {.name = "a", .timeout = kLong});
    const auto b = create("ucx", store_, rank, 4, {.name = "b", .timeout = kLong});
    const auto half = a->split(rank / 2, rank);
    const Tensor one = Tensor::full({1000}, 1), two = Tensor::full({1000}, 2),
                 three = Tensor::full({1000}, 3);
    const Work first = b->all_reduce(two), second = a->all_reduce(one),
               third = half->all_reduce(three);
    third.wait();
    second.wait();
    first.wait();
    EXPECT_EQ(one.data<float>()[3], 4);
    EXPECT_EQ(two.data<float>()[3], 8);
    EXPECT_EQ(three.data<float>()[3], 6);
  });
}

}  // namespace
}  // namespace lockstep::comm
