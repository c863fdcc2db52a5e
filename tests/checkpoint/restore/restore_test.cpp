// Restoring: any shards from any other shards, reading no more than they need; older formats.
#include <atomic>

#include <nlohmann/json.hpp>

#include "checkpoint/format/chunks.h"
#include "checkpoint/format/digest.h"
#include "core/ops/functions.h"
#include "tests/checkpoint/forwarding_files.h"
#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// How a run of W ranks holds a tensor: whole on all, cut evenly (the last ones short, as FSDP
// pads), cut unevenly, some with nothing, cut into boxes of half the rows, or into columns of which
// two ranks hold the same.
enum class Layout { replicated, even, uneven, boxes, columns_twice };

ShardSpec part_of(const Shape& shape, Layout layout, int rank, int size) {
  if (layout == Layout::boxes) return cell_of(shape, rank, 2, size / 2);
  if (layout == Layout::columns_twice) return cell_of(shape, rank % (size / 2), 1, size / 2);
  const int64_t n = shape.numel(), share = (n + size - 1) / size;
  int64_t begin = 0, end = n;
  if (layout == Layout::even)
    begin = std::min(n, share * rank), end = std::min(n, share * (rank + 1));
  if (layout == Layout::uneven)
    begin = n * rank * rank / (size * size), end = n * (rank + 1) * (rank + 1) / (size * size);
  return {shape, begin, end - begin};
}

// Small ones, an odd one, a scalar, one without elements, and one of several chunks.
const std::vector<std::pair<Shape, DType>> kTensors = {
    {{7, 9}, DType::f32},      {{3}, DType::bf16},  {{}, DType::i64},       {{0, 4}, DType::f32},
    {{700, 1031}, DType::f32}, {{5, 5}, DType::u8}, {{3, 4, 5}, DType::i32}};

std::vector<Entry> entries_of(Layout layout, int rank, int size, bool filled) {
  std::vector<Entry> entries;
  for (size_t i = 0; i < kTensors.size(); ++i) {
    const auto& [shape, dtype] = kTensors[i];
    const ShardSpec shard = part_of(shape, layout, rank, size);
    entries.emplace_back(str("p", i),
                         filled ? counting_part(shard, dtype, static_cast<int64_t>(i))
                                : Tensor::zeros(shard.shape(), dtype),
                         shard);
  }
  return entries;
}

struct World {
  int ranks;
  Layout layout;
};
const std::vector<World> kWorlds = {
    {1, Layout::replicated}, {2, Layout::replicated}, {4, Layout::replicated},
    {2, Layout::even},       {3, Layout::even},       {4, Layout::even},
    {5, Layout::uneven},     {8, Layout::even},       {3, Layout::uneven},
    {4, Layout::boxes},      {6, Layout::boxes},      {4, Layout::columns_twice}};

class RestoreFrom : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Files, RestoreFrom, ::testing::Values(kTwoFilesAbove, 0),
                         [](const auto& each) {
                           return each.param == 0 ? "two_a_rank" : "one_a_rank";
                         });

TEST_P(RestoreFrom, AnyShardsToAnyOthers) {
  for (const World& saver : kWorlds) {
    const test::TempDir dir;
    with_ranks(saver.ranks, [&](comm::ProcessGroup& group) {
      save({.dir = dir.path(),
            .step = 1,
            .entries = entries_of(saver.layout, group.rank(), group.size(), true),
            .group = &group,
            .two_files_above = GetParam()});
    });
    for (const World& loader : kWorlds)
      with_ranks(loader.ranks, [&](comm::ProcessGroup& group) {
        const auto into = entries_of(loader.layout, group.rank(), group.size(), false);
        const Restored restored = restore_latest(dir.path(), into, &group);
        ASSERT_TRUE(restored.checkpoint);
        const auto expected = entries_of(loader.layout, group.rank(), group.size(), true);
        for (size_t i = 0; i < into.size(); ++i)
          ASSERT_EQ(bytes_of(into[i].tensor), bytes_of(expected[i].tensor))
              << into[i].name << " from " << saver.ranks << " to " << loader.ranks;
      });
    const Checkpoint checkpoint = Checkpoint::open(dir.path() + "/step-00000001");
    EXPECT_NO_THROW(checkpoint.verify());
    const bool boxes = saver.layout == Layout::boxes || saver.layout == Layout::columns_twice;
    EXPECT_EQ(checkpoint.manifest().version, boxes ? 4 : 3);
  }
}

