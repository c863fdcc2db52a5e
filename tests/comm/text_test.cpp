#include "comm/text.h"

#include <gmock/gmock.h>

#include "comm/local/factory.h"
#include "comm/local/hash_store.h"
#include "comm/ranks_text.h"
#include "core/base/error.h"
#include "tests/support/counting_backend.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

std::string text_of(std::vector<int> ranks) { return ranks_text(ranks); }

TEST(RanksText, JoinsNeighboursFromThreeOn) {
  EXPECT_EQ(text_of({3}), "rank 3");
  EXPECT_EQ(text_of({0, 1}), "ranks 0 and 1");
  EXPECT_EQ(text_of({1, 2, 5}), "ranks 1, 2 and 5");
  EXPECT_EQ(text_of({1, 2, 3}), "ranks 1 to 3");
  EXPECT_EQ(text_of({0, 2, 3, 4, 5, 9}), "ranks 0, 2 to 5 and 9");
  EXPECT_EQ(text_of({0, 1, 2, 4, 5, 6, 8, 9}), "ranks 0 to 2, 4 to 6, 8 and 9");
}

// Each rank fails with its message, or does well where that is empty; returns what all of them
// throw, which must be the same.
std::string disagreement(const std::vector<std::string>& messages) {
  const int size = static_cast<int>(messages.size());
  const auto store = std::make_shared<HashStore>();
  std::vector<std::string> thrown(messages.size(), "nothing");
  test::run_threads(size, [&](int rank) {
    const auto mine = static_cast<size_t>(rank);
    ProcessGroup group(make_local(store, rank, size, {}), {});
    try {
      agree(&group, [&] {
        check(messages[mine].empty(), messages[mine]);
        return std::string();
      });
    } catch (const UsageError& e) {
      thrown[mine] = e.what();
    }
  });
  EXPECT_THAT(thrown, testing::Each(thrown[0]));
  return thrown[0];
}

TEST(Agree, SaysOnceWhatSeveralRanksSay) {
  EXPECT_EQ(disagreement({"bad", "bad", "bad", "bad", "bad"}), "all 5 ranks: bad");
  EXPECT_EQ(disagreement({"bad", "bad", "worse", "bad"}), "ranks 0, 1 and 3: bad; rank 2: worse");
  EXPECT_EQ(disagreement({"", "bad", "bad"}), "ranks 1 and 2: bad");
  EXPECT_EQ(disagreement({"", "bad"}), "rank 1: bad");
  EXPECT_EQ(disagreement({"bad"}), "rank 0: bad");
}

// What check_same_lines() throws on all ranks, which must be the same.
std::string difference(const std::vector<std::string>& texts) {
  const auto store = std::make_shared<HashStore>();
  std::vector<std::string> thrown(texts.size(), "nothing");
  test::run_threads(static_cast<int>(texts.size()), [&](int rank) {
    const auto mine = static_cast<size_t>(rank);
    ProcessGroup group(make_local(store, rank, static_cast<int>(texts.size()), {}), {});
    try {
      check_same_lines(group, texts[mine], "models differ", "build one");
    } catch (const UsageError& e) {
      thrown[mine] = e.what();
    }
    EXPECT_EQ(broadcast_text(group, "still in step", 0), "still in step");
  });
  EXPECT_THAT(thrown, testing::Each(thrown[0]));
  return thrown[0];
}

// What the ranks send each other for equal texts does not grow with the texts, nor with the ranks.
TEST(SameTexts, CostOneHashOnAnyNumberOfRanks) {
  const std::string text(100'000, 'x');
  for (const int ranks : {2, 3, 8, 16}) {
    const auto store = std::make_shared<HashStore>();
    test::run_threads(ranks, [&](int rank) {
      auto backend = std::make_unique<test::CountingBackend>(make_local(store, rank, ranks, {}));
      const auto& seen = *backend;
      ProcessGroup group(std::move(backend), {});
      EXPECT_TRUE(is_same_text(group, text));
      EXPECT_EQ(agree(&group, [&] { return text; })[1], text);
      check_same_lines(group, text, "texts differ", "mend them");
      EXPECT_EQ(seen.calls(), 3) << "on rank " << rank << " of " << ranks;
      EXPECT_LE(seen.bytes(), 3 * 64) << "on rank " << rank << " of " << ranks;
    });
  }
}

TEST(SameTexts, DifferInAnyOneByte) {
  const auto store = std::make_shared<HashStore>();
  test::run_threads(3, [&](int rank) {
    ProcessGroup group(make_local(store, rank, 3, {}), {});
    std::string text(1000, 'x');
    EXPECT_TRUE(is_same_text(group, text));
    if (rank == 2) text[500] = 'y';
    EXPECT_FALSE(is_same_text(group, text));
    EXPECT_FALSE(is_same_text(group, rank == 1 ? "" : "x"));
    EXPECT_TRUE(is_same_text(group, ""));
  });
}

TEST(CheckSameLines, NamesTheFirstRankAndTheFirstLineThatDiffer) {
  EXPECT_EQ(difference({"a\nb\n"}), "nothing");
  EXPECT_EQ(difference({"a\nb\n", "a\nb\n", "a\nb\n"}), "nothing");
  EXPECT_EQ(difference({"", "", ""}), "nothing");
  EXPECT_EQ(difference({"a\nb\n", "a\nb\n", "a\nc\n", "x\n"}),
            "models differ: rank 0 has 'b' where rank 2 has 'c'; build one");
  EXPECT_EQ(difference({"x\n", "a\n", "a\n"}),
            "models differ: rank 0 has 'x' where rank 1 has 'a'; build one");
  EXPECT_EQ(difference({"a\n", "a\nb\n"}),
            "models differ: rank 0 has 'nothing more' where rank 1 has 'b'; build one");
  EXPECT_EQ(difference({"a\n", ""}),
            "models differ: rank 0 has 'a' where rank 1 has 'nothing more'; build one");
}

}  // namespace
}  // namespace lockstep::comm
