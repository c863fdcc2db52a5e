// Two streams of SHA-256 at once, beside OpenSSL and the standard's own vectors.
#include "checkpoint/format/sha256_pair.h"

#include <random>

#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

class PairOfStreams : public ::testing::TestWithParam<Sha256Path> {
 protected:
  void SetUp() override {
    if (GetParam() == Sha256Path::fastest && !Sha256Pair::has_instructions())
      GTEST_SKIP() << "skipped: no SHA instructions here";
  }
};
INSTANTIATE_TEST_SUITE_P(Paths, PairOfStreams,
                         ::testing::Values(Sha256Path::fastest, Sha256Path::openssl),
                         [](const auto& each) {
                           return each.param == Sha256Path::fastest ? "fastest" : "openssl";
                         });

std::string random_bytes(size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

using Hex = std::array<std::string, 2>;
Hex expected(const std::string& first, const std::string& second) {
  return {sha256_hex(first), sha256_hex(second)};
}

TEST_P(PairOfStreams, GivesTheStandardsVectors) {
  // FIPS 180-4's examples: one block, two blocks, a million letters; and the empty text.
  const std::vector<std::pair<std::string, std::string>> vectors = {
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1'000'000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}};
  for (const auto& [first, first_sum] : vectors)
    for (const auto& [second, second_sum] : vectors) {
      Sha256Pair pair(GetParam());
      pair.update(first.data(), first.size(), second.data(), second.size());
      EXPECT_EQ(pair.hex(), (Hex{first_sum, second_sum}))
          << first.size() << " and " << second.size() << " bytes";
    }
}

TEST_P(PairOfStreams, AgreesWithOpenSslForAllLengthsAtTheBordersOfBlocks) {
  const std::string a = random_bytes(260, 1), b = random_bytes(260, 2);
  std::vector<Hex> sums;
  for (size_t length = 0; length <= 260; ++length)
    sums.push_back(expected(a.substr(0, length), b.substr(0, length)));
  for (size_t first = 0; first <= 260; ++first)
    for (size_t second = 0; second <= 260; ++second) {
      Sha256Pair pair(GetParam());
      pair.update(a.data(), first, b.data(), second);
      ASSERT_EQ(pair.hex(), (Hex{sums[first][0], sums[second][1]}))
          << first << " and " << second << " bytes";
    }
}

TEST_P(PairOfStreams, DoesNotDependOnHowTheBytesCome) {
  std::mt19937 random(3);
  for (int i = 0; i < 400; ++i) {
    const std::string a = random_bytes(random() % 3000, 10 + random()),
                      b = random_bytes(random() % 3000, 20 + random());
    const size_t longest = 1 + random() % 300;
    Sha256Pair pair(GetParam());
    for (size_t x = 0, y = 0; x < a.size() || y < b.size();) {
      const size_t dx = std::min<size_t>(random() % (longest + 1), a.size() - x),
                   dy = std::min<size_t>(random() % (longest + 1), b.size() - y);
      pair.update(a.data() + x, dx, b.data() + y, dy);
      x += dx, y += dy;
    }
    ASSERT_EQ(pair.hex(), expected(a, b))
        << a.size() << " and " << b.size() << " bytes in pieces of up to " << longest;
  }
}

TEST_P(PairOfStreams, HashesLargeAndUnequalStreams) {
  const std::string a = random_bytes((5 << 20) + 17, 4), b = random_bytes(3 << 20, 5);
  Sha256Pair pair(GetParam());
  pair.update(a.data(), 1, nullptr, 0);
  pair.update(a.data() + 1, a.size() - 1, b.data(), b.size());
  EXPECT_EQ(pair.hex(), expected(a, b));
  Sha256Pair one(GetParam());
  one.update(nullptr, 0, b.data(), b.size());
  EXPECT_EQ(one.hex(), expected("", b));
}

TEST_P(PairOfStreams, MovesInTheMiddle) {
  const std::string a = random_bytes(1000, 6), b = random_bytes(900, 7);
  Sha256Pair pair(GetParam());
  pair.update(a.data(), 500, b.data(), 333);
  Sha256Pair moved = std::move(pair);
  moved.update(a.data() + 500, 500, b.data() + 333, 567);
  EXPECT_EQ(moved.hex(), expected(a, b));
}

}  // namespace
}  // namespace lockstep::checkpoint
