// The safetensors container: bytes that must be read, and bytes that must be refused.
#include "checkpoint/safetensors.h"

#include <cstring>

#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string file_bytes(const std::string& header, int64_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(static_cast<size_t>(data_bytes), '\0');
}

class Safetensors : public ::testing::Test {
 protected:
  std::string error_with(const std::string& bytes) {
    write_file(path_, bytes);
    return error_of([&] { read_safetensors_header(path_); });
  }
  test::TempDir dir_;
  std::string path_ = dir_.path() + "/f.safetensors";
};

TEST_F(Safetensors, WhatIsWrittenIsReadBack) {
  const std::vector<Tensor> tensors = {counting({2, 3}), counting({4}, DType::bf16), counting({3}, DType::u8), Tensor::empty({0})};
  SafetensorsHeader header;
  header.metadata = {{"k", "v"}};
  header.tensors = {{"c", "U8", {3}, 0, 0}, {"a", "F32", {2, 3}, 0, 0}, {"b", "BF16", {4}, 0, 0}, {"a0", "F32", {0}, 0, 0}};
  const std::string start = make_safetensors_header(header);
  EXPECT_EQ(start.size() % 8, 0u);
  // By alignment, then name.
  ASSERT_EQ(header.tensors[0].name, "a");
  ASSERT_EQ(header.tensors[1].name, "a0");
  write_safetensors(posix_file_system(), path_, start, {tensors[0], tensors[3], tensors[1], tensors[2]});
  const SafetensorsHeader read = read_safetensors_header(path_);
  EXPECT_EQ(read.metadata, header.metadata);
  ASSERT_EQ(read.tensors.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(read.tensors[i].name, header.tensors[i].name);
    EXPECT_EQ(read.tensors[i].begin, header.tensors[i].begin);
    EXPECT_EQ(read.tensors[i].shape, header.tensors[i].shape);
  }
  const auto bytes = bytes_of(tensors[0]);
  EXPECT_EQ(read_file(path_).substr(static_cast<size_t>(read.tensors[0].begin), bytes.size()), std::string(bytes.begin(), bytes.end()));
}

TEST_F(Safetensors, ReadsWhatOtherProgramsWrite) {
  EXPECT_EQ(error_with(file_bytes(R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}    )", 16)),
            "(no error)");
  const SafetensorsHeader header = read_safetensors_header(path_);
  EXPECT_EQ(header.tensors[0].dtype, "F64");
  EXPECT_FALSE(dtype_of_safetensors("F64"));
  EXPECT_EQ(dtype_of_safetensors("BF16"), DType::bf16);
  EXPECT_EQ(error_with(file_bytes("{}", 0)), "(no error)");
  EXPECT_EQ(error_with(file_bytes(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4)), "(no error)");
}

TEST_F(Safetensors, ReadsAllThatTheFormatAllows) {
  const auto accepted = [&](const std::string& header, int64_t data) { return error_with(file_bytes(header, data)); };
  // Not padded, so that the data is not aligned; keys in any order; white space between tokens; an escape in a name.
  EXPECT_EQ(accepted(R"({"a":{"data_offsets":[0,1],"shape":[1],"dtype":"U8"}})", 1), "(no error)");
  EXPECT_EQ(accepted("{ \"a\" :\n{\"dtype\":\"U8\",\t\"shape\":[ 1 ],\"data_offsets\":[0, 1]} }\n  ", 1), "(no error)");
  EXPECT_EQ(accepted(R"({"\u00e4":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1), "(no error)");
  EXPECT_EQ(read_safetensors_header(path_).tensors[0].name, "ä");
  // Empty tensors anywhere, even several at one offset; empty metadata; eight dimensions.
  EXPECT_EQ(accepted(R"({"e":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"f":{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]},)"
                     R"("g":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"__metadata__":{}})",
                     4),
            "(no error)");
  EXPECT_EQ(accepted(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,2],"data_offsets":[0,2]}})", 2), "(no error)");
  // Every word, four elements each.
  const std::vector<std::pair<const char*, int>> words = {
      {"BOOL", 4},    {"F4", 2},          {"F6_E2M3", 3},     {"F6_E3M2", 3}, {"U8", 4},   {"I8", 4},  {"F8_E5M2", 4}, {"F8_E4M3", 4},
      {"F8_E8M0", 4}, {"F8_E4M3FNUZ", 4}, {"F8_E5M2FNUZ", 4}, {"I16", 8},     {"U16", 8},  {"F16", 8}, {"BF16", 8},    {"I32", 16},
      {"U32", 16},    {"F32", 16},        {"C64", 32},        {"F64", 32},    {"I64", 32}, {"U64", 32}};
  for (const auto& [word, bytes] : words)
    EXPECT_EQ(accepted(str(R"({"a":{"dtype":")", word, R"(","shape":[4],"data_offsets":[0,)", bytes, "]}}"), bytes), "(no error)") << word;
}

