// The manifest: round trip, and every field that can be wrong.
#include "checkpoint/format/manifest.h"

#include <nlohmann/json.hpp>

#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::HasSubstr;

Manifest example() {
  Manifest manifest;
  manifest.step = 10;
  manifest.world_size = 2;
  manifest.metadata = {{"seed", "7"}};
  manifest.files = {
      {"shard-00000-of-00002.safetensors", 216, std::string(64, 'a'), 200, 0x0123456789abcdef},
      {"shard-00001-of-00002.safetensors", 308, std::string(64, 'b'), 300, 7}};
  manifest.entries["w"] = {
      DType::f32,
      {2, 3},
      {{0, 200, {{2, 3}, 0, 4}, {1}}, {1, 300, {{2, 3}, 4, 2}, {0xfedcba9876543210}}}};
  return manifest;
}

std::string error_with(const std::string& from, const std::string& to) {
  std::string text = to_json(example());
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  return error_of([&] { parse_manifest(text, "m.json"); });
}

TEST(Manifest, ReadsBackAsWritten) {
  const std::string text = to_json(example());
  EXPECT_EQ(to_json(parse_manifest(text, "m.json")), text);
  EXPECT_THAT(text, HasSubstr("\"header_xxh3\": \"0123456789abcdef\""));
  EXPECT_THAT(text, HasSubstr("\"xxh3\": \"fedcba9876543210\""));
}

// Versions 1 and 2 had one file a rank.
TEST(Manifest, RanksMayHaveSeveralFilesFromVersion3On) {
  const auto error = [](int64_t version, int64_t world_size) {
    Manifest manifest = example();
    manifest.version = version;
    manifest.world_size = world_size;
    return error_of([&] { parse_manifest(to_json(manifest), "m.json"); });
  };
  EXPECT_EQ(error(3, 1), "(no error)");
  EXPECT_EQ(error(3, 2), "(no error)");
  EXPECT_EQ(error(2, 2), "(no error)");
  EXPECT_THAT(error(2, 1), HasSubstr("'world_size' is 1, but there are 2 files"));
  EXPECT_THAT(error(3, 0), HasSubstr("'world_size' is 0, but there are 2 files"));
  EXPECT_THAT(error(3, 3), HasSubstr("'world_size' is 3, but there are 2 files"));
}

// The columns of a matrix, and the run that is left.
Manifest boxes() {
  const Shape shape = {2, 6};
  Manifest manifest = example();
  manifest.version = 4;
  manifest.files[0].bytes = 232;
  manifest.files[1].bytes = 316;
  manifest.entries["w"].shape = shape;
  manifest.entries["w"].pieces = {{0, 200, ShardSpec::box(shape, {0, 0}, {2, 4}), {1}},
                                  {1, 300, {shape, 4, 2}, {2}},
                                  {1, 308, {shape, 10, 2}, {3}}};
  return manifest;
}

TEST(Manifest, BoxesReadBackAsWritten) {
  const std::string text = to_json(boxes());
  const Manifest read = parse_manifest(text, "m.json");
  EXPECT_EQ(to_json(read), text);
  EXPECT_EQ(read.entries.at("w").pieces[0].part, boxes().entries["w"].pieces[0].part);
  EXPECT_EQ(place_text(read.entries.at("w").pieces[0].part), "box [0:2, 0:4] of [2, 6]");
  EXPECT_EQ(place_text(read.entries.at("w").pieces[1].part), "offset 4 of [2, 6]");
}

