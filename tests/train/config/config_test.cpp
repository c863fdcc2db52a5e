// What a user sees of the config: values, defaults, and above all the errors.
#include "train/config/config.h"

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/byte_text.h"
#include "core/base/error.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_dir.h"

namespace lockstep::train {
namespace {

using ::testing::HasSubstr;

const std::string kBase = "data: {kind: random}\n";

std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return test::error_of([&] { parse_config(text, "c.yaml", overrides); });
}

Config parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_config(text, "c.yaml", overrides);
}

TEST(Config, ReadsEveryTypeAndKeepsDefaults) {
  const Config config = parse(
      "run: {name: first, seed: 7}\n"
      "data:\n  kind: text\n  path: \"a b.txt\"\n"
      "train:\n  steps: 20\n  precision: bf16\n  grad_clip: 0.5\n"
      "model: {scaled_residual_init: true}\n"
      "optim:\n  lr: 3e-4\n  betas: [0.8, 0.95]\n  schedule:\n    kind: cosine\n    warmup: 5\n");
  EXPECT_EQ(config.run.name, "first");
  EXPECT_EQ(config.run.seed, 7);
  EXPECT_EQ(config.data.path, "a b.txt");
  EXPECT_EQ(config.train.steps, 20);
  EXPECT_EQ(config.train.precision, Precision::bf16);
  EXPECT_EQ(config.train.grad_clip, 0.5);
  EXPECT_TRUE(config.model.scaled_residual_init);
  EXPECT_EQ(config.optim.lr, 3e-4);
  EXPECT_EQ(config.optim.betas, (std::array<double, 2>{0.8, 0.95}));
  EXPECT_EQ(config.optim.schedule.kind, ScheduleKind::cosine);
  EXPECT_EQ(config.train.micro_batch, Config{}.train.micro_batch);
}

TEST(Config, OverridesApplyInOrderAndTakeLists) {
  const Config config =
      parse(kBase, {"train.steps=5", "train.steps=6", "optim.betas=[0.5, 0.75]", "run.name=x=y"});
  EXPECT_EQ(config.train.steps, 6);
  EXPECT_EQ(config.optim.betas, (std::array<double, 2>{0.5, 0.75}));
  EXPECT_EQ(config.run.name, "x=y");
}

TEST(Config, ResolvedTextReadsBackAsTheSame) {
  const Config config = parse(kBase, {"optim.lr=0.1", "run.name=a \"b\" \\c: #d", "run.dir=~",
                                      "optim.betas=[0.1, 0.2]", "optim.eps=1e-9"});
  const std::string text = to_yaml(config);
  EXPECT_EQ(to_yaml(parse(text)), text);
  EXPECT_EQ(parse(text).run.name, "a \"b\" \\c: #d");
  EXPECT_EQ(parse(text).run.dir, "~");
}

struct BadConfig {
  std::string text, expected;
};
class ConfigErrors : public ::testing::TestWithParam<BadConfig> {};

TEST_P(ConfigErrors, NamesThePlaceAndTheKey) {
  EXPECT_THAT(error_of(GetParam().text), HasSubstr(GetParam().expected));
}