// The real files, with what is read of them counted.
class CountingFiles final : public ForwardingFiles {
 public:
  std::atomic<int64_t> bytes = 0;

  std::unique_ptr<ReadableFile> open(const std::string& path) override {
    return std::make_unique<File>(*this, real_.open(path));
  }

 private:
  class File final : public ReadableFile {
   public:
    File(CountingFiles& files, std::unique_ptr<ReadableFile> real)
        : files_(files), real_(std::move(real)) {}
    const std::string& path() const override { return real_->path(); }
    int64_t bytes() const override { return real_->bytes(); }
    void read(int64_t offset, void* data, int64_t count) const override {
      files_.bytes += count;
      real_->read(offset, data, count);
    }

   private:
    CountingFiles& files_;
    std::unique_ptr<ReadableFile> real_;
  };
};

TEST(Restore, ReadsOnlyWhatARankNeeds) {
  const test::TempDir dir;
  const int64_t elements = 4 << 20;  // 16 MiB: 16 chunks
  const std::string folder =
      save({.dir = dir.path(),
            .step = 1,
            .entries = {Entry("w", counting({elements})), Entry("b", counting({8}))}});
  CountingFiles files;
  const Checkpoint checkpoint = Checkpoint::open(folder, &files);
  EXPECT_LT(files.bytes, 16384) << "opening reads the manifest, not the shards";

  const int64_t header = checkpoint.manifest().files[0].header_bytes;
  const auto read_range = [&](int64_t offset, int64_t length) {
    const Entry entry("w", Tensor::zeros({length}), {{elements}, offset, length});
    files.bytes = 0;
    const ReadReport report = checkpoint.read({&entry, 1});
    EXPECT_EQ(bytes_of(entry.tensor), bytes_of(counting({length}, DType::f32, offset)));
    EXPECT_EQ(report.bytes, files.bytes);
    EXPECT_EQ(report.files, length > 0 ? 1 : 0);
    return report.bytes == 0 ? 0 : report.bytes - header;
  };
  constexpr int64_t kMiB = 1 << 20, kPerChunk = kMiB / 4;
  EXPECT_EQ(read_range(0, elements), 16 * kMiB);
  EXPECT_EQ(read_range(elements / 2, elements / 2), 8 * kMiB);
  EXPECT_EQ(read_range(kPerChunk, kPerChunk), kMiB);
  EXPECT_EQ(read_range(kPerChunk - 1, 2), 2 * kMiB);
  EXPECT_EQ(read_range(elements - 1, 1), kMiB);
  EXPECT_EQ(read_range(5, 0), 0);

  const Entry bias("b", Tensor::zeros({8}));
  EXPECT_EQ(checkpoint.read({&bias, 1}).bytes, header + 32);
}