struct Hostile {
  std::string header;
  int64_t data;
  std::string said;  // a part of the message
};

TEST_F(Safetensors, RefusesWhatBreaksARule) {
  const std::string w = R"("w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const auto one = [](const std::string& body) { return R"({"w":)" + body + "}"; };
  const auto tensor = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return one(R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}");
  };
  const std::vector<Hostile> table = {
      // The JSON.
      {"", 0, "must start with '{'"},
      {"[]", 0, "must start with '{'"},
      {" {}", 0, "must start with '{'"},
      {"\xef\xbb\xbf{}", 0, "must start with '{'"},
      {"{", 0, "not valid JSON"},
      {"{}{}", 0, "not valid JSON"},
      {"{} x", 0, "not valid JSON"},
      {std::string("{}\0", 3), 0, "a zero byte"},
      {std::string("{}\0{}", 5), 0, "a zero byte"},
      {"{" + w + ",}", 8, "not valid JSON"},
      {"{/**/}", 0, "not valid JSON"},
      {"{\"\xff\":1}", 0, "not valid JSON"},              // no UTF-8
      {"{\"\xc0\xaf\":1}", 0, "not valid JSON"},          // overlong
      {"{\"\xed\xa0\x80\":1}", 0, "not valid JSON"},      // a surrogate
      {"{\"\xf4\x90\x80\x80\":1}", 0, "not valid JSON"},  // beyond U+10FFFF
      {R"({"\ud800":1})", 0, "not valid JSON"},
      {"{\"a\nb\":1}", 0, "not valid JSON"},
      // The objects.
      {one("1"), 8, "tensor 'w': expected an object, got 1"},
      {one("null"), 8, "tensor 'w': expected an object"},
      {one("[]"), 8, "tensor 'w': expected an object"},
      {one(std::string(100000, '[')), 8, "expected an object"},
      {R"({"w":)" + std::string(1000, ' ') + R"({"w":{"w":{"w":1}}}})", 8, "unknown key 'w'"},
      {one("{}"), 0, "'dtype' is missing"},
      {one(R"({"dtype":"F32","shape":[2]})"), 8, "'data_offsets' is missing"},
      {one(R"({"dtype":"F32","data_offsets":[0,8]})"), 8, "'shape' is missing"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"), 8, "unknown key 'x'"},
      {one(R"({"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]})"), 8, "the key 'shape' is there twice"},
      {one(R"({"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})"), 8, "the key 'dtype' is there twice"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"data_offsets":[0,8]})"), 8, "the key 'data_offsets' is there twice"},
      {"{" + w + "," + w + "}", 8, "the key 'w' is there twice"},
      {"{" + w + R"(,"\u0077":{"dtype":"F32","shape":[0],"data_offsets":[8,8]}})", 8, "the key 'w' is there twice"},
      // dtype and shape.
      {one(R"({"dtype":1,"shape":[2],"data_offsets":[0,8]})"), 8, "'dtype': expected a string"},
      {one(R"({"dtype":["F32"],"shape":[2],"data_offsets":[0,8]})"), 8, "'dtype': expected a string"},
      {tensor("F99", "[2]", "[0,8]"), 8, "unknown dtype 'F99'"},
      {tensor("f32", "[2]", "[0,8]"), 8, "unknown dtype 'f32'"},
      {one("{\"dtype\":\"\\u001b[2J\",\"shape\":[2],\"data_offsets\":[0,8]}"), 8, "unknown dtype '?[2J'"},
      {one(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"), 8, "'shape': expected a list, got 2"},
      {one(R"({"dtype":"F32","shape":"2","data_offsets":[0,8]})"), 8, "'shape': expected a list, got a string"},
      {one(R"({"dtype":"F32","shape":{"0":2},"data_offsets":[0,8]})"), 8, "'shape': expected a list, got an object"},
      {one(R"({"dtype":"F32","shape":[[2]],"data_offsets":[0,8]})"), 8, "integers of 0 or more, got a list"},
      {tensor("F32", "[-2]", "[0,8]"), 8, "integers of 0 or more, got -2"},
      {tensor("F32", "[2.0]", "[0,8]"), 8, "integers of 0 or more, got 2.0"},
      {tensor("F32", "[2e0]", "[0,8]"), 8, "integers of 0 or more, got 2e0"},
      {tensor("F32", "[true]", "[0,8]"), 8, "integers of 0 or more"},
      {tensor("F32", "[9223372036854775808]", "[0,8]"), 8, "integers of 0 or more, got 9223372036854775808"},
      {tensor("F32", "[18446744073709551616]", "[0,8]"), 8, "integers of 0 or more"},
      {tensor("F32", "[4294967296,4294967296]", "[0,8]"), 8, "too large"},
      {tensor("F32", "[4611686018427387904]", "[0,0]"), 0, "too large"},                // 2⁶⁴ bytes: 0 if it wrapped
      {tensor("F32", "[4194305,4194305,211106198978564]", "[0,16]"), 16, "too large"},  // 16 bytes if it wrapped
      {tensor("F32", "[4294967296,0,4294967296]", "[0,0]"), 0, "too large"},
      {tensor("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, "'shape' has more than 8 numbers"},
      {tensor("F4", "[3]", "[0,2]"), 2, "no whole number of bytes"},
      {tensor("F6_E2M3", "[2]", "[0,2]"), 2, "no whole number of bytes"},
      // Offsets.
      {tensor("F32", "[3]", "[0,8]"), 8, "F32[3] needs 12 bytes, data_offsets span 8"},
      {tensor("F32", "[]", "[0,8]"), 8, "F32[] needs 4 bytes, data_offsets span 8"},
      {tensor("F32", "[2]", "[8,0]"), 8, "two ascending numbers up to 8, got [8, 0]"},
      {tensor("F32", "[2]", "[8]"), 8, "two ascending numbers"},
      {tensor("F32", "[2]", "[0,4,8]"), 8, "'data_offsets' has more than 2 numbers"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":{"a":0,"b":8}})"), 8, "expected a list"},
      {tensor("F32", "[2]", "[-8,0]"), 8, "integers of 0 or more"},
      {tensor("F32", "[2]", "[0,8]"), 7, "up to 7"},
      {tensor("F32", "[2]", "[0,8]"), 9, "end at offset 8, the file's data at 9"},
      {"{}", 1, "end at offset 0, the file's data at 1"},
      {tensor("F32", "[1]", "[4,8]"), 8, "starts at offset 4, expected 0 (a hole before it)"},
      {tensor("F32", "[0]", "[4,4]"), 4, "a hole"},
      {"{" + w + R"(,"v":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12,
       "tensor 'v' starts at offset 4, expected 8 (it overlaps"},
      {"{" + w + R"(,"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8, "overlaps"},
      // Metadata.
      {"{" + w + R"(,"__metadata__":{"a":1}})", 8, "'__metadata__': 'a': expected strings only"},
      {"{" + w + R"(,"__metadata__":{"a":{"b":"c"}}})", 8, "expected strings only"},
      {"{" + w + R"(,"__metadata__":{"a":null}})", 8, "expected strings only"},
      {"{" + w + R"(,"__metadata__":[]})", 8, "expected an object"},
      {"{" + w + R"(,"__metadata__":{"a":"1","a":"1"}})", 8, "the key 'a' is there twice"},
      {"{" + w + R"(,"__metadata__":{},"__metadata__":{}})", 8, "the key '__metadata__' is there twice"},
  };
  for (const Hostile& hostile : table)
    EXPECT_THAT(error_with(file_bytes(hostile.header, hostile.data)), AllOf(HasSubstr(path_), HasSubstr(hostile.said)))
        << hostile.header.substr(0, 200);
}

TEST_F(Safetensors, RefusesFilesThatAreNone) {
  EXPECT_THAT(error_with(""), HasSubstr("0 bytes are too few"));
  EXPECT_THAT(error_with("1234567"), HasSubstr("7 bytes are too few"));
  EXPECT_THAT(error_with(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)),
              HasSubstr("claims a header of 18446744073709551615 bytes"));
  EXPECT_THAT(error_with(std::string("\x03\0\0\0\0\0\0\0{}", 10)), HasSubstr("claims a header of 3 bytes, but at most 2 can be"));
  EXPECT_THAT(error_of([&] { read_safetensors_header(dir_.path()); }), HasSubstr("not a regular file"));
  EXPECT_THAT(error_of([&] { read_safetensors_header(dir_.path() + "/none"); }), HasSubstr("none"));
  // A header of more than 100 MB, in a file that has as many bytes: refused without reading it.
  int64_t read = 0;
  const auto claims = [&](uint64_t length) {
    return error_of([&] {
      read_safetensors_header("f", int64_t{1} << 40, [&](int64_t, void* data, int64_t bytes) {
        read += bytes;
        std::memcpy(data, &length, static_cast<size_t>(bytes));
      });
    });
  };
  EXPECT_THAT(claims(100'000'001), HasSubstr("claims a header of 100000001 bytes, but at most 100000000 can be"));
  EXPECT_EQ(read, 8);
}

// A message stays short and cannot steer a terminal, whatever names a file holds.
TEST_F(Safetensors, MessagesAreShort) {
  const std::string name = "\\u001b[2J" + std::string(100000, 'x');
  const std::string said = error_with(file_bytes(R"({")" + name + R"(":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8));
  EXPECT_THAT(said, HasSubstr("tensor '?[2Jxxx"));
  EXPECT_LT(said.size(), 400u);
  EXPECT_LT(error_with(file_bytes("{\"" + std::string(100000, 'x'), 8)).size(), 400u);
}

}  // namespace
}  // namespace lockstep::checkpoint