INSTANTIATE_TEST_SUITE_P(
    Table, ConfigErrors,
    ::testing::Values(
        BadConfig{"train:\n  micro_btch: 4\n",
                  "c.yaml:2:3: unknown key 'train.micro_btch'; did you mean 'micro_batch'?"},
        BadConfig{"trian:\n  steps: 4\n", "c.yaml:1:1: unknown key 'trian'; did you mean 'train'?"},
        BadConfig{"train: {lr: 4}\n",
                  "c.yaml:1:9: unknown key 'train.lr'; did you mean 'optim.lr'?"},
        BadConfig{"train.steps: 4\n", "c.yaml:1:1: unknown key 'train.steps'"},
        BadConfig{"optim:\n  schedule:\n    warm: 4\n",
                  "c.yaml:3:5: unknown key 'optim.schedule.warm'"},
        BadConfig{"qqqqqqqqqqqq: 1\n", "docs/configuration.md lists all keys"},
        BadConfig{"a: 1\n", "unknown key 'a'; docs/configuration.md lists all keys"},
        BadConfig{"train:\n  steps: 4\n  steps: 5\n",
                  "c.yaml:3:3: key 'train.steps' is there twice"},
        BadConfig{"train: {steps: 4}\ndata: {kind: random}\ntrain: {steps: 4}\n",
                  "c.yaml:3:1: key 'train' is there twice"},
        BadConfig{"train: {steps: many}\n",
                  "c.yaml:1:16: key 'train.steps': expected an integer, got 'many'"},
        BadConfig{"train: {steps: 1e3}\n", "expected an integer, got '1e3'"},
        BadConfig{"train: {steps: \"4\"}\n", "expected an integer, got the quoted text '4'"},
        BadConfig{"train: {steps: 99999999999999999999}\n", "expected an integer"},
        BadConfig{"train: {steps: [4]}\n", "expected an integer, got the list '[4]'"},
        BadConfig{"train: {steps: {a: 1}}\n",
                  "key 'train.steps': expected an integer, got keys below it"},
        BadConfig{"train: {steps: }\n", "key 'train.steps' has no value: expected an integer"},
        BadConfig{"train: {steps: 0}\n",
                  "key 'train.steps': 0 is out of range: expected at least 1"},
        BadConfig{"optim: {lr: .nan}\n", "key 'optim.lr': expected a number"},
        BadConfig{
            "model: {layers: 100000}\n",
            "key 'model.layers': 100000 is out of range: expected at least 1 and at most 10000"},
        BadConfig{"optim: {lr: -1}\n", "key 'optim.lr': -1 is out of range: expected above 0"},
        BadConfig{"optim: {betas: 0.9}\n", "key 'optim.betas': expected a list of 2 numbers"},
        BadConfig{"optim: {betas: [0.9, 1]}\n",
                  "key 'optim.betas': 1 is out of range: expected at least 0 and below 1"},
        BadConfig{"optim: {betas: [[0.9], 1]}\n", "key 'optim.betas': a list within a list"},
        BadConfig{"checkpoint: {async: yes}\n",
                  "key 'checkpoint.async': expected true or false, got 'yes'"},
        BadConfig{"train: {precision: fp8}\n",
                  "key 'train.precision': 'fp8' is not one of fp32 | bf16 | fp16"},
        BadConfig{"device: gpu\n",
                  "c.yaml:1:9: key 'device': 'gpu' is not one of auto | cpu | cuda"},
        BadConfig{"device: {type: cuda}\n",
                  "key 'device': expected auto | cpu | cuda, got keys below it"},
        BadConfig{"data: {kind: random}\ndevice: cuda\nmodel: {dim: 520, heads: 2}\n",
                  "model.dim / model.heads is 260, but heads on a CUDA device have at most 256 "
                  "elements: set more heads, or device cpu"},
        BadConfig{"data: {kind: random}\ndevice: cuda\nparallel: {offload: true}\n",
                  "c.yaml:3:21, c.yaml:2:9: parallel.offload keeps state in files, which a CUDA "
                  "device cannot read"},
        BadConfig{"train: 5\n", "key 'train': expected keys below it, got a value"},
        BadConfig{"- a\n- b\n", "c.yaml:1:1: expected 'group:' with keys below it, got a list"},
        BadConfig{"just words\n", "expected 'group:' with keys below it, got 'just words'"},
        BadConfig{"train: {steps: 4\n", "not valid YAML"},
        BadConfig{"# \t\ntrain:\n\tsteps: 4\n",
                  "(line 3 is indented with a tab: YAML allows spaces only)"},
        BadConfig{std::string("train: {steps: 4}\n\0\n", 20),
                  "c.yaml:2: not a text file: it holds a zero byte"},
        BadConfig{"run: &a {name: x}\n", "anchors (&name) are not supported"},
        BadConfig{"run: {name: x}\n---\nrun: {name: y}\n", "one YAML document"},
        BadConfig{"data: {kind: random}\ntrain: {global_batch: 16, micro_batch: 5}\n",
                  "train.micro_batch (5) does not divide train.global_batch (16)"},
        BadConfig{"data: {kind: random}\nmodel: {dim: 10, heads: 4}\n",
                  "model.heads (4) does not divide model.dim (10)"},
        BadConfig{"data: {kind: text}\n", "data.path is not set"},
        BadConfig{"data: {kind: text, path: x}\nmodel: {vocab: 100}\n", "model.vocab is 100"},
        BadConfig{"data: {kind: text, path: x}\nmodel: {kind: mlp}\n", "needs model.kind 'gpt'"},
        BadConfig{"data: {kind: random}\nrun: {name: a/b}\n", "run.name 'a/b'"},
        BadConfig{"data: {kind: random}\ntrain: {steps: 5}\noptim: {schedule: {warmup: 6}}\n",
                  "optim.schedule.warmup (6) is longer"},
        BadConfig{
            "data: {kind: random}\nparallel: {shard: half}\n",
            "key 'parallel.shard': 'half' is not one of full | grad | optim | hybrid | a number"},
        BadConfig{"data: {kind: random}\nparallel: {shard: hybrid}\n",
                  "needs parallel.mesh: [replicate, shard]"},
        BadConfig{"data: {kind: random}\nparallel: {shard: optim}\n",
                  "parallel.shard 'optim' is for parallel.strategy 'fsdp', got 'ddp'"},
        BadConfig{
            "data: {kind: random}\nparallel: {strategy: fsdp, shard: hybrid, mesh: [1.5, 2]}\n",
            "key 'parallel.mesh': expected a list of 2 integers, got the list '[1.5, 2]'"},
        BadConfig{"data: {kind: random}\nparallel: {mesh: [2, 2]}\n",
                  "parallel.mesh is for parallel.shard 'hybrid'"},
        BadConfig{"data: {kind: random}\nparallel: {wrap: none}\n",
                  "parallel.wrap 'none' is for parallel.strategy 'fsdp', got 'ddp'"},
        BadConfig{"data: {kind: random}\nparallel: {backend: tcp}\n",
                  "'tcp' is not one of auto | local | shm | ucx | mpi | nccl"}));