TEST(Manifest, NamesWhatIsWrongWithABox) {
  // The first piece, with other offsets and lengths; the JSON is parsed anew, so its layout is
  // free.
  const auto error = [](const std::string& offsets, const std::string& lengths) {
    auto all = nlohmann::json::parse(to_json(boxes()));
    auto& piece = all["entries"]["w"]["pieces"][0];
    piece["offsets"] = nlohmann::json::parse(offsets);
    piece["lengths"] = nlohmann::json::parse(lengths);
    return error_of([&] { parse_manifest(all.dump(), "m.json"); });
  };
  EXPECT_EQ(error("[0, 0]", "[2, 4]"), "(no error)");
  EXPECT_THAT(
      error("[0]", "[2, 4]"),
      HasSubstr("entry 'w': a box with 1 offsets and 2 lengths in a tensor of 2 dimensions"));
  EXPECT_THAT(error("[0, 0]", "[2, 4, 1]"), HasSubstr("2 offsets and 3 lengths"));
  EXPECT_THAT(error("[0, 0]", "[1,1,1,1,1,1,1,1,1]"), HasSubstr("2 offsets and 9 lengths"));
  EXPECT_THAT(error("[0, -1]", "[2, 4]"), HasSubstr("'offsets': expected integers of 0 or more"));
  EXPECT_THAT(error("[0, 0]", "[2, -4]"), HasSubstr("'lengths': expected integers of 0 or more"));
  EXPECT_THAT(error("[0, 0.5]", "[2, 4]"), HasSubstr("'offsets': expected integers of 0 or more"));
  EXPECT_THAT(error("[0, 3]", "[2, 4]"),
              HasSubstr("a box of 4 from 3 on in dimension 1 does not lie in [2, 6]"));
  EXPECT_THAT(error("[0, 9223372036854775807]", "[2, 4]"), HasSubstr("does not lie in [2, 6]"));
  EXPECT_THAT(error("[0, 0]", "[9223372036854775807, 4]"),
              HasSubstr("in dimension 0 does not lie"));
  EXPECT_THAT(error("[0, 0]", "[2, 0]"), HasSubstr("its length in dimension 1 is 0"));
  EXPECT_THAT(error("[0, 0]", "[2, 5]"), HasSubstr("10 elements at byte 200 do not lie in"));
  EXPECT_THAT(error("[0, 0]", "[2, 3]"), HasSubstr("no piece holds element 3, index [0, 3]"));
  EXPECT_THAT(error("[0, 0]", "[1, 4]"), HasSubstr("must be given as 'offset' 0 and 'length' 4"));
  EXPECT_THAT(error("null", "[2, 4]"), HasSubstr("'offsets': expected a list, got null"));

  auto all = nlohmann::json::parse(to_json(boxes()));
  const auto error_of_all = [&] { return error_of([&] { parse_manifest(all.dump(), "m.json"); }); };
  all["entries"]["w"]["pieces"][1]["offset"] = 3;
  EXPECT_THAT(error_of_all(),
              HasSubstr("two pieces hold element 3, index [0, 3], of [2, 6]: [0:2, 0:4] of [2, 6] "
                        "and elements 3 to 5 of [2, 6]"));
  all["entries"]["w"]["pieces"][1]["offset"] = 4;
  EXPECT_EQ(error_of_all(), "(no error)");
  all["version"] = 3;
  EXPECT_THAT(error_of_all(), HasSubstr("entry 'w': 'offset' is missing"));
  all["version"] = 4;
  auto& pieces = all["entries"]["w"]["pieces"];
  pieces[0]["length"] = 8;
  EXPECT_THAT(error_of_all(), HasSubstr("unknown key 'length'"));
  pieces[0].erase("length");
  pieces[0].erase("lengths");
  EXPECT_THAT(error_of_all(), HasSubstr("'lengths' is missing"));
  all = nlohmann::json::parse(to_json(boxes()));
  std::swap(all["entries"]["w"]["pieces"][0], all["entries"]["w"]["pieces"][1]);
  EXPECT_THAT(error_of_all(), HasSubstr("starts at element 0 comes after one at 4"));
}

TEST(Manifest, Version1IsRead) {
  Manifest manifest = example();
  manifest.version = 1;
  const std::string text = to_json(manifest);
  EXPECT_THAT(text, ::testing::Not(HasSubstr("xxh3")));
  EXPECT_EQ(to_json(parse_manifest(text, "m.json")), text);
}

