// Saving and restoring on 1, 2 and 4 ranks, whole and sharded; keeping, replacing, listing.
#include <cstdlib>
#include <limits>

#include "checkpoint/format/chunks.h"
#include "checkpoint/format/digest.h"
#include "checkpoint/format/safetensors.h"
#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<DType> kAll = {DType::f32, DType::bf16, DType::f16,    DType::i64,
                                 DType::i32, DType::u8,   DType::boolean};

std::vector<Entry> model(int64_t start = 0) {
  std::vector<Entry> entries;
  for (size_t i = 0; i < kAll.size(); ++i)
    entries.emplace_back(str("t", i, ".weight"),
                         counting({3, static_cast<int64_t>(i) + 1}, kAll[i], start));
  entries.emplace_back("scalar", counting({}, DType::f32, start + 5));
  entries.emplace_back("nothing", Tensor::empty({0, 4}));
  return entries;
}
std::vector<Entry> empty_model() {
  auto entries = model();
  for (auto& entry : entries) entry.tensor.zero_();
  return entries;
}
void expect_equal(const std::vector<Entry>& got, const std::vector<Entry>& expected) {
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(bytes_of(got[i].tensor), bytes_of(expected[i].tensor)) << got[i].name;
}

class SaveOnRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, SaveOnRanks, ::testing::Values(1, 2, 4));

TEST_P(SaveOnRanks, WholeTensorsComeBackOnAnyNumberOfRanks) {
  const test::TempDir dir;
  with_ranks(GetParam(), [&](comm::ProcessGroup& group) {
    const std::string folder = save({.dir = dir.path(),
                                     .step = 12,
                                     .entries = model(),
                                     .metadata = {{"seed", "7"}},
                                     .group = &group});
    EXPECT_EQ(folder, dir.path() + "/step-00000012");
  });
  for (const int readers : {1, 2, 3})
    with_ranks(readers, [&](comm::ProcessGroup&) {
      const LatestGood found = latest_good(dir.path());
      ASSERT_TRUE(found.checkpoint);
      EXPECT_EQ(found.checkpoint->step(), 12);
      EXPECT_EQ(found.checkpoint->metadata("seed"), "7");
      EXPECT_EQ(found.checkpoint->manifest().world_size, GetParam());
      const auto entries = empty_model();
      found.checkpoint->read(entries);
      expect_equal(entries, model());
      EXPECT_EQ(bytes_of(found.checkpoint->read_whole("t0.weight")), bytes_of(model()[0].tensor));
    });
}

TEST_P(SaveOnRanks, CopiesAreWrittenOnceAndSpreadOverTheRanks) {
  const test::TempDir dir;
  const int64_t tensors = 8, elements = 4096;
  with_ranks(GetParam(), [&](comm::ProcessGroup& group) {
    std::vector<Entry> entries;
    for (int64_t i = 0; i < tensors; ++i) entries.emplace_back(str("w", i), counting({elements}));
    save({.dir = dir.path(), .step = 1, .entries = entries, .group = &group});
  });
  const Checkpoint checkpoint = Checkpoint::open(dir.path() + "/step-00000001");
  ASSERT_EQ(checkpoint.manifest().files.size(), static_cast<size_t>(GetParam()));
  for (const auto& file : checkpoint.manifest().files) {
    EXPECT_GE(file.bytes, tensors * elements * 4 / GetParam());
    EXPECT_LT(file.bytes, tensors * elements * 4 / GetParam() + 2048);
  }
}

TEST_P(SaveOnRanks, ACopyThatIsTooLargeForOneIsCutAmongTheRanks) {
  const test::TempDir dir;
  const int64_t elements = 3 << 20;  // 12 MiB
  const std::vector<Entry> entries = {Entry("large", counting({3, elements / 3})),
                                      Entry("small", counting({100}))};
  with_ranks(GetParam(), [&](comm::ProcessGroup& group) {
    save({.dir = dir.path(), .step = 1, .entries = entries, .group = &group});
  });
  const Checkpoint checkpoint = Checkpoint::open(dir.path() + "/step-00000001");
  EXPECT_EQ(checkpoint.manifest().entries.at("large").pieces.size(),
            static_cast<size_t>(GetParam()));
  EXPECT_EQ(checkpoint.manifest().entries.at("small").pieces.size(), 1u);
  for (const auto& file : checkpoint.manifest().files)
    EXPECT_LT(file.bytes, elements * 4 / GetParam() + 2048);
  for (const Entry& entry : entries)
    EXPECT_EQ(bytes_of(checkpoint.read_whole(entry.name)), bytes_of(entry.tensor));
  EXPECT_NO_THROW(checkpoint.verify());
}