TEST(Config, OverrideErrorsNameTheOverride) {
  EXPECT_THAT(error_of(kBase, {"train.steps"}), HasSubstr("--set train.steps: expected key=value"));
  EXPECT_THAT(error_of(kBase, {"train.stepz=4"}),
              HasSubstr("unknown key 'train.stepz'; did you mean 'steps'?"));
  EXPECT_THAT(error_of(kBase, {"train={steps: 4}"}),
              HasSubstr("'train' is a group of keys: set one of them"));
  EXPECT_THAT(error_of(kBase, {"train.steps=-4"}),
              HasSubstr("--set train.steps=-4: key 'train.steps': -4 is out of range"));
  EXPECT_THAT(error_of(kBase, {"train=4"}), HasSubstr("'train' is a group of keys"));
}

TEST(Config, ATextInBracketsIsNoList) {
  EXPECT_EQ(parse(kBase, {"run.name=[x]"}).run.name, "[x]");
  EXPECT_EQ(parse(kBase, {"run.dir=[a, b]"}).run.dir, "[a, b]");
  EXPECT_EQ(parse(kBase, {"optim.betas=[0.5, 0.75]"}).optim.betas,
            (std::array<double, 2>{0.5, 0.75}));
  EXPECT_THAT(error_of(kBase, {"train.steps=[4]"}), HasSubstr("expected an integer, got '[4]'"));
}

