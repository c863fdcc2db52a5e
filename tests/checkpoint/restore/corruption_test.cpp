// Damaged bytes: every bit and every length of a checkpoint, files that are missing, doubled or
// swapped, names that lead elsewhere.
#include <algorithm>
#include <functional>

#include <nlohmann/json.hpp>

#include "checkpoint/format/chunks.h"
#include "checkpoint/format/digest.h"
#include "core/base/parallel.h"
#include "tests/checkpoint/helpers.h"
#include "tests/checkpoint/memory_files.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// 64 KiB.
std::vector<Entry> model(int64_t start = 0) {
  return {Entry("wte.weight", counting({60, 100}, DType::f32, start)),
          Entry("h.0.weight", counting({50, 120}, DType::f32, start)),
          Entry("h.0.bias", counting({50}, DType::bf16, start)),
          Entry("step", counting({}, DType::i64, start)),
          Entry("wpe.weight", counting({40, 100}, DType::f32, start))};
}
std::vector<Entry> targets() {
  auto entries = model();
  for (auto& entry : entries) entry.tensor.zero_();
  return entries;
}

constexpr const char* kFolder = "/run/step-00000001";

// What a rank of two holds of the model: all of it, or of some matrices half the columns.
std::vector<Entry> held_by(int rank, bool boxes) {
  std::vector<Entry> entries = model();
  for (const size_t i : {size_t{0}, size_t{4}}) {
    if (!boxes) continue;
    const ShardSpec columns = cell_of(entries[i].tensor.shape(), rank, 1, 2);
    entries[i] = Entry(entries[i].name, counting_part(columns), columns);
  }
  return entries;
}

// Such a checkpoint of two ranks with two files each in memory, to be damaged.
std::shared_ptr<MemoryFiles> saved_in_memory(bool boxes) {
  const test::TempDir dir;
  with_ranks(2, [&](comm::ProcessGroup& group) {
    save({.dir = dir.path(),
          .step = 1,
          .entries = held_by(group.rank(), boxes),
          .group = &group,
          .two_files_above = 0});
  });
  EXPECT_EQ(Checkpoint::open(dir.path() + "/step-00000001").manifest().version, boxes ? 4 : 3);
  EXPECT_EQ(Checkpoint::open(dir.path() + "/step-00000001").manifest().files.size(), 4u);
  auto files = std::make_shared<MemoryFiles>();
  for (const auto& name : names_in(dir.path() + "/step-00000001"))
    files->add_file(str(kFolder, "/", name), read_file(dir.path() + "/step-00000001/" + name));
  return files;
}

// Opens and reads everything.
std::string error_of_reading(FileSystem& files, const std::vector<Entry>& into) {
  return error_of([&] { Checkpoint::open(kFolder, &files).read(into); });
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Corruption : public ::testing::Test {
 protected:
  explicit Corruption(bool boxes = false) : files_(saved_in_memory(boxes)) {}
  void SetUp() override { set_num_threads(1); }
  const std::shared_ptr<MemoryFiles> files_;
  const std::vector<Entry> into_ = targets();
};

class CorruptionOf : public Corruption, public ::testing::WithParamInterface<bool> {
 protected:
  CorruptionOf() : Corruption(GetParam()) {}
};
INSTANTIATE_TEST_SUITE_P(Parts, CorruptionOf, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "boxes" : "runs"; });