TEST(Manifest, NamesWhatIsWrong) {
  EXPECT_THAT(error_with("lockstep-checkpoint", "other"),
              HasSubstr("m.json: not the manifest of a checkpoint"));
  EXPECT_THAT(error_with("\"version\": 3", "\"version\": 5"),
              HasSubstr("reads checkpoints of version 1 to 4, this one has version 5"));
  EXPECT_THAT(error_with("\"version\": 3", "\"version\": \"3\""),
              HasSubstr("this one has version '3'"));
  EXPECT_THAT(error_with("\"version\": 3", "\"version\": 3.0"),
              HasSubstr("this one has version 3.0"));
  EXPECT_THAT(error_with("\"version\": 3,", ""), HasSubstr("this one has version none"));
  EXPECT_THAT(error_with("\"version\": 3", "\"version\": 1"), HasSubstr("unknown key 'header_"));
  EXPECT_THAT(error_with("\"step\": 10", "\"step\": -1"),
              HasSubstr("'step': expected an integer of 0 or more, got -1"));
  EXPECT_THAT(error_with("\"step\": 10", "\"stop\": 10"), HasSubstr("'step' is missing"));
  EXPECT_THAT(error_with("\"step\": 10", "\"step\": 10, \"extra\": 1"),
              HasSubstr("unknown key 'extra'"));
  EXPECT_THAT(error_with("\"step\": 10", "\"step\": 10, \"step\": 11"),
              HasSubstr("the key 'step' is there twice"));
  EXPECT_THAT(error_with("\"seed\": \"7\"", "\"seed\": 7"),
              HasSubstr("manifest: 'metadata': expected strings only, got 7"));
  EXPECT_THAT(error_with("shard-00000-of-00002", "../x"),
              HasSubstr("cannot be the name of a shard file"));
  EXPECT_THAT(error_with(std::string(64, 'a'), std::string(63, 'a')), HasSubstr("64 hex digits"));
  EXPECT_THAT(error_with("\"f32\"", "\"f64\""), HasSubstr("entry 'w': unknown dtype 'f64'"));
  EXPECT_THAT(error_with("\"begin\": 300", "\"begin\": 301"),
              HasSubstr("2 elements at byte 301 do not lie in"));
  EXPECT_THAT(error_with("\"begin\": 300", "\"begin\": 9223372036854775807"),
              HasSubstr("do not lie in"));
  EXPECT_THAT(error_with("\"offset\": 4", "\"offset\": 5"),
              HasSubstr("a piece of 2 elements from element 5 on does not lie in the 6 of [2, 3]"));
  EXPECT_THAT(error_with("\"offset\": 4", "\"offset\": 3"),
              HasSubstr("two pieces hold element 3, index [1, 0], of [2, 3]"));
  EXPECT_THAT(error_with("\"offset\": 4", "\"offset\": 0"),
              HasSubstr("a piece that starts at element 0 comes after one at 0"));
  EXPECT_THAT(error_with("\"length\": 2", "\"length\": 1"),
              HasSubstr("no piece holds element 5, index [1, 2], of [2, 3]"));
  EXPECT_THAT(error_with("\"length\": 2", "\"length\": 0"),
              HasSubstr("a piece at element 4 has no elements"));
  EXPECT_THAT(error_with("\"file\": 1", "\"file\": 2"), HasSubstr("file 2 of 2"));
  EXPECT_THAT(error_with("shard-00001-of-00002", "shard-00000-of-00002"),
              HasSubstr("is there twice"));
  for (const char* name :
       {"/etc/passwd", "a/b", ".hidden", "..", "manifest.json", "a\\nb", "\\u001b[2J"})
    EXPECT_THAT(error_with("shard-00001-of-00002.safetensors", name),
                HasSubstr("cannot be the name of a shard file"))
        << name;
  EXPECT_THAT(error_with("shard-00001-of-00002.safetensors", "a\\u0000b"), HasSubstr("m.json: 'a"));
  EXPECT_THAT(
      error_with("\"header_bytes\": 200", "\"header_bytes\": 100"),
      HasSubstr("'w' starts at byte 200 of 'shard-00000-of-00002.safetensors', expected 100"));
  EXPECT_THAT(error_with("\"bytes\": 308", "\"bytes\": 309"),
              HasSubstr("its tensors end at byte 308 of 309"));
  EXPECT_THAT(error_with("0123456789abcdef", "0123456789abcdeF"),
              HasSubstr("header_xxh3 must be 16 hex digits"));
  EXPECT_THAT(error_with("fedcba9876543210", "fedcba987654321"),
              HasSubstr("xxh3 must be 16 hex digits for each of 1 chunk"));
  EXPECT_THAT(error_with("\"fedcba9876543210\"", "null"),
              HasSubstr("'xxh3': expected a string, got null"));
  EXPECT_THAT(error_with("\"fedcba9876543210\"", "\"\""), HasSubstr("xxh3 must be 16 hex digits"));
  EXPECT_THAT(error_with(str("\"", std::string(64, 'b'), "\""), "null"),
              HasSubstr("'sha256': expected a string, got null"));
  EXPECT_THAT(error_of([] { parse_manifest(to_json(example()) + '\0' + "{", "m.json"); }),
              HasSubstr("m.json: not valid JSON: a zero byte"));
  EXPECT_THAT(error_of([] { parse_manifest("", "m.json"); }), HasSubstr("m.json: not valid JSON"));
}