TEST(Config, PresetsComeBeforeOverridesAndNameTheirOrigin) {
  const std::vector<Preset> presets = {{"train.steps=7", "x.json: 'steps'"},
                                       {"run.seed=3", "x.json: 'seed'"}};
  const std::vector<std::string> overrides = {"run.seed=4", "data.kind=random"};
  const Config config = parse_config("train: {steps: 5}\n", "c.yaml", overrides, presets);
  EXPECT_EQ(config.train.steps, 7);
  EXPECT_EQ(config.run.seed, 4);
  EXPECT_THAT(
      [&] {
        parse_config("", "c.yaml", {}, std::vector<Preset>{{"train.steps=0", "x.json: 'steps'"}});
      },
      ::testing::ThrowsMessage<UsageError>(
          HasSubstr("x.json: 'steps': key 'train.steps': 0 is out of range")));
}

TEST(Config, KeysThatDoNotFitAreNamedWithTheirOrigins) {
  const std::string file = "data: {kind: random}\ntrain:\n  global_batch: 16\n  micro_batch: 4\n";
  EXPECT_EQ(
      error_of(file, {"train.micro_batch=5"})
          .find("--set train.micro_batch=5, c.yaml:3:17: train.micro_batch (5) does not divide"),
      0u);
  // The last one counts, and what has its default comes from nowhere.
  EXPECT_EQ(error_of(file, {"train.micro_batch=4", "train.global_batch=18"})
                .find("--set train.micro_batch=4, --set train.global_batch=18: "),
            0u);
  EXPECT_EQ(error_of("data: {kind: random}\n", {"model.heads=3"})
                .find("--set model.heads=3: model.heads (3)"),
            0u);
  EXPECT_EQ(error_of("run: {name: x}\n").find("c.yaml: data.path is not set"), 0u);
}

TEST(Config, HostileYamlIsRefusedQuickly) {
  EXPECT_THAT(error_of("run: " + std::string(100000, '[')), HasSubstr("c.yaml:1:"));
  EXPECT_THAT(error_of(std::string(100000, '{')), HasSubstr("c.yaml:1:"));
  EXPECT_THAT(error_of(std::string((1 << 20) + 1, ' ')), HasSubstr("at most 1048576 bytes"));
  EXPECT_THAT(error_of("run: {name: *x}\n"), HasSubstr("c.yaml:1:"));
}

TEST(Config, FilesThatCannotBeRead) {
  EXPECT_THAT([] { load_config("/nowhere/c.yaml"); },
              ::testing::ThrowsMessage<UsageError>(HasSubstr("No such file")));
  EXPECT_THROW(load_config("/"), UsageError);
  test::TempDir dir;
  const std::string empty = dir.path() + "/empty.yaml";
  std::ofstream(empty).close();
  const std::vector<std::string> random{"data.kind=random"};
  EXPECT_EQ(to_yaml(load_config(empty, random)), to_yaml(parse_config("", "none", random)));
}

TEST(Config, MoreRanksThanMicroBatches) {
  const Config config = parse(kBase, {"train.global_batch=8", "train.micro_batch=2"});
  EXPECT_NO_THROW(check_world_size(config, 4));
  EXPECT_THROW(check_world_size(config, 5), UsageError);
  const Config single = parse(kBase, {"parallel.strategy=single"});
  EXPECT_NO_THROW(check_world_size(single, 1));
  EXPECT_THROW(check_world_size(single, 2), UsageError);
}

TEST(Config, DigestFollowsWhatTheBitsDependOn) {
  const Config base = parse(kBase);
  EXPECT_EQ(config_digest(base).size(), 64u);
  for (const char* neutral : {"run.name=other", "run.dir=/x", "parallel.strategy=single",
                              "parallel.bucket_mb=1", "checkpoint.every=5"})
    EXPECT_EQ(config_digest(parse(kBase, {neutral})), config_digest(base)) << neutral;
  for (const char* essential : {"run.seed=1", "train.micro_batch=2", "optim.lr=0.5",
                                "parallel.reduction=fast", "device=cuda"})
    EXPECT_NE(config_digest(parse(kBase, {essential})), config_digest(base)) << essential;
}

