// The safetensors container: bytes that must be read, and bytes that must be refused.
#include "checkpoint/format/safetensors.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "checkpoint/exchange/safetensors_folder.h"
#include "checkpoint/format/chunks.h"
#include "checkpoint/format/digest.h"
#include "tests/checkpoint/forwarding_files.h"
#include "tests/checkpoint/helpers.h"
#include "tests/support/failing_calls.h"

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
  const std::vector<Tensor> tensors = {counting({2, 3}), counting({4}, DType::bf16),
                                       counting({3}, DType::u8), Tensor::empty({0})};
  SafetensorsHeader header;
  header.metadata = {{"k", "v"}};
  header.tensors = {{"c", "U8", {3}, 0, 0},
                    {"a", "F32", {2, 3}, 0, 0},
                    {"b", "BF16", {4}, 0, 0},
                    {"a0", "F32", {0}, 0, 0}};
  const std::string start = make_safetensors_header(header);
  EXPECT_EQ(start.size() % 8, 0u);
  // By alignment, then name.
  ASSERT_EQ(header.tensors[0].name, "a");
  ASSERT_EQ(header.tensors[1].name, "a0");
  write_safetensors(posix_file_system(), path_, start,
                    {tensors[0], tensors[3], tensors[1], tensors[2]});
  const SafetensorsHeader read = read_safetensors_header(path_);
  EXPECT_EQ(read.metadata, header.metadata);
  ASSERT_EQ(read.tensors.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(read.tensors[i].name, header.tensors[i].name);
    EXPECT_EQ(read.tensors[i].begin, header.tensors[i].begin);
    EXPECT_EQ(read.tensors[i].shape, header.tensors[i].shape);
  }
  const auto bytes = bytes_of(tensors[0]);
  EXPECT_EQ(read_file(path_).substr(static_cast<size_t>(read.tensors[0].begin), bytes.size()),
            std::string(bytes.begin(), bytes.end()));
}

TEST_F(Safetensors, ReadsWhatOtherProgramsWrite) {
  EXPECT_EQ(
      error_with(file_bytes(
          R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}    )",
          16)),
      "(no error)");
  const SafetensorsHeader header = read_safetensors_header(path_);
  EXPECT_EQ(header.tensors[0].dtype, "F64");
  EXPECT_FALSE(dtype_of_safetensors("F64"));
  EXPECT_EQ(dtype_of_safetensors("BF16"), DType::bf16);
  EXPECT_EQ(error_with(file_bytes("{}", 0)), "(no error)");
  EXPECT_EQ(error_with(file_bytes(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4)),
            "(no error)");
}

TEST_F(Safetensors, HeadersThatNobodyCouldReadAreNotMade) {
  const auto said = [](const std::vector<std::string>& names, const SafetensorsMetadata& metadata) {
    SafetensorsHeader header{.metadata = metadata, .tensors = {}};
    for (const std::string& name : names) header.tensors.push_back({name, "U8", {0}, 0, 0});
    return error_of([&] { make_safetensors_header(header); });
  };
  std::vector<std::string> names;
  for (char c = 0; c < 100; ++c) names.push_back(std::string(1'000'000, 'n') + std::to_string(c));
  const std::string too_long = said(names, {});
  EXPECT_THAT(too_long, AllOf(HasSubstr("the header of 100 tensors would need more than the "
                                        "100000000 bytes that readers accept"),
                              HasSubstr("spread the tensors over more files")));
  EXPECT_THAT(said({}, {{"a", std::string(100'000'000, 'v')}}),
              HasSubstr("the header of 0 tensors would need more than"));
  EXPECT_THAT(said({"w", "v", "w"}, {}), HasSubstr("two tensors have the name 'w'"));
  EXPECT_THAT(said({}, {{"a", "1"}, {"a", "2"}}), HasSubstr("metadata has the key 'a' twice"));
  EXPECT_THAT(said({"__metadata__"}, {}), HasSubstr("'__metadata__' cannot be stored"));
  EXPECT_THAT(said({"\xc3"}, {}), HasSubstr("is not UTF-8"));
  EXPECT_THAT(said({}, {{"a", "\xed\xa0\x80"}}), HasSubstr("is not UTF-8"));
  EXPECT_THAT(error_of([] {
                SafetensorsTensors().push_back({"w", "F99", {1}, 0, 0});
              }),
              HasSubstr("tensor 'w': unknown dtype 'F99'"));
  EXPECT_THAT(error_of([] {
                SafetensorsTensors().push_back({"w", "F4", {3}, 0, 0});
              }),
              HasSubstr("tensor 'w' of F4[3] cannot be stored"));
}

TEST_F(Safetensors, ASaveOrExportWithTooLongAHeaderLeavesNothing) {
  std::vector<Entry> entries;
  FolderRequest request{.dir = dir_.path() + "/exported", .tensors = {}};
  for (int i = 0; i < 100; ++i) {
    const std::string name = std::string(1'000'000, 'n') + std::to_string(i);
    entries.emplace_back(name, counting({1}));
    request.tensors.push_back({name, DType::f32, {1}, [] { return counting({1}); }});
  }
  EXPECT_THAT(error_of([&] { save({.dir = dir_.path(), .step = 1, .entries = entries}); }),
              HasSubstr("spread the tensors over more files"));
  EXPECT_THAT(error_of([&] { write_safetensors_folder(request); }),
              HasSubstr("spread the tensors over more files"));
  EXPECT_THAT(names_in(dir_.path()), ::testing::IsEmpty());
}

