// Differences between sets of tensors, however they are stored.
#include "checkpoint/exchange/diff.h"

#include "checkpoint/format/safetensors.h"
#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class DiffTest : public ::testing::Test {
 protected:
  // A checkpoint, each tensor cut over `ranks` ranks.
  std::string save_on(int ranks, const std::string& dir,
                      const std::map<std::string, Tensor>& tensors) {
    std::string folder;
    with_ranks(ranks, [&](comm::ProcessGroup& group) {
      std::vector<Entry> entries;
      for (const auto& [name, tensor] : tensors) {
        const int64_t n = tensor.numel(), begin = n * group.rank() / ranks,
                      end = n * (group.rank() + 1) / ranks;
        entries.emplace_back(name, tensor.flatten().narrow(0, begin, end - begin),
                             ShardSpec{tensor.shape(), begin, end - begin});
      }
      const std::string saved =
          save({.dir = dir_.path() + "/" + dir, .step = 1, .entries = entries, .group = &group});
      if (group.rank() == 0) folder = saved;
    });
    return folder;
  }
  // A checkpoint, each tensor cut into 2 × 2 boxes.
  std::string save_in_boxes(const std::string& dir, const std::map<std::string, Tensor>& tensors) {
    with_ranks(4, [&](comm::ProcessGroup& group) {
      std::vector<Entry> entries;
      for (const auto& [name, tensor] : tensors) {
        const ShardSpec cell = cell_of(tensor.shape(), group.rank(), 2, 2);
        const Tensor values = Tensor::empty(cell.shape(), tensor.dtype());
        const int64_t element = size_of(tensor.dtype());
        for (const CommonRun& run : common_runs(cell, ShardSpec::whole(tensor.shape())))
          std::memcpy(static_cast<char*>(values.raw()) + run.in_a * element,
                      static_cast<const char*>(tensor.raw()) + run.in_b * element,
                      static_cast<size_t>(run.length * element));
        entries.emplace_back(name, values, cell);
      }
      save({.dir = dir_.path() + "/" + dir, .step = 1, .entries = entries, .group = &group});
    });
    return dir_.path() + "/" + dir + "/step-00000001";
  }
  std::string write(const std::string& name, const std::map<std::string, Tensor>& tensors) {
    SafetensorsHeader header;
    for (const auto& [tensor, value] : tensors)
      header.tensors.push_back({tensor, safetensors_dtype(value.dtype()), value.shape(), 0, 0});
    const std::string start = make_safetensors_header(header);
    std::vector<Tensor> ordered;
    for (const SafetensorsInfo info : header.tensors)
      ordered.push_back(tensors.at(std::string(info.name)));
    std::filesystem::create_directories(
        std::filesystem::path(dir_.path() + "/" + name).parent_path());
    write_safetensors(posix_file_system(), dir_.path() + "/" + name, start, ordered);
    return dir_.path() + "/" + name;
  }
  struct Diff : Compared {
    std::vector<TensorDifference> differences = {};
  };
  static Diff compare(const std::string& a, const std::string& b,
                      const std::vector<std::string>& skip = {}) {
    Diff result;
    const auto found = [&](const TensorDifference& difference) {
      result.differences.push_back(difference);
    };
    static_cast<Compared&>(result) = diff(*open_tensors(a), *open_tensors(b), skip, found);
    EXPECT_EQ(result.different, static_cast<int64_t>(result.differences.size()));
    return result;
  }
  test::TempDir dir_;
};

