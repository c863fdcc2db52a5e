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

TEST_F(Safetensors, RefusesEverythingElse) {
  const auto one = [&](const std::string& body, int64_t data = 8) { return error_with(file_bytes(R"({"w":)" + body + "}", data)); };
  EXPECT_THAT(error_with("short"), HasSubstr("too few"));
  EXPECT_THAT(error_with(std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10)), HasSubstr("claims a header of 9223372036854775807 bytes"));
  EXPECT_THAT(error_with(file_bytes("", 0)), HasSubstr("must start with '{'"));
  EXPECT_THAT(error_with(file_bytes("[]", 0)), HasSubstr("must start with '{'"));
  EXPECT_THAT(error_with(file_bytes("{", 0)), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_with(file_bytes("{}{}", 0)), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_with(file_bytes("{\"\xff\":1}", 0)), HasSubstr("not valid JSON"));
  EXPECT_THAT(one("1"), HasSubstr("expected an object"));
  EXPECT_THAT(one(std::string(200, '[')), HasSubstr("nested deeper"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2]})"), HasSubstr("'data_offsets' is missing"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"), HasSubstr("unknown key 'x'"));
  EXPECT_THAT(one(R"({"dtype":"F99","shape":[2],"data_offsets":[0,8]})"), HasSubstr("unknown dtype 'F99'"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), HasSubstr("integers of 0 or more"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"), HasSubstr("integers of 0 or more"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})"), HasSubstr("too large"));
  EXPECT_THAT(one(R"({"dtype":"F4","shape":[3],"data_offsets":[0,2]})"), HasSubstr("no whole number of bytes"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"), HasSubstr("F32[3] needs 12 bytes, data_offsets span 8"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), HasSubstr("ascending"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 7), HasSubstr("up to 7"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 9), HasSubstr("end at offset 8, the file's data at 9"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), HasSubstr("a hole"));
  const std::string w = R"("w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  EXPECT_THAT(error_with(file_bytes("{" + w + "," + w + "}", 8)), HasSubstr("the key 'w' is there twice"));
  EXPECT_THAT(error_with(file_bytes("{" + w + R"(,"v":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12)),
              AllOf(HasSubstr("tensor 'v'"), HasSubstr("overlaps")));
  EXPECT_THAT(error_with(file_bytes("{" + w + R"(,"__metadata__":{"a":1}})", 8)), HasSubstr("strings only"));
  EXPECT_THAT(error_with(file_bytes("{" + w + R"(,"__metadata__":[]})", 8)), HasSubstr("expected an object"));
}

}  // namespace
}  // namespace lockstep::checkpoint