// Of a box that was saved, and for a box that is wanted.
TEST(Restore, ReadsOnlyTheChunksThatHoldWantedElements) {
  const test::TempDir dir;
  const Shape shape = {1024, 2048};  // 8 MiB: a chunk has 128 rows, or 256 of half the columns
  with_ranks(2, [&](comm::ProcessGroup& group) {
    const ShardSpec columns = cell_of(shape, group.rank(), 1, 2);
    save({.dir = dir.path(),
          .step = 1,
          .entries = {Entry("columns", counting_part(columns), columns),
                      Entry("whole", counting(shape))},
          .group = &group});
  });
  const Checkpoint checkpoint = Checkpoint::open(dir.path() + "/step-00000001");
  constexpr int64_t kMiB = 1 << 20;
  const auto mib_read = [&](const char* name, const ShardSpec& wanted) {
    const Entry entry(name, Tensor::zeros(wanted.shape()), wanted);
    const ReadReport report = checkpoint.read({&entry, 1});
    EXPECT_EQ(bytes_of(entry.tensor), bytes_of(counting_part(wanted))) << name << " " << wanted;
    return report.bytes / kMiB;  // headers are less
  };
  EXPECT_EQ(mib_read("columns", ShardSpec::whole(shape)), 8);
  EXPECT_EQ(mib_read("columns", ShardSpec::box(shape, {0, 0}, {1024, 1024})), 4);
  EXPECT_EQ(mib_read("columns", ShardSpec::box(shape, {0, 7}, {1024, 1})), 4);
  EXPECT_EQ(mib_read("columns", ShardSpec::box(shape, {256, 1024}, {256, 1024})), 1);
  EXPECT_EQ(mib_read("columns", ShardSpec::box(shape, {255, 1000}, {2, 100})), 4);
  EXPECT_EQ(mib_read("columns", ShardSpec(shape, 300 * 2048, 1024)), 1);
  EXPECT_EQ(mib_read("columns", ShardSpec(shape, 300 * 2048, 1025)), 2);
  EXPECT_EQ(mib_read("whole", ShardSpec::box(shape, {128, 3}, {128, 5})), 1);
  EXPECT_EQ(mib_read("whole", ShardSpec::box(shape, {100, 3}, {100, 5})), 2);
}

// Other programs know only the header: it must describe a part as the manifest does.
TEST(Restore, AHeaderThatSaysSomethingElseIsFoundByVerify) {
  const test::TempDir dir;
  const std::string folder = dir.path() + "/step-00000007";
  std::filesystem::copy(str(LOCKSTEP_TESTDATA, "/v4/step-00000007"), folder);
  const std::string path = folder + "/shard-00000-of-00002.safetensors", good = read_file(path);
  const std::string manifest = read_file(folder + "/manifest.json");
  const auto error_with = [&](const std::string& from, const std::string& to) {
    std::string bytes = good;
    EXPECT_NE(bytes.find(from), std::string::npos) << bytes;
    bytes.replace(bytes.find(from), from.size(), to);
    write_file(path, bytes);
    auto all = nlohmann::json::parse(manifest);
    auto& file = all["files"][0];
    const auto header = bytes.substr(0, file["header_bytes"].get<size_t>());
    file["header_xxh3"] = hex_of(xxh3(header));
    file["sha256"] = sha256_hex(bytes);
    const std::string text = all.dump(1) + "\n";
    write_file(folder + "/manifest.json", text);
    write_file(folder + "/SHA256SUMS", sums_text(parse_manifest(text, "m"), sha256_hex(text)));
    return error_of([&] { Checkpoint::open(folder).verify(); });
  };
  const auto refused = HasSubstr("its header describes 'w' in another way than the manifest");
  EXPECT_EQ(error_with("[4,3]", "[4,3]"), "(no error)");
  EXPECT_THAT(error_with("[4,3]", "[3,4]"), refused);
  EXPECT_THAT(error_with("box [0:4, 0:3]", "box [0:4, 1:4]"), refused);
  EXPECT_THAT(error_with("box [0:4, 0:3]", "box [0:4, 0:3["), refused);
}

// The rows that are wanted of two slabs lie far from each other.
TEST(Restore, ReadsOnlyTheChunksAroundAGap) {
  const test::TempDir dir;
  const Shape shape = {2, 1024, 1024};  // 8 MiB: a chunk has 256 rows
  const std::string folder =
      save({.dir = dir.path(), .step = 1, .entries = {Entry("w", counting(shape))}});
  const ShardSpec wanted = ShardSpec::box(shape, {0, 200, 3}, {2, 50, 5});
  const Entry entry("w", Tensor::zeros(wanted.shape()), wanted);
  EXPECT_EQ(Checkpoint::open(folder).read({&entry, 1}).bytes >> 20, 2);
  EXPECT_EQ(bytes_of(entry.tensor), bytes_of(counting_part(wanted)));
}