// What lies before and behind the tensors of a file, and in the manifest, takes less.
constexpr int64_t kHeaderRoom = 2048;

TEST_P(SaveOnRanks, ARankThatWritesMuchWritesTwoFilesOfAboutEqualBytes) {
  const test::TempDir dir;
  const int64_t elements = 8 << 20, total = (elements + 7 * 100'000) * 4;
  std::vector<Entry> entries = {Entry("large", counting({elements}))};
  for (int64_t i = 0; i < 7; ++i)
    entries.emplace_back(str("w", i), counting({100'000}, DType::f32, i));
  with_ranks(GetParam(), [&](comm::ProcessGroup& group) {
    save({.dir = dir.path(),
          .step = 1,
          .entries = entries,
          .group = &group,
          .two_files_above = group.rank() == 0 ? 1 << 20 : 1 << 30});
  });
  const Checkpoint checkpoint = Checkpoint::open(dir.path() + "/step-00000001");
  const Manifest& manifest = checkpoint.manifest();
  EXPECT_EQ(manifest.version, 3);
  EXPECT_EQ(manifest.world_size, GetParam());
  ASSERT_EQ(manifest.files.size(), 2 * static_cast<size_t>(GetParam()));
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    EXPECT_EQ(manifest.files[i].name,
              str("shard-0000", i, "-of-0000", manifest.files.size(), ".safetensors"));
    EXPECT_EQ(read_safetensors_header(checkpoint.folder() + "/" + manifest.files[i].name)
                  .metadata.find("rank"),
              std::to_string(i / 2));
  }
  for (size_t i = 0; i < manifest.files.size(); i += 2)
    EXPECT_LE(std::abs(manifest.files[i].bytes - manifest.files[i + 1].bytes),
              2 * kChunkBytes + kHeaderRoom);
  for (const auto& file : manifest.files)
    EXPECT_NEAR(static_cast<double>(file.bytes), static_cast<double>(total) / (2 * GetParam()),
                2e6);
  for (const Entry& entry : entries)
    EXPECT_EQ(bytes_of(checkpoint.read_whole(entry.name)), bytes_of(entry.tensor));
  EXPECT_NO_THROW(checkpoint.verify());
}

TEST(Save, WhatCannotBeCutIsOneFile) {
  const test::TempDir dir;
  const std::string folder = save({.dir = dir.path(),
                                   .step = 1,
                                   .entries = {Entry("w", counting({100}))},
                                   .two_files_above = 0});
  EXPECT_EQ(Checkpoint::open(folder).manifest().files.size(), 1u);
  const std::string empty =
      save({.dir = dir.path(), .step = 2, .entries = {}, .two_files_above = 0});
  EXPECT_EQ(Checkpoint::open(empty).manifest().files.size(), 1u);
}

TEST(Save, TwoPartsOfATensorOnOneRankAreRefused) {
  const test::TempDir dir;
  const std::vector<Entry> entries = {Entry("w", counting({4}), {{8}, 0, 4}),
                                      Entry("w", counting({4}), {{8}, 4, 4})};
  EXPECT_THAT(error_of([&] { save({.dir = dir.path(), .step = 1, .entries = entries}); }),
              HasSubstr("'w' is there twice on rank 0"));
}

// Rank r of W holds an uneven share; with more ranks than elements some hold nothing.
ShardSpec share(const Shape& shape, int rank, int size) {
  const int64_t n = shape.numel(), begin = n * rank * rank / (size * size),
                end = n * (rank + 1) * (rank + 1) / (size * size);
  return {shape, begin, end - begin};
}

TEST_P(SaveOnRanks, ShardsComeBackInOtherShards) {
  const test::TempDir dir;
  const std::vector<Shape> shapes = {{7, 9}, {3}, {64}};
  with_ranks(GetParam(), [&](comm::ProcessGroup& group) {
    std::vector<Entry> entries;
    for (size_t i = 0; i < shapes.size(); ++i) {
      const ShardSpec shard = share(shapes[i], group.rank(), group.size());
      entries.emplace_back(str("p", i), counting({shard.length()}, DType::f32, shard.offset()),
                           shard);
    }
    save({.dir = dir.path(), .step = 3, .entries = entries, .group = &group});
  });
  const Checkpoint checkpoint = Checkpoint::open(dir.path() + "/step-00000003");
  for (const int readers : {1, 2, 3, 5})
    for (int rank = 0; rank < readers; ++rank)
      for (size_t i = 0; i < shapes.size(); ++i) {
        const ShardSpec shard = share(shapes[i], rank, readers);
        const Entry entry(str("p", i), Tensor::zeros({shard.length()}), shard);
        checkpoint.read({&entry, 1});
        EXPECT_EQ(bytes_of(entry.tensor),
                  bytes_of(counting({shard.length()}, DType::f32, shard.offset())));
      }
}

TEST_P(SaveOnRanks, EveryRankHearsOfAFailureOnOne) {
  const test::TempDir dir;
  with_ranks(GetParam(), [&](comm::ProcessGroup& group) {
    save({.dir = dir.path(), .step = 1, .entries = model(), .group = &group});
    auto entries = model();
    const Tensor too_long = Tensor::zeros({entries[0].tensor.numel() + 1});
    if (group.rank() == group.size() - 1) entries[0].tensor = too_long;
    const std::string error = error_of(
        [&] { save({.dir = dir.path(), .step = 2, .entries = entries, .group = &group}); });
    EXPECT_THAT(error, HasSubstr(str("step 2 was not saved: rank ", group.size() - 1, ": ")));
    EXPECT_THAT(error, HasSubstr("t0.weight"));
  });
  EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000001"));
}

TEST(Save, PartsThatDoNotMakeUpATensorAreRefused) {
  const test::TempDir dir;
  const auto save_parts = [&](int64_t second_offset, DType second_dtype) {
    std::vector<std::string> errors(2);
    with_ranks(2, [&](comm::ProcessGroup& group) {
      const int64_t offset = group.rank() == 0 ? 0 : second_offset;
      const DType dtype = group.rank() == 0 ? DType::f32 : second_dtype;
      const Entry entry("w", counting({4}, dtype), {{8}, offset, 4});
      errors[static_cast<size_t>(group.rank())] = error_of(
          [&] { save({.dir = dir.path(), .step = 1, .entries = {entry}, .group = &group}); });
    });
    EXPECT_EQ(errors[0], errors[1]);
    return errors[0];
  };
  EXPECT_THAT(save_parts(3, DType::f32),
              AllOf(HasSubstr("parts overlap: ranks 0 and 1 hold element 3"),
                    HasSubstr("rank 1 as one of elements 3 to 7")));
  EXPECT_THAT(save_parts(0, DType::f32), HasSubstr("no rank holds element 4, index [4], of [8]"));
  EXPECT_THAT(save_parts(4, DType::i32), HasSubstr("'w' is f32[8] on rank 0 and i32[8] on rank 1"));
  EXPECT_TRUE(names_in(dir.path()).empty());
  EXPECT_EQ(save_parts(4, DType::f32), "(no error)");
}

TEST(Save, StridedTensorsAreSavedByValue) {
  const test::TempDir dir;
  const Tensor matrix = counting({3, 5});
  save({.dir = dir.path(), .step = 1, .entries = {Entry("t", matrix.transpose(0, 1))}});
  const Checkpoint checkpoint = Checkpoint::open(dir.path() + "/step-00000001");
  EXPECT_EQ(checkpoint.read_whole("t").to_vector<float>(),
            matrix.transpose(0, 1).to_vector<float>());
  const Tensor target = Tensor::zeros({3, 5});
  const Entry entry("t", target.transpose(0, 1));
  checkpoint.read({&entry, 1});
  EXPECT_EQ(target.to_vector<float>(), matrix.to_vector<float>());
}

TEST(Save, KeepsTheNewest) {
  const test::TempDir dir;
  for (int64_t step = 1; step <= 5; ++step)
    save({.dir = dir.path(), .step = step, .entries = model(), .keep = 2});
  EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000004", "step-00000005"));
}

TEST(Save, KeepNeverRemovesTheOneJustSaved) {
  const test::TempDir dir;
  for (int64_t step : {10, 20}) save({.dir = dir.path(), .step = step, .entries = model()});
  write_file(dir.path() + "/step-00000020/manifest.json", "broken");
  save({.dir = dir.path(), .step = 15, .entries = model(), .keep = 1});
  const LatestGood found = latest_good(dir.path());
  ASSERT_TRUE(found.checkpoint);
  EXPECT_EQ(found.checkpoint->step(), 15);
}

TEST(Save, TheSameStepIsReplaced) {
  const test::TempDir dir;
  save({.dir = dir.path(), .step = 1, .entries = model(0)});
  save({.dir = dir.path(), .step = 1, .entries = model(40)});
  const auto entries = empty_model();
  Checkpoint::open(dir.path() + "/step-00000001").read(entries);
  expect_equal(entries, model(40));
  EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000001"));
}

TEST(Save, HalfWrittenFoldersAreIgnoredAndRemoved) {
  const test::TempDir dir;
  std::filesystem::create_directories(dir.path() + "/step-00000009.tmp-0123456789abcdef");
  std::filesystem::create_directories(dir.path() + "/step-notes");
  EXPECT_FALSE(latest_good(dir.path()).checkpoint);
  EXPECT_TRUE(list(dir.path()).empty());
  save({.dir = dir.path(), .step = 1, .entries = model()});
  EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000001", "step-notes"));
}

TEST(Save, WhatIsReadMustFit) {
  const test::TempDir dir;
  save({.dir = dir.path(), .step = 1, .entries = model()});
  const Checkpoint checkpoint = Checkpoint::open(dir.path() + "/step-00000001");
  const auto read_error = [&](const Entry& entry) {
    // Nothing is read where one of several does not fit.
    const std::vector<Entry> entries = {Entry("t0.weight", Tensor::zeros({3, 1})), entry};
    const std::string error = error_of([&] { checkpoint.read(entries); });
    EXPECT_EQ(entries[0].tensor.to_vector<float>(), (std::vector<float>{0, 0, 0}));
    return error;
  };
  EXPECT_THAT(read_error(Entry("t9", Tensor::zeros({1}))), HasSubstr("holds no 't9'"));
  EXPECT_THAT(read_error(Entry("t1.weight", Tensor::zeros({3, 2}))),
              HasSubstr("'t1.weight' is bf16[3, 2]"));
  EXPECT_THAT(read_error(Entry("t0.weight", Tensor::zeros({4, 1}))),
              HasSubstr("but the program has f32[4, 1]"));
  EXPECT_THAT(error_of([&] { checkpoint.metadata("seed"); }), HasSubstr("has no 'seed'"));
}

TEST(Save, SumsAreWhatSha256sumReads) {
  const test::TempDir dir;
  const std::string folder = save({.dir = dir.path(), .step = 1, .entries = model()});
  const std::string manifest = read_file(folder + "/manifest.json"),
                    shard = read_file(folder + "/shard-00000-of-00001.safetensors");
  EXPECT_EQ(read_file(folder + "/SHA256SUMS"), sha256_hex(manifest) + "  manifest.json\n" +
                                                   sha256_hex(shard) +
                                                   "  shard-00000-of-00001.safetensors\n");
}

TEST(Digest, IsSha256OfTheDocumentedBytes) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const Tensor b = Tensor::from(std::vector<float>{1, 2}, {2, 1}),
               a = Tensor::from(std::vector<int32_t>{7}, {});
  const std::vector<NamedTensor> tensors = {{"b", b}, {"a", a}};
  const std::string bytes = std::string("a\0i32[]\n", 8) + std::string("\7\0\0\0", 4) +
                            std::string("b\0f32[2,1]\n", 11) +
                            std::string("\0\0\x80\x3f\0\0\0\x40", 8);
  EXPECT_EQ(weights_sha256(tensors), sha256_hex(bytes));
  const std::vector<NamedTensor> twice = {{"b", b}, {"b", b}};
  EXPECT_THROW(weights_sha256(twice), UsageError);
}

// One that list() and resume would not see.
TEST(Save, AStepThatNoFolderNamesIsRefused) {
  const test::TempDir dir;
  const auto at = [&](int64_t step) {
    return error_of(
        [&] { save({.dir = dir.path(), .step = step, .entries = {Entry("a", counting({2}))}}); });
  };
  for (const int64_t step :
       {int64_t{1'000'000'000'000'000'000}, std::numeric_limits<int64_t>::max()})
    EXPECT_THAT(at(step), HasSubstr("has more digits than a folder's name holds"));
  EXPECT_TRUE(names_in(dir.path()).empty());
  EXPECT_EQ(at(999'999'999'999'999'999), "(no error)");
  EXPECT_EQ(list(dir.path()).size(), 1u);
}

// A manifest is JSON. What it cannot hold is refused before anything is written.
TEST(Save, WhatIsNoUtf8IsRefusedByName) {
  const test::TempDir dir;
  EXPECT_THAT(error_of([&] {
                save({.dir = dir.path(), .step = 1, .entries = {Entry("caf\xe9", counting({4}))}});
              }),
              HasSubstr("cannot be the name of a tensor: it is not UTF-8"));
  EXPECT_THAT(error_of([&] {
                save({.dir = dir.path(),
                      .step = 1,
                      .entries = {Entry("a", counting({4}))},
                      .metadata = {{"path", "caf\xe9"}}});
              }),
              HasSubstr("metadata 'path' is not UTF-8"));
  EXPECT_TRUE(names_in(dir.path()).empty());
}

}  // namespace
}  // namespace lockstep::checkpoint