// Sums of these would overflow.
TEST(Manifest, SizesThatNoFileHasAreRefused) {
  constexpr const char* kMost = "9223372036854775807";
  EXPECT_THAT(error_with("\"bytes\": 308", str("\"bytes\": ", kMost)),
              HasSubstr("9223372036854775807 bytes are too many"));
  EXPECT_THAT(error_with("\"header_bytes\": 300", str("\"header_bytes\": ", kMost)),
              HasSubstr("a header of 9223372036854775807 bytes"));
  Manifest first = example();
  first.version = 1;
  constexpr int64_t kLong = int64_t{1} << 59;
  for (auto& file : first.files) file.bytes = 2 * kLong;
  first.entries["w"] = {DType::u8, {6}, {}};
  const Shape other = {16 * (kLong / 4)};
  for (int64_t i = 0; i < 3; ++i)
    first.entries["w"].pieces.push_back({0, 0, {other, i * kLong, kLong}});
  EXPECT_THAT(error_of([&] { parse_manifest(to_json(first), "m.json"); }),
              HasSubstr(str("entry 'w': a piece of ", kLong, " elements from element 0 on")));
}

// A message stays short and cannot steer a terminal, whatever the manifest holds.
TEST(Manifest, MessagesAreShort) {
  const std::string name = "\\u001b[2J" + std::string(100000, 'x');
  for (const char* from : {"format", "step", "shard-00000-of-00002.safetensors", "\"w", "f32",
                           "pieces", "seed", "\"7\"", "3,\n \"world"}) {
    const std::string said = error_with(from, from[0] == '"' ? "\"" + name : name);
    EXPECT_LT(said.size(), 500u) << from;
    EXPECT_EQ(said.find('\x1b'), std::string::npos) << from;
  }
  EXPECT_THAT(error_with("\"f32\"", "\"" + name + "\""), HasSubstr("unknown dtype '?[2Jxxx"));
}

TEST(Manifest, FolderNames) {
  EXPECT_EQ(step_folder(42), "step-00000042");
  EXPECT_EQ(step_of_folder("step-00000042"), 42);
  EXPECT_EQ(step_of_folder(step_folder(1234567890)), 1234567890);
  for (const char* other :
       {"step-42", "step-00000042.tmp-ab", "step-0000004x", "step-000000042", "steps", ""})
    EXPECT_EQ(step_of_folder(other), -1) << other;
}

}  // namespace
}  // namespace lockstep::checkpoint