TEST(Restore, ATensorOfAnotherShapeThanTheBoxIsRefused) {
  const test::TempDir dir;
  const ShardSpec columns = ShardSpec::box({4, 6}, {0, 0}, {4, 3});
  const std::string folder =
      save({.dir = dir.path(), .step = 1, .entries = {Entry("w", counting({4, 6}))}});
  const Checkpoint checkpoint = Checkpoint::open(folder);
  const Entry turned("w", Tensor::zeros({3, 4}), columns), flat("w", Tensor::zeros({12}), columns);
  EXPECT_THAT(error_of([&] {
                checkpoint.read({&turned, 1});
              }),
              HasSubstr("'w': no tensor of shape [4, 3] to read [0:4, 0:3] of [4, 6] into"));
  EXPECT_THAT(error_of([&] { save({.dir = dir.path(), .step = 2, .entries = {turned}}); }),
              HasSubstr("'w': a tensor of shape [3, 4] cannot be [0:4, 0:3] of [4, 6]"));
  checkpoint.read({&flat, 1});
  EXPECT_EQ(bytes_of(flat.tensor), bytes_of(counting_part(columns)));
}

TEST(Restore, FoldersWithAnyBytesInTheirNames) {
  const test::TempDir dir;
  const std::string strange = dir.path() + "/two\nlines \x01\xff";
  for (const int64_t step : {1, 2})
    save({.dir = strange, .step = step, .entries = {Entry("w", counting({8}, DType::f32, step))}});
  with_ranks(2, [&](comm::ProcessGroup& group) {
    const Entry into("w", Tensor::zeros({8}));
    const Restored restored = restore_latest(strange, {&into, 1}, &group);
    ASSERT_TRUE(restored.checkpoint);
    EXPECT_EQ(restored.checkpoint->step(), 2);
    EXPECT_EQ(bytes_of(into.tensor), bytes_of(counting({8}, DType::f32, 2)));
  });
}

