// The reader over a corpus that keeps and breaks each rule of the format: its verdict, what it
// names, and what it read.
#include "tests/checkpoint/format/safetensors_corpus.h"

#include <cstring>
#include <set>

#include "checkpoint/format/safetensors.h"
#include "tests/checkpoint/format/safetensors_reference.h"
#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

SafetensorsHeader read(const std::string& bytes) {
  return read_safetensors_header(
      "f", static_cast<int64_t>(bytes.size()), [&](int64_t offset, void* to, int64_t count) {
        ASSERT_LE(offset + count, static_cast<int64_t>(bytes.size()));
        bytes.copy(static_cast<char*>(to), static_cast<size_t>(count), static_cast<size_t>(offset));
      });
}

TEST(SafetensorsCorpus, EveryFileIsReadOrRefusedForWhatItIs) {
  const std::vector<CorpusFile> corpus = safetensors_corpus();
  EXPECT_GE(corpus.size(), 200u);
  std::set<std::string> names;
  for (const CorpusFile& file : corpus) {
    EXPECT_TRUE(names.insert(file.name).second) << file.name;
    const std::string said = error_of([&] { read(file.bytes); });
    EXPECT_THAT(said, file.said.empty() ? HasSubstr("(no error)") : HasSubstr(file.said))
        << file.name;
    EXPECT_THAT(said, file.said.empty() ? StartsWith("(") : StartsWith("f: ")) << file.name;
    EXPECT_LT(said.size(), 400u) << file.name;
  }
}

TEST(SafetensorsCorpus, AnotherReaderReadsTheSame) {
  for (const CorpusFile& file : safetensors_corpus()) {
    const std::optional<ReferenceHeader> expected = reference_read(file.bytes);
    EXPECT_EQ(expected.has_value(), file.said.empty()) << file.name;
    EXPECT_TRUE(!expected || as_reference(read(file.bytes)) == *expected) << file.name;
  }
}

// The window through which a header is read has its ends in other places when the header begins
// with more white space.
TEST(SafetensorsCorpus, NothingDependsOnWhereTheWindowEnds) {
  const std::string name = R"(\ud83d\ude00ä\n字)",
                    member = str('"', name,
                                 R"(":{"dtype":"F6_E2M3","shape":[12,0,3],"data_offsets":[0,0]})");
  const std::string expected = "\xf0\x9f\x98\x80ä\n字";
  for (size_t before = (64 << 10) - member.size() - 4; before < (64 << 10) + 2; ++before) {
    const std::string text =
        str('{', std::string(before, ' '), member, R"(,"__metadata__":{"k":"v"}})");
    const uint64_t length = text.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    const SafetensorsHeader header = read(bytes + text);
    ASSERT_EQ(header.tensors.size(), 1u);
    ASSERT_EQ(header.tensors[0].name, expected);
    ASSERT_EQ(header.tensors[0].shape, Shape({12, 0, 3}));
    ASSERT_EQ(header.metadata.find("k"), "v");
  }
}

}  // namespace
}  // namespace lockstep::checkpoint