TEST_F(DiffTest, BoxesAreComparedByWholeTensors) {
  std::map<std::string, Tensor> tensors = {{"a", counting({7, 9})},
                                           {"b", counting({3}, DType::bf16)},
                                           {"large", counting({1100, 1200})}};
  const std::string boxes = save_in_boxes("boxes", tensors);
  EXPECT_EQ(compare(boxes, save_on(3, "three", tensors)).different, 0);
  EXPECT_EQ(compare(write("model.safetensors", tensors), boxes).different, 0);
  tensors.at("large") = tensors.at("large").clone();
  tensors.at("large").data<float>()[1200 * 700 + 1100] = -1;
  const Diff diff = compare(boxes, save_on(2, "changed", tensors));
  ASSERT_EQ(diff.differences.size(), 1u);
  EXPECT_EQ(diff.differences[0].name, "large");
  EXPECT_EQ(diff.differences[0].index, (std::vector<int64_t>{700, 1100}));
  EXPECT_EQ(diff.differences[0].count, 1);
}

TEST_F(DiffTest, ShardingAndContainerMakeNoDifference) {
  const std::map<std::string, Tensor> tensors = {
      {"a", counting({7, 5})}, {"b", counting({64}, DType::bf16)}, {"e", Tensor::empty({0, 3})}};
  const std::string one = save_on(1, "one", tensors), three = save_on(3, "three", tensors),
                    file = write("f/x.safetensors", tensors);
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{
           {one, three}, {three, file}, {file, dir_.path() + "/f"}}) {
    const Diff result = compare(left, right);
    EXPECT_TRUE(result.differences.empty()) << to_text(result.differences[0]);
    EXPECT_EQ(result.tensors, 3);
    EXPECT_EQ(result.bytes, 7 * 5 * 4 + 64 * 2);
  }
}

TEST_F(DiffTest, NamesTensorElementAndValues) {
  const Tensor changed = counting({7, 5});
  changed.data<float>()[12] = 0.25f;
  changed.data<float>()[30] = -1.5f;
  const Diff result = compare(save_on(3, "a", {{"w", counting({7, 5})}, {"x", counting({2})}}),
                              save_on(2, "b", {{"w", changed}, {"x", counting({2})}}));
  ASSERT_EQ(result.differences.size(), 1u);
  EXPECT_EQ(to_text(result.differences[0]),
            "w: 2 of 35 elements differ, first at [2, 2]: 12 and 0.25; largest difference 31.5");
}

TEST_F(DiffTest, FindsEverySingleElementOfALargeTensor) {
  const Shape shape{3, 1 << 20};  // several pieces
  const std::string reference = write("reference.safetensors", {{"w", counting(shape)}});
  for (const int64_t at :
       {int64_t{0}, int64_t{1} << 20, (int64_t{1} << 20) - 1, 3 * (int64_t{1} << 20) - 1}) {
    const Tensor changed = counting(shape);
    changed.data<float>()[at] += 1;
    const Diff result =
        compare(reference, write(str("changed-", at, ".safetensors"), {{"w", changed}}));
    ASSERT_EQ(result.differences.size(), 1u);
    EXPECT_EQ(result.differences[0].count, 1);
    EXPECT_EQ(result.differences[0].index, (std::vector<int64_t>{at >> 20, at & ((1 << 20) - 1)}));
  }
}

TEST_F(DiffTest, MissingExtraAndMisshapen) {
  const std::string a = write("a.safetensors", {{"a", counting({2})},
                                                {"m", counting({2, 3})},
                                                {"optim.x", counting({2})},
                                                {"t", counting({2})}});
  const std::string b = write("b.safetensors", {{"b", counting({2})},
                                                {"m", counting({3, 2})},
                                                {"optim.x", counting({4})},
                                                {"t", counting({2}, DType::i32)}});
  const Diff result = compare(a, b, {"optim."});
  std::vector<std::string> lines;
  for (const auto& difference : result.differences) lines.push_back(to_text(difference));
  EXPECT_EQ(lines, (std::vector<std::string>{"a: only in the first", "b: only in the second",
                                             "m: F32[2, 3] in the first, F32[3, 2] in the second",
                                             "t: F32[2] in the first, I32[2] in the second"}));
}