TEST_P(CorruptionOf, EveryBitOfEveryShardIsFoundAndFileTensorAndBytesNamed) {
  const Checkpoint checkpoint = Checkpoint::open(kFolder, files_.get());
  const auto pieces = pieces_by_file(checkpoint.manifest());
  int64_t cases = 0;
  for (size_t f = 0; f < pieces.size(); ++f) {
    const ManifestFile& file = checkpoint.manifest().files[f];
    const std::string path = str(kFolder, "/", file.name);
    std::string& bytes = files_->contents(path);
    const auto try_bits = [&](int64_t begin, int64_t end, const std::string& named) {
      for (int64_t bit = begin * 8; bit < end * 8; ++bit, ++cases) {
        char& byte = bytes[static_cast<size_t>(bit / 8)];
        byte = static_cast<char>(byte ^ 1 << bit % 8);
        const std::string error = error_of([&] { checkpoint.read(into_); });
        byte = static_cast<char>(byte ^ 1 << bit % 8);
        if (!contains(error, path) || !contains(error, named))
          FAIL() << "bit " << bit << " of " << path << ": " << error;
      }
    };
    try_bits(0, file.header_bytes,
             str("bytes 0 to ", file.header_bytes, " (the header): the XXH3 is "));
    for (const PlacedPiece& p : pieces[f]) {
      const auto into = std::find_if(into_.begin(), into_.end(),
                                     [&](const Entry& entry) { return entry.name == *p.name; });
      into->tensor.zero_();
      try_bits(p.piece->begin, p.piece->begin + p.bytes,
               str("bytes ", p.piece->begin, " to ", p.piece->begin + p.bytes, " ('", *p.name,
                   "', elements 0 to ", p.piece->part.length(),
                   p.piece->part.is_box() ? str(" of the box ", p.piece->part, ")") : ")"));
      for (const CommonRun& run : common_runs(p.piece->part, into->shard)) {
        const auto* values = static_cast<const uint8_t*>(into->tensor.raw());
        const int64_t element = size_of(p.entry->dtype);
        EXPECT_TRUE(std::all_of(values + run.in_b * element,
                                values + (run.in_b + run.length) * element,
                                [](uint8_t byte) { return byte == 0; }))
            << "a wrong value got into " << *p.name;
      }
    }
  }
  EXPECT_GE(cases, 8 * 64 * 1000);
  EXPECT_EQ(error_of_reading(*files_, into_), "(no error)");
}

TEST_F(Corruption, EveryBitOfManifestAndSumsIsFound) {
  for (const char* name : {"manifest.json", "SHA256SUMS"}) {
    std::string& bytes = files_->contents(str(kFolder, "/", name));
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      char& byte = bytes[bit / 8];
      byte = static_cast<char>(byte ^ 1 << bit % 8);
      const std::string error = error_of([&] { Checkpoint::open(kFolder, files_.get()); });
      byte = static_cast<char>(byte ^ 1 << bit % 8);
      ASSERT_THAT(error, AllOf(HasSubstr(kFolder), HasSubstr("was changed")))
          << "bit " << bit << " of " << name;
    }
  }
  EXPECT_EQ(error_of_reading(*files_, into_), "(no error)");
}

TEST_F(Corruption, EveryLengthIsFoundAndSizesNamed) {
  for (const auto& name : files_->list(kFolder)) {
    const std::string path = str(kFolder, "/", name);
    std::string& bytes = files_->contents(path);
    const std::string good = bytes;
    const bool shard = contains(name, "shard");
    for (size_t length = 0; length <= good.size() + 9;
         length = length == good.size() + 9 ? good.size() * 3 : length + 1) {
      if (length == good.size()) continue;
      bytes = good.substr(0, length);
      bytes.resize(length, '\0');
      const std::string error = error_of([&] { Checkpoint::open(kFolder, files_.get()); });
      ASSERT_THAT(error, HasSubstr(shard ? str("'", path, "' was changed: it has ", length,
                                               " bytes, expected ", good.size())
                                         : "was changed"))
          << name << " of " << length << " bytes";
    }
    bytes = good;
  }
  EXPECT_EQ(error_of_reading(*files_, into_), "(no error)");
}

TEST_F(Corruption, BurstsAreFound) {
  const Checkpoint checkpoint = Checkpoint::open(kFolder, files_.get());
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    const ManifestFile& file = checkpoint.manifest().files[random() % 4];
    std::string& bytes = files_->contents(str(kFolder, "/", file.name));
    const size_t begin = random() % bytes.size(),
                 length = std::min<size_t>(1 + random() % 4096, bytes.size() - begin);
    const std::string good = bytes.substr(begin, length);
    for (size_t at = begin; at < begin + length; ++at) bytes[at] = static_cast<char>(random());
    const bool same = bytes.compare(begin, length, good) == 0;
    const std::string error = error_of([&] { checkpoint.read(into_); });
    bytes.replace(begin, length, good);
    ASSERT_TRUE(same || contains(error, file.name)) << begin << " " << length << ": " << error;
  }
}