TEST(Config, DifferencesNameTheKeys) {
  const std::string a = canonical_text(parse(kBase));
  const std::string b = canonical_text(parse(kBase, {"train.steps=5", "parallel.bucket_mb=1"}));
  const auto text = [](std::string_view one, std::string_view other) {
    std::string all;
    for (const auto& [key, before, after] : differences(one, other))
      all += str(key, ": ", before, " ", after, "; ");
    return all;
  };
  EXPECT_EQ(text(a, a), "");
  EXPECT_EQ(text(a, b), "parallel.bucket_mb: 25 1; train.steps: 1000 5; ");
  EXPECT_EQ(text("a=1\nc=2\n", "a=1\nb=7\nc=2\n"), "b: (absent) 7; ");
  EXPECT_EQ(text("a=1\nc=2\n", "a=1\n"), "c: 2 (absent); ");
}

TEST(Config, DocumentationHoldsTheTableOfKeys) {
  std::ifstream in(std::string(LOCKSTEP_SOURCE_DIR) + "/docs/configuration.md");
  std::ostringstream text;
  text << in.rdbuf();
  EXPECT_THAT(text.str(), HasSubstr(key_table()))
      << "replace the table in docs/configuration.md by this one:\n"
      << key_table();
}

TEST(Config, ShippedConfigsAreValid) {
  int configs = 0;
  for (const auto& file :
       std::filesystem::directory_iterator(std::string(LOCKSTEP_SOURCE_DIR) + "/configs")) {
    if (file.path().extension() != ".yaml") continue;
    ++configs;
    EXPECT_NO_THROW(load_config(file.path())) << file.path();
  }
  EXPECT_GT(configs, 0);
}

// Whatever the system allows in names is saved and read back, and what is saved is UTF-8.
TEST(Config, AnyBytesOfNamesComeBack) {
  std::mt19937 random(1);
  const std::string pieces[] = {
      "\\",       "\\xE9",        "\xe9",         "\xc3\xa9", "\"", "'",
      ": ",       " #",           "\n",           "\t",       "\r", "\xef\xbf\xbd",
      "\xc2\x85", "\xe2\x80\xa8", "\xef\xbb\xbf", "null",     "~"};
  for (int i = 0; i < 3000; ++i) {
    Config config;
    config.data.kind = DataKind::random;
    config.run.name.clear();
    for (uint32_t n = 1 + random() % 5; n > 0; --n)
      config.run.name += random() % 3 == 0 ? std::string(1, static_cast<char>(1 + random() % 255))
                                           : pieces[random() % std::size(pieces)];
    if (config.run.name.find('/') != std::string::npos || config.run.name == ".") continue;
    config.run.dir = config.data.path = config.run.name;
    const std::string yaml = to_yaml(config);
    ASSERT_EQ(find_no_utf8(yaml), std::string::npos);
    const Config back = parse_config(yaml, "test");
    ASSERT_EQ(back.run.name, config.run.name) << yaml;
    ASSERT_EQ(back.run.dir, config.run.name);
    ASSERT_EQ(back.data.path, config.run.name);
  }
}

TEST(Config, BytesThatAreNoUtf8AreSpelledOutInFiles) {
  const std::string start = "data: {kind: random}\n";
  EXPECT_EQ(parse_config(start + "run: {name: 'caf\\xE9'}\n", "test").run.name, "caf\xe9");
  EXPECT_EQ(parse_config(start, "test", std::vector<std::string>{"run.name=caf\xe9"}).run.name,
            "caf\xe9");
  EXPECT_EQ(parse_config(start, "test", std::vector<std::string>{"run.name=caf\\xE9"}).run.name,
            "caf\\xE9")
      << "as it was typed";
  EXPECT_EQ(parse_config(start + "run: {name: caf\xe9}\n", "test").run.name, "caf\xe9");
  // In a comment it harms nobody.
  EXPECT_EQ(parse_config("# caf\xe9\n" + start, "test").data.kind, DataKind::random);
  EXPECT_THAT(test::error_of([&] { parse_config(start + "run: {dir: \"a\\0b\"}\n", "a.yaml"); }),
              HasSubstr("run.dir holds a zero byte"));
}

}  // namespace
}  // namespace lockstep::train