TEST_F(DiffTest, BytesDecide) {
  const std::string a = write(
      "a.safetensors", {{"w", Tensor::from(std::vector<float>{0.0f, std::nanf(""), 1.0f}, {3})}});
  const std::string b = write(
      "b.safetensors", {{"w", Tensor::from(std::vector<float>{-0.0f, std::nanf(""), 1.0f}, {3})}});
  const Diff result = compare(a, b);
  ASSERT_EQ(result.differences.size(), 1u);
  EXPECT_EQ(to_text(result.differences[0]), "w: 1 of 3 elements differ, first at [0]: 0 and -0");
}

TEST_F(DiffTest, FoldersWithAnIndex) {
  const std::map<std::string, Tensor> first = {{"a", counting({4})}},
                                      second = {{"b", counting({5})}};
  write("m/model-00001-of-00002.safetensors", first);
  write("m/model-00002-of-00002.safetensors", second);
  const std::string folder = dir_.path() + "/m", index = folder + "/model.safetensors.index.json";
  const auto with = [&](const std::string& map) {
    write_file(index, R"({"metadata":{"total_size":36},"weight_map":)" + map + "}");
    return error_of([&] { open_tensors(folder); });
  };
  const std::string whole =
      write("whole.safetensors", {{"a", counting({4})}, {"b", counting({5})}});
  EXPECT_EQ(
      with(R"({"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"})"),
      "(no error)");
  EXPECT_TRUE(compare(folder, whole).differences.empty());
  EXPECT_THAT(
      with(R"({"b":"model-00001-of-00002.safetensors","a":"model-00002-of-00002.safetensors"})"),
      HasSubstr("where it is not"));
  EXPECT_THAT(
      with(R"({"b":"model-00002-of-00002.safetensors","c":"model-00001-of-00002.safetensors"})"),
      HasSubstr("does not list 'a', which is in 'model-00001"));
  const std::string both =
      R"({"b":"model-00002-of-00002.safetensors","a":"model-00001-of-00002.safetensors")";
  EXPECT_THAT(with(both + R"(,"c":"model-00001-of-00002.safetensors"})"),
              HasSubstr("says that 'c' is in 'model-00001"));
  EXPECT_THAT(with(both + R"(,"b":"model-00002-of-00002.safetensors"})"),
              HasSubstr("the key 'b' is there twice"));
  EXPECT_THAT(with(both + R"(},"weight_map":{})"),
              HasSubstr("the key 'weight_map' is there twice"));
  EXPECT_THAT(with(both), HasSubstr("not valid JSON"));
  EXPECT_THAT(with(both + std::string("}\0", 2)), HasSubstr("zero byte"));
  EXPECT_EQ(with(both + R"(},"other":[1,{"weight_map":{"z":"../z"}},null,true,-1.5])"),
            "(no error)");
  EXPECT_THAT(with(R"({"a":"model-00003-of-00002.safetensors"})"), HasSubstr("model-00003"));
  EXPECT_THAT(with(R"({"a":"../m/model-00001-of-00002.safetensors"})"),
              AllOf(HasSubstr("same folder"), HasSubstr("..")));
  for (const char* bad :
       {"1", "null", "[]", "{}", "false", R"("")", R"(".hidden")", R"("a/b")", R"("a\u0000b")"})
    EXPECT_THAT(with(str(R"({"a":)", bad, "}")),
                HasSubstr("'a': expected the name of a file in the same folder, got "));
  EXPECT_THAT(with("[]"), HasSubstr("weight_map"));
  std::filesystem::remove(index);
  EXPECT_TRUE(compare(folder, whole).differences.empty());
  write("m/other.safetensors", second);
  EXPECT_THAT(error_of([&] { open_tensors(folder); }),
              AllOf(HasSubstr("tensor 'b' is in"), HasSubstr("other.safetensors")));
  EXPECT_THAT(error_of([&] { open_tensors(dir_.path() + "/none"); }),
              HasSubstr("no such file or folder"));
}

}  // namespace
}  // namespace lockstep::checkpoint