// Calls change(path, parent, key) for every value of the JSON, at any depth.
using Change =
    std::function<void(const std::string& path, nlohmann::json& parent, const std::string& key)>;
void for_each_field(nlohmann::json& value, const std::string& path, const Change& change) {
  if (!value.is_object() && !value.is_array()) return;
  std::vector<std::string> keys;
  for (const auto& item : value.items()) keys.push_back(item.key());
  for (const std::string& key : keys) {
    const std::string below = path + "/" + key;
    if (path != "/metadata") change(below, value, key);
    for_each_field(value.is_array() ? value[std::stoul(key)] : value[key], below, change);
  }
}

// Somebody changes the manifest and makes SHA256SUMS agree: each field that is missing, null, 0 or
// empty must still be found, by whoever reads or verifies.
TEST_P(CorruptionOf, NoFieldOfTheManifestCanBeLeftOutOrEmptied) {
  std::string& text = files_->contents(str(kFolder, "/manifest.json"));
  std::string& sums = files_->contents(str(kFolder, "/SHA256SUMS"));
  const std::string good_text = text, good_sums = sums;
  auto all = nlohmann::json::parse(text);
  int cases = 0;
  const auto try_one = [&](const std::string& what) {
    text = all.dump(1) + "\n";
    if (nlohmann::json::parse(good_text) == all) return;  // it was 0 already
    sums = sha256_hex(text) + "  manifest.json\n";
    for (const auto& file : all.value("files", nlohmann::json::array()))
      if (file.is_object() && file.contains("sha256") && file["sha256"].is_string() &&
          file.contains("name") && file["name"].is_string())
        sums += file["sha256"].get<std::string>() + "  " + file["name"].get<std::string>() + "\n";
    const std::string error = error_of([&] {
      const Checkpoint checkpoint = Checkpoint::open(kFolder, files_.get());
      checkpoint.read(into_);
      checkpoint.verify();
    });
    EXPECT_NE(error, "(no error)") << what;
    ++cases;
  };
  for_each_field(all, "",
                 [&](const std::string& path, nlohmann::json& parent, const std::string& key) {
                   auto& field = parent.is_array() ? parent[std::stoul(key)] : parent[key];
                   const nlohmann::json kept = field;
                   for (const nlohmann::json& other :
                        {nlohmann::json(nullptr), nlohmann::json(0), nlohmann::json(""),
                         nlohmann::json::array(), nlohmann::json::object()}) {
                     if (path == "/metadata" && other.is_object()) continue;  // free to be empty
                     field = other;
                     try_one(path + " = " + other.dump());
                   }
                   field = kept;
                   if (!parent.is_object()) return;
                   parent.erase(key);
                   try_one(path + " left out");
                   parent[key] = kept;
                 });
  EXPECT_GT(cases, 200);
  text = good_text;
  sums = good_sums;
  EXPECT_EQ(error_of_reading(*files_, into_), "(no error)");
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kRandomBits = 5'000;  // sanitizers look at every access of the checksum's, and it
                                       // goes over a MiB for each bit
#else
constexpr size_t kRandomBits = 100'000;
#endif

TEST_F(Corruption, RandomBitsOfALargeCheckpointAreFound) {
  const test::TempDir dir;
  constexpr int64_t kElements = 26'214'400;  // 100 MiB
  const std::string folder =
      save({.dir = dir.path(), .step = 1, .entries = {Entry("w", counting({kElements}))}});
  MemoryFiles files;
  for (const auto& name : names_in(folder))
    files.add_file(str(kFolder, "/", name), read_file(folder + "/" + name));
  const Checkpoint checkpoint = Checkpoint::open(kFolder, &files);
  const std::vector<Piece>& pieces = checkpoint.manifest().entries.at("w").pieces;
  ASSERT_EQ(pieces.size(), 2u);  // in two files
  // In ascending order: then what lies around one flip is still in the cache for the next.
  std::mt19937_64 random(7);
  std::vector<int64_t> bits(kRandomBits);
  for (int64_t& bit : bits) bit = static_cast<int64_t>(random() % (kElements * 32));
  std::sort(bits.begin(), bits.end());
  Entry wanted("w", Tensor::zeros({1}), {{kElements}, 0, 1});
  for (const int64_t bit : bits) {
    wanted.shard = {{kElements}, bit / 32, 1};
    const Piece& piece = pieces[bit / 32 < pieces[1].part.offset() ? 0 : 1];
    const std::string path =
        str(kFolder, "/", checkpoint.manifest().files[static_cast<size_t>(piece.file)].name);
    const int64_t in_piece = bit / 8 - piece.part.offset() * 4;
    char& byte = files.contents(path)[static_cast<size_t>(piece.begin + in_piece)];
    const auto flipped = static_cast<char>(1 << bit % 8);
    byte = static_cast<char>(byte ^ flipped);
    const std::string error = error_of([&] { checkpoint.read({&wanted, 1}); });
    byte = static_cast<char>(byte ^ flipped);
    const int64_t chunk = in_piece / kChunkBytes, at = chunk * kChunkBytes;
    const std::string where = str("'", path, "' was changed: bytes ", piece.begin + at, " to ",
                                  piece.begin + at + kChunkBytes, " ('w', elements ",
                                  piece.part.offset() + at / 4, " to ");
    ASSERT_TRUE(contains(error, where) &&
                contains(error, "expected " + hex_of(piece.xxh3[static_cast<size_t>(chunk)])))
        << bit << ": " << error;
  }
  EXPECT_EQ(wanted.tensor.item(), 0) << "a wrong value got into the tensor";
}

TEST_F(Corruption, MissingFilesAreAllListed) {
  const auto names = files_->list(kFolder);
  for (const auto& name : names) {
    const std::string path = str(kFolder, "/", name), good = files_->contents(path);
    files_->remove(path);
    EXPECT_THAT(error_of([&] { Checkpoint::open(kFolder, files_.get()); }),
                AllOf(HasSubstr(path), HasSubstr("No such file")));
    files_->make_directory(path);
    EXPECT_THAT(error_of([&] { Checkpoint::open(kFolder, files_.get()); }), HasSubstr(path));
    files_->remove(path);
    files_->add_file(path, good);
  }
  // Two at once. Without the manifest or its sums nobody knows of the shards; those that are
  // missing are all named.
  for (size_t i = 0; i < names.size(); ++i)
    for (size_t j = i + 1; j < names.size(); ++j) {
      const std::string first = str(kFolder, "/", names[i]), second = str(kFolder, "/", names[j]);
      const std::string good = files_->contents(first), also_good = files_->contents(second);
      files_->remove(first);
      files_->remove(second);
      const std::string error = error_of([&] { Checkpoint::open(kFolder, files_.get()); });
      const bool shards = contains(first, "shard") && contains(second, "shard");
      EXPECT_THAT(error, shards
                             ? AllOf(HasSubstr(first), HasSubstr("; "), HasSubstr(second))
                             : AllOf(HasSubstr(kFolder), HasSubstr("No such file"), HasSubstr("")));
      files_->add_file(first, good);
      files_->add_file(second, also_good);
    }
  EXPECT_EQ(error_of_reading(*files_, into_), "(no error)");
}

TEST(CorruptionOnDisk, SwappedDoubledAndForeignShardsAreFound) {
  const test::TempDir dir;
  // Shards of equal sizes and, in the second step, equal values.
  for (const int64_t step : {1, 2})
    with_ranks(2, [&](comm::ProcessGroup& group) {
      const std::vector<Entry> entries = {Entry("a", counting({100})), Entry("b", counting({100}))};
      save({.dir = dir.path(), .step = step, .entries = entries, .group = &group});
    });
  const std::string folder = dir.path() + "/step-00000002",
                    first = folder + "/shard-00000-of-00002.safetensors",
                    second = folder + "/shard-00001-of-00002.safetensors";
  const std::string a = read_file(first), b = read_file(second);
  ASSERT_EQ(a.size(), b.size());
  const std::vector<Entry> into = {Entry("a", Tensor::zeros({100})),
                                   Entry("b", Tensor::zeros({100}))};
  const auto error_with = [&](const std::string& one, const std::string& other) {
    write_file(first, one);
    write_file(second, other);
    const Checkpoint checkpoint = Checkpoint::open(folder);
    const std::string read_error = error_of([&] { checkpoint.read(into); });
    EXPECT_THAT(error_of([&] { checkpoint.verify(); }), AnyOf(HasSubstr(first), HasSubstr(second)));
    EXPECT_EQ(into[0].tensor.to_vector<float>(), std::vector<float>(100, 0.0f));
    return read_error;
  };
  const std::string other_step =
      read_file(dir.path() + "/step-00000001/shard-00000-of-00002.safetensors");
  EXPECT_THAT(error_with(b, a), AllOf(HasSubstr(first), HasSubstr("(the header)")));
  EXPECT_THAT(error_with(b, b), HasSubstr(first));
  EXPECT_THAT(error_with(other_step, b), HasSubstr(first));
  write_file(first, a);

  // A whole manifest, or a whole folder, of another step.
  for (const char* name : {"manifest.json", "SHA256SUMS"})
    std::filesystem::copy_file(dir.path() + "/step-00000001/" + name, folder + "/" + name,
                               std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(error_of([&] { Checkpoint::open(folder); }),
              HasSubstr("is of step 1, but its folder is named for step 2"));
  std::filesystem::rename(folder, dir.path() + "/copied");
  EXPECT_THAT(error_of([&] { Checkpoint::open(dir.path() + "/copied").read(into); }),
              HasSubstr("(the header)"));
}

TEST(CorruptionOnDisk, SymbolicLinksAreRefused) {
  const test::TempDir dir;
  save({.dir = dir.path(), .step = 1, .entries = model()});
  const std::string folder = dir.path() + "/step-00000001";
  for (const auto& name : names_in(folder)) {
    const std::string path = folder + "/" + name;
    std::filesystem::rename(path, dir.path() + "/elsewhere");
    std::filesystem::create_symlink("../elsewhere", path);
    EXPECT_THAT(error_of([&] { Checkpoint::open(folder).read(targets()); }),
                AllOf(HasSubstr(path), HasSubstr("a symbolic link is not allowed")));
    std::filesystem::rename(dir.path() + "/elsewhere", path);
  }
  EXPECT_NO_THROW(Checkpoint::open(folder).verify());
}

TEST(CorruptionOnDisk, TheLatestGoodOneIsTakenAndOthersExplained) {
  const test::TempDir dir;
  for (const int64_t step : {1, 2, 3, 4, 5})
    with_ranks(2, [&](comm::ProcessGroup& group) {
      save({.dir = dir.path(), .step = step, .entries = model(step), .group = &group});
    });
  std::filesystem::remove(dir.path() + "/step-00000003/manifest.json");
  std::filesystem::resize_file(dir.path() + "/step-00000004/shard-00001-of-00002.safetensors", 10);
  const std::string path = dir.path() + "/step-00000005/shard-00000-of-00002.safetensors";
  std::string bytes = read_file(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file(path, bytes);

  const auto why = ElementsAre(AllOf(HasSubstr("step-00000005"), HasSubstr("was changed: bytes ")),
                               AllOf(HasSubstr("step-00000004"), HasSubstr("has 10 bytes")),
                               AllOf(HasSubstr("step-00000003"), HasSubstr("No such file")));
  const LatestGood found = latest_good(dir.path());
  ASSERT_TRUE(found.checkpoint);
  EXPECT_EQ(found.checkpoint->step(), 2);
  EXPECT_THAT(found.skipped, why);
  EXPECT_EQ(latest_good(dir.path(), Check::manifest).checkpoint->step(), 5);
  EXPECT_FALSE(latest_good(dir.path() + "/none").checkpoint);

  const auto quick = list(dir.path()), full = list(dir.path(), Check::everything);
  ASSERT_EQ(quick.size(), 5u);
  EXPECT_EQ(quick[4].problem, "");
  EXPECT_GT(quick[4].bytes, 64000);
  EXPECT_EQ(full[0].problem, "");
  EXPECT_THAT(full[4].problem, HasSubstr("shard-00000-of-00002"));

  // Restoring takes the same one on all ranks, also where only one of them reads what is damaged.
  with_ranks(2, [&](comm::ProcessGroup& group) {
    const auto all = targets();
    const std::vector<Entry> mine = group.rank() == 0 ? std::vector<Entry>{all[0], all[2], all[4]}
                                                      : std::vector<Entry>{all[1], all[3]};
    const Restored restored = restore_latest(dir.path(), mine, &group);
    ASSERT_TRUE(restored.checkpoint);
    EXPECT_EQ(restored.checkpoint->step(), 2);
    EXPECT_THAT(restored.skipped, why);
    EXPECT_EQ(bytes_of(mine[0].tensor), bytes_of(model(2)[group.rank() == 0 ? 0u : 1u].tensor));
  });
}

TEST(CorruptionOnDisk, OneOfAnotherNameIsLookedAtWhereItLies) {
  const test::TempDir dir;
  const std::string saved = save({.dir = dir.path(), .step = 3, .entries = model()}),
                    best = dir.path() + "/best";
  std::filesystem::rename(saved, best);
  EXPECT_TRUE(list(dir.path()).empty());
  EXPECT_EQ(look_at(best, Check::everything).problem, "");
  EXPECT_EQ(look_at(best).step, 3);
  write_file(best + "/manifest.json", "{}");
  EXPECT_EQ(look_at(best).step, -1);
  EXPECT_THAT(look_at(best).problem, HasSubstr("best/manifest.json' was changed"));
  std::filesystem::rename(best, dir.path() + "/step-00000004");  // of another step
  EXPECT_EQ(look_at(dir.path() + "/step-00000004").step, 4);
}

TEST(CorruptionOnDisk, WhatTheManifestDoesNotNameIsNoProblemButListed) {
  const test::TempDir dir;
  for (const int64_t step : {1, 2}) save({.dir = dir.path(), .step = step, .entries = model(step)});
  const std::string one = dir.path() + "/step-00000001/", two = dir.path() + "/step-00000002/";
  std::filesystem::create_directory(one + "notes");
  write_file(one + "shard-00001-of-00002.safetensors", "left over");
  write_file(two + "late.txt", "x");
  std::filesystem::resize_file(two + "shard-00000-of-00001.safetensors", 10);
  const auto full = list(dir.path(), Check::everything);
  ASSERT_EQ(full.size(), 2u);
  EXPECT_EQ(full[0].problem, "");
  EXPECT_THAT(full[0].unknown, ElementsAre("notes", "shard-00001-of-00002.safetensors"));
  EXPECT_THAT(full[1].problem, HasSubstr("has 10 bytes"));
  EXPECT_THAT(list(dir.path())[0].unknown, ::testing::IsEmpty());
}

TEST(CorruptionOnDisk, WhereNoneIsGoodARunDoesNotStartAnew) {
  const test::TempDir dir;
  EXPECT_FALSE(restore_latest(dir.path(), targets(), nullptr).checkpoint);
  save({.dir = dir.path(), .step = 1, .entries = model()});
  std::filesystem::remove(dir.path() + "/step-00000001/SHA256SUMS");
  EXPECT_THAT(error_of([&] { restore_latest(dir.path(), targets(), nullptr); }),
              AllOf(HasSubstr("none of the 1 checkpoints in"), HasSubstr("move them away"),
                    HasSubstr("SHA256SUMS': No such file")));
}

}  // namespace
}  // namespace lockstep::checkpoint