TEST(Restore, DamageInAChunkThatNobodyNeedsHurtsNobody) {
  const test::TempDir dir;
  const int64_t elements = 1 << 20;
  const std::string folder =
      save({.dir = dir.path(), .step = 1, .entries = {Entry("w", counting({elements}))}});
  const std::string path = folder + "/shard-00000-of-00001.safetensors";
  std::string bytes = read_file(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file(path, bytes);
  const Checkpoint checkpoint = Checkpoint::open(folder);
  const Entry first("w", Tensor::zeros({elements / 2}), {{elements}, 0, elements / 2});
  EXPECT_NO_THROW(checkpoint.read({&first, 1}));
  const Entry second("w", Tensor::zeros({elements / 2}), {{elements}, elements / 2, elements / 2});
  EXPECT_THAT(error_of([&] {
                checkpoint.read({&second, 1});
              }),
              HasSubstr(str("('w', elements ", 3 * elements / 4, " to ", elements, ")")));
}

// A graph of before needs the values of before; so it does where the reading failed after a part.
TEST(Restore, WhatIsReadHasChanged) {
  const test::TempDir dir;
  const std::string folder =
      save({.dir = dir.path(), .step = 1, .entries = {Entry("w", counting({1 << 19}))}});
  const Checkpoint checkpoint = Checkpoint::open(folder);
  const auto backward_after_reading = [&](const Tensor& values) {
    const Parameter w("w", values);
    const Variable loss = ops::sum(ops::square(w));
    const Entry into("w", values);
    const std::string problem = error_of([&] { checkpoint.read({&into, 1}); });
    EXPECT_THAT(error_of([&] { loss.backward(); }),
                AllOf(HasSubstr("'w' f32["), HasSubstr("changed it since")))
        << problem;
    return problem;
  };
  EXPECT_EQ(backward_after_reading(Tensor::zeros({1 << 19})), "(no error)");
  EXPECT_EQ(backward_after_reading(Tensor::zeros({2, 1 << 19}).transpose(0, 1).select(1, 0)),
            "(no error)");
  std::string bytes = read_file(folder + "/shard-00000-of-00001.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file(folder + "/shard-00000-of-00001.safetensors", bytes);
  EXPECT_THAT(backward_after_reading(Tensor::zeros({1 << 19})), HasSubstr("cannot be used"));
}

// One checkpoint of each version of the format, as it was written then (save_in_boxes.cpp for
// the last one).
class Golden : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Versions, Golden, ::testing::Values(1, 2, 3, 4));

TEST_P(Golden, IsReadByThisProgram) {
  const std::string dir = str(LOCKSTEP_TESTDATA, "/v", GetParam());
  const Checkpoint checkpoint = Checkpoint::open(dir + "/step-00000007");
  EXPECT_EQ(checkpoint.manifest().version, GetParam());
  EXPECT_EQ(checkpoint.manifest().world_size, 2);
  EXPECT_EQ(checkpoint.metadata("seed"), "1337");
  EXPECT_NO_THROW(checkpoint.verify());
  EXPECT_EQ(bytes_of(checkpoint.read_whole("w")), bytes_of(counting({4, 6})));
  EXPECT_EQ(bytes_of(checkpoint.read_whole("b")), bytes_of(counting({3}, DType::bf16, 1)));
  EXPECT_EQ(checkpoint.read_whole("step").item(), 7);
  EXPECT_EQ(checkpoint.read_whole("none").numel(), 0);
  const Entry middle("w", Tensor::zeros({8}), {{4, 6}, 6, 8});
  checkpoint.read({&middle, 1});
  EXPECT_EQ(bytes_of(middle.tensor), bytes_of(counting({8}, DType::f32, 6)));
  const ShardSpec box = ShardSpec::box({4, 6}, {1, 2}, {2, 3});
  const Entry center("w", Tensor::zeros({2, 3}), box);
  checkpoint.read({&center, 1});
  EXPECT_EQ(bytes_of(center.tensor), bytes_of(counting_part(box)));
  EXPECT_EQ(checkpoint.manifest().entries.at("w").pieces[0].part.is_box(), GetParam() == 4);
}

TEST_P(Golden, IsNotReadWhereItIsDamaged) {
  const test::TempDir dir;
  std::filesystem::copy(str(LOCKSTEP_TESTDATA, "/v", GetParam(), "/step-00000007"),
                        dir.path() + "/step-00000007");
  const std::string folder = dir.path() + "/step-00000007";
  const Manifest manifest = Checkpoint::open(folder).manifest();
  const Piece& piece = manifest.entries.at("w").pieces.back();
  const std::string path = folder + "/" + manifest.files[static_cast<size_t>(piece.file)].name;
  std::string bytes = read_file(path);
  char& last = bytes[static_cast<size_t>(piece.begin + piece.part.length() * 4 - 1)];
  last = static_cast<char>(last ^ 1);
  write_file(path, bytes);
  EXPECT_THAT(error_of([&] { Checkpoint::open(folder).read_whole("w"); }), HasSubstr(path));
}

TEST(Restore, FromAFolderOfAnyName) {
  const test::TempDir dir;
  const std::string folder = dir.path() + "/two\nlines \xe9";
  with_ranks(2, [&](comm::ProcessGroup& group) {
    for (int64_t step : {1, 2})
      save({.dir = folder,
            .step = step,
            .entries = {Entry("a", counting({4}, DType::f32, step))},
            .group = &group});
    const Entry into("a", Tensor::zeros({4}));
    const Restored restored = restore_latest(folder, {&into, 1}, &group);
    ASSERT_TRUE(restored.checkpoint);
    EXPECT_EQ(restored.checkpoint->folder(), folder + "/step-00000002");
    EXPECT_EQ(bytes_of(into.tensor), bytes_of(counting({4}, DType::f32, 2)));
  });
}

}  // namespace
}  // namespace lockstep::checkpoint