// It needs neither the system's help nor a name that leaves room for more.
TEST_F(Safetensors, AnExportReplacesNothingWhateverTheFileSystemKnows) {
  const std::string dir = dir_.path() + "/" + std::string(255, 'n');  // no longer name is possible
  FolderRequest request{.dir = dir,
                        .tensors = {{"w", DType::f32, {2}, [] { return counting({2}); }}}};
  const auto taken_meanwhile = [&] {
    std::filesystem::create_directory(dir);
    return counting({2});
  };
  for (const int error : {EINVAL, ENOSYS, EOPNOTSUPP, EBADF}) {
    std::string first, second;
    const bool filtered = test::where_call_fails(SYS_renameat2, error, [&] {
      request.tensors[0].values = [] { return counting({2}); };
      first = error_of([&] { write_safetensors_folder(request); });
      std::filesystem::remove_all(dir);
      request.tensors[0].values = taken_meanwhile;
      second = error_of([&] { write_safetensors_folder(request); });
    });
    if (!filtered) GTEST_SKIP() << "skipped: the system lets no thread filter its calls";
    EXPECT_EQ(first, "(no error)") << errno_text(error);
    EXPECT_THAT(second, HasSubstr("File exists")) << errno_text(error);
    EXPECT_TRUE(std::filesystem::is_empty(dir));
    EXPECT_EQ(names_in(dir_.path()).size(), 1u) << "something half-written is left";
    std::filesystem::remove_all(dir);
  }
}

// The longest that fits is made and read again.
TEST_F(Safetensors, TheLongestHeaderIsMade) {
  SafetensorsHeader header{.metadata = {{"a", std::string(99'999'971, 'v')}}, .tensors = {}};
  const std::string start = make_safetensors_header(header);
  EXPECT_EQ(start.size(), 100'000'008u);
  EXPECT_EQ(error_with(start), "(no error)");
}

TEST_F(Safetensors, RefusesFilesThatAreNone) {
  EXPECT_THAT(error_with(""), HasSubstr("0 bytes are too few"));
  EXPECT_THAT(error_with("1234567"), HasSubstr("7 bytes are too few"));
  EXPECT_THAT(error_with(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)),
              HasSubstr("claims a header of 18446744073709551615 bytes"));
  EXPECT_THAT(error_with(std::string("\x03\0\0\0\0\0\0\0{}", 10)),
              HasSubstr("claims a header of 3 bytes, but at most 2 can be"));
  EXPECT_THAT(error_of([&] { read_safetensors_header(dir_.path()); }),
              HasSubstr("not a regular file"));
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
  EXPECT_THAT(claims(100'000'001),
              HasSubstr("claims a header of 100000001 bytes, but at most 100000000 can be"));
  EXPECT_EQ(read, 8);
}

// A message stays short and cannot steer a terminal, whatever names a file holds.
TEST_F(Safetensors, MessagesAreShort) {
  const std::string name = "\\u001b[2J" + std::string(100000, 'x');
  const std::string said = error_with(
      file_bytes(R"({")" + name + R"(":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8));
  EXPECT_THAT(said, HasSubstr("tensor '?[2Jxxx"));
  EXPECT_LT(said.size(), 400u);
  EXPECT_LT(error_with(file_bytes("{\"" + std::string(100000, 'x'), 8)).size(), 400u);
}

// A disk that takes everything at once, so that the thread which hashes meanwhile has come nowhere
// yet; or one that lets it get through.
class QuickFiles final : public ForwardingFiles {
 public:
  std::unique_ptr<WritableFile> create(const std::string&) override {
    return std::make_unique<File>();
  }

 private:
  class File final : public WritableFile {
   public:
    void write(const void*, size_t) override {}
    void sync() override {}
  };
};

TEST(WrittenSums, AreThoseOfTheBytesWhicheverThreadComputedThem) {
  const test::TempDir dir;
  Tensor large = Tensor::empty({(45 << 20) / 4}), larger = Tensor::empty({(33 << 20) / 4 + 3}),
         small = Tensor::empty({5});
  int seed = 0;
  for (Tensor* tensor : {&large, &larger, &small})
    for (int64_t i = 0; i < tensor->numel(); ++i)
      tensor->data<float>()[i] = static_cast<float>(i * 7 + ++seed);
  const auto files = [&](const std::string& name) {
    return std::vector<FileToWrite>{{dir.path() + "/a" + name, "one header", {large, small}},
                                    {dir.path() + "/b" + name, "other", {larger}}};
  };
  QuickFiles quick;
  const auto at_once = write_safetensors(quick, files("quick")),
             on_disk = write_safetensors(posix_file_system(), files("disk"));
  const auto alone = compute_sums(files(""));
  for (size_t file = 0; file < 2; ++file) {
    const FileToWrite wanted = files("")[file];
    std::string bytes = wanted.header;
    std::vector<std::vector<uint64_t>> sums;
    for (const Tensor& tensor : wanted.tensors) {
      const auto* data = static_cast<const char*>(tensor.raw());
      sums.emplace_back();
      for (int64_t at = 0; at < tensor.bytes(); at += kChunkBytes)
        sums.back().push_back(xxh3(data + at, std::min(kChunkBytes, tensor.bytes() - at)));
      bytes.append(data, static_cast<size_t>(tensor.bytes()));
    }
    for (const auto* written : {&at_once, &on_disk, &alone}) {
      EXPECT_EQ((*written)[file].sha256, sha256_hex(bytes));
      EXPECT_EQ((*written)[file].bytes, static_cast<int64_t>(bytes.size()));
      EXPECT_EQ((*written)[file].xxh3, sums);
    }
    EXPECT_TRUE(read_file(files("disk")[file].path) == bytes);
  }
}

}  // namespace
}  // namespace lockstep::checkpoint
