// Models to and from Hugging Face's folders.
#include "train/exchange/exchange.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/exchange/diff.h"
#include "checkpoint/exchange/safetensors_folder.h"
#include "tests/support/error_of.h"
#include "tests/support/failing_calls.h"
#include "tests/support/temp_dir.h"
#include "tests/train/overrides.h"
#include "train/exchange/layout.h"
#include "train/inference/evaluate.h"
#include "train/models/factory.h"

namespace lockstep::train {
namespace {

using checkpoint::WantedTensor;
using test::error_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr const char* kConfig =
    R"({"model_type": "gpt2", "vocab_size": 11, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2})";

class Exchange : public ::testing::Test {
 protected:
  // All tensors of the config above, as GPT-2 stores them, with values that no two share.
  static std::map<std::string, Tensor> all_tensors(const std::string& prefix = "transformer.") {
    std::map<std::string, Tensor> tensors;
    float next = 0;
    Config config;
    config.model = parse_config_json(kConfig, "c").model.model;
    std::map<std::string, Shape> ours;
    for (const Parameter& p : build_model(config).module->parameters())
      ours.emplace(p.name(), p.data().shape());
    for (const NamePair& pair : kGpt2Layout.tensors(config.model)) {
      Shape shape = ours.at(pair.ours);
      if (pair.transposed) shape = {shape[1], shape[0]};
      const Tensor tensor = Tensor::empty(shape);
      for (float& value : tensor.span<float>()) value = (next += 1) / 1024;
      tensors.emplace(prefix + pair.theirs.substr(std::strlen("transformer.")), tensor);
    }
    return tensors;
  }
  std::string write(const std::string& name, const std::map<std::string, Tensor>& tensors,
                    const std::string& config = kConfig, int64_t shard = 0) {
    checkpoint::FolderRequest request{.dir = path(name),
                                      .tensors = {},
                                      .max_shard_bytes = shard,
                                      .texts = {{"config.json", config}}};
    for (const auto& [tensor, values] : tensors)
      request.tensors.push_back({.name = tensor,
                                 .dtype = values.dtype(),
                                 .shape = values.shape(),
                                 .values = [held = values] { return held; }});
    checkpoint::write_safetensors_folder(request);
    return path(name);
  }
  ImportReport import(const std::string& folder, const std::string& run, bool ignore = false) {
    return import_folder({.folder = folder,
                          .run = path(run),
                          .config = {},
                          .overrides = {},
                          .ignore_unexpected = ignore});
  }
  std::string path(const std::string& name) const { return dir_.path() + "/" + name; }
  static bool equal(const std::string& a, const std::string& b) {
    return checkpoint::diff(*checkpoint::open_tensors(a), *checkpoint::open_tensors(b), {},
                            [](const auto&) {})
               .different == 0;
  }
  test::TempDir dir_;
};

TEST_F(Exchange, ThereAndBackIsTheSame) {
  const std::string theirs = write("theirs", all_tensors());
  const ImportReport report = import(theirs, "run");
  EXPECT_THAT(report.missing, IsEmpty());
  EXPECT_THAT(report.misshapen, IsEmpty());
  EXPECT_THAT(report.unexpected, IsEmpty());
  EXPECT_EQ(report.imported, 2 + 2 * 12 + 2);
  // One file and several.
  export_checkpoint({.checkpoint = path("run"), .dir = path("one")});
  const Exported several = export_checkpoint(
      {.checkpoint = path("run"), .dir = path("several"), .max_shard_bytes = 1000});
  EXPECT_GT(several.files.size(), 3u);
  EXPECT_EQ(several.files[0].substr(0, 15), "model-00001-of-");
  EXPECT_TRUE(equal(theirs, path("one")));
  EXPECT_TRUE(equal(theirs, path("several")));
  // What was exported can be imported.
  import(path("several"), "again");
  EXPECT_TRUE(equal(path("run"), path("again")));
  EXPECT_TRUE(std::filesystem::exists(path("one/config.json")));
}

TEST_F(Exchange, LinearWeightsAreTransposed) {
  import(write("theirs", all_tensors()), "run");
  const auto saved = load_model(path("run"));
  const Tensor theirs = all_tensors().at("transformer.h.1.mlp.c_fc.weight");  // [8, 32]
  for (const Parameter& p : saved.module->parameters()) {
    if (p.name() != "blocks.1.fc.weight") continue;
    ASSERT_EQ(p.data().shape(), (Shape{32, 8}));
    EXPECT_EQ(p.data().select(0, 3).select(0, 5).item(), theirs.select(0, 5).select(0, 3).item());
  }
}

TEST_F(Exchange, NamesWithoutPrefixMasksAndAStoredHead) {
  auto tensors = all_tensors("");
  tensors["lm_head.weight"] = tensors.at("wte.weight");
  tensors["h.0.attn.bias"] = Tensor::zeros({1, 1, 6, 6}, DType::u8);
  tensors["h.0.attn.masked_bias"] = Tensor::zeros({});
  const ImportReport report = import(write("theirs", tensors), "run");
  EXPECT_EQ(report.imported, 28);
  EXPECT_THAT(report.notes, ::testing::Contains(HasSubstr("lm_head.weight equals the embedding")));
  EXPECT_THAT(report.notes, ::testing::Contains(HasSubstr("h.0.attn.masked_bias holds constants")));

  tensors["lm_head.weight"] = Tensor::zeros({11, 8});
  EXPECT_THAT(import(write("untied", tensors), "untied-run").unexpected,
              ElementsAre("lm_head.weight: F32[11, 8]"));
}

TEST_F(Exchange, ANameWithAndWithoutItsPrefixIsNotLeftOutSilently) {
  auto tensors = all_tensors();
  tensors["wpe.weight"] = Tensor::zeros({6, 8});
  EXPECT_THAT(import(write("theirs", tensors), "run").unexpected,
              ElementsAre("wpe.weight: F32[6, 8]"));
}

TEST_F(Exchange, HalfPrecisionBecomesF32) {
  auto halves = all_tensors(), floats = all_tensors();
  for (auto& [name, tensor] : halves) {
    tensor = tensor.to(name.ends_with("bias") ? DType::f16 : DType::bf16);
    floats[name] = tensor.to(DType::f32);
  }
  import(write("halves", halves), "a");
  import(write("floats", floats), "b");
  EXPECT_TRUE(equal(path("a"), path("b")));
}

TEST_F(Exchange, SaysWhatIsMissingUnexpectedAndMisshapen) {
  auto tensors = all_tensors();
  tensors.erase("transformer.h.1.ln_2.bias");
  tensors["score.weight"] = Tensor::zeros({2, 8});
  tensors["transformer.wpe.weight"] = Tensor::zeros({5, 8});
  tensors["transformer.h.0.ln_1.weight"] = Tensor::zeros({8}, DType::i64);
  const ImportReport report = import(write("theirs", tensors), "run");
  EXPECT_THAT(report.missing, ElementsAre("transformer.h.1.ln_2.bias"));
  EXPECT_THAT(report.unexpected, ElementsAre("score.weight: F32[2, 8]"));
  EXPECT_THAT(
      report.misshapen,
      ElementsAre("transformer.wpe.weight: expected F32, BF16 or F16 of [6, 8], found F32[5, 8]",
                  "transformer.h.0.ln_1.weight: expected F32, BF16 or F16 of [8], found I64[8]"));
  EXPECT_EQ(report.checkpoint, "");
  EXPECT_FALSE(std::filesystem::exists(path("run")))
      << "nothing may be left of an import that failed";

  auto extra = all_tensors();
  extra["score.weight"] = Tensor::zeros({2, 8});
  const std::string folder = write("extra", extra);
  EXPECT_EQ(import(folder, "refused").checkpoint, "");
  EXPECT_NE(import(folder, "accepted", true).checkpoint, "");
}

TEST_F(Exchange, NothingIsWrittenOver) {
  const std::string theirs = write("theirs", all_tensors());
  import(theirs, "run");
  EXPECT_THAT(
      error_of([&] { import(theirs, "run"); }),
      HasSubstr("holds a run: nothing is written over; name a folder that is not there yet"));
  std::filesystem::create_directory(path("taken"));
  EXPECT_THAT(
      error_of([&] { export_checkpoint({.checkpoint = path("run"), .dir = path("taken")}); }),
      HasSubstr("nothing is written over"));
  std::filesystem::create_symlink("nowhere", path("link"));
  EXPECT_THAT(
      error_of([&] { export_checkpoint({.checkpoint = path("run"), .dir = path("link")}); }),
      HasSubstr("nothing is written over"));
  // A failure leaves nothing, not even of what was written aside.
  checkpoint::FolderRequest request{
      .dir = path("broken"), .tensors = {}, .max_shard_bytes = 0, .texts = {}};
  request.tensors.push_back(
      {.name = "w", .shape = {2}, .values = []() -> Tensor { throw EnvironmentError("gone"); }});
  EXPECT_THAT(error_of([&] { checkpoint::write_safetensors_folder(request); }), HasSubstr("gone"));
  for (const auto& entry : std::filesystem::directory_iterator(dir_.path()))
    EXPECT_THAT(entry.path().filename().string(),
                AllOf(Not(HasSubstr("broken")), Not(HasSubstr(".tmp-"))));
}

TEST_F(Exchange, RefusesConfigsOfOtherModels) {
  const auto with = [](const std::string& fields) {
    return error_of(
        [&] { parse_config_json(R"({"model_type": "gpt2", )" + fields + "}", "config.json"); });
  };
  EXPECT_THAT(error_of([] { parse_config_json(R"({"model_type": "bert"})", "config.json"); }),
              AllOf(HasSubstr("config.json"), HasSubstr("bert")));
  EXPECT_THAT(error_of([] { parse_config_json("[]", "config.json"); }),
              HasSubstr("expected an object"));
  EXPECT_THAT(error_of([] { parse_config_json("{", "config.json"); }), HasSubstr("not valid JSON"));
  EXPECT_THAT(with(R"("n_layer": "2")"), AllOf(HasSubstr("'n_layer'"), HasSubstr("an integer")));
  EXPECT_THAT(with(R"("activation_function": "mish")"),
              AllOf(HasSubstr("mish"), HasSubstr("gelu_new")));
  EXPECT_THAT(with(R"("n_inner": 100)"), HasSubstr("n_inner"));
  EXPECT_THAT(with(R"("tie_word_embeddings": false)"), HasSubstr("tie_word_embeddings"));
  EXPECT_THAT(with(R"("scale_attn_by_inverse_layer_idx": true)"),
              HasSubstr("scale_attn_by_inverse_layer_idx"));
  EXPECT_EQ(
      with(
          R"("n_inner": null, "activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-6)"),
      "(no error)");
  // Nor is a model allocated that the files have no weights for: this one has 10¹⁶ parameters.
  const std::string huge =
      write("huge", all_tensors(),
            R"({"model_type": "gpt2", "n_layer": 1000, "n_embd": 1048576, "n_head": 1})");
  EXPECT_GT(import(huge, "run").missing.size(), 10000u);
  // Sizes that no model can have are refused by the config's own ranges.
  // What is named is the folder's key: nobody wrote a --set.
  EXPECT_THAT(
      error_of([&] { import(write("x", {}, R"({"model_type": "gpt2", "n_layer": -1})"), "run"); }),
      AllOf(HasSubstr("x/config.json: 'n_layer': key 'model.layers': -1 is out of range"),
            Not(HasSubstr("--set"))));
  EXPECT_THAT(
      error_of([&] { import(write("y", {}, R"({"model_type": "gpt2", "n_head": 5})"), "run"); }),
      AllOf(HasSubstr("y/config.json: 'n_head', "),
            HasSubstr("y/config.json: 'n_embd': model.heads (5)"), Not(HasSubstr("--set"))));
}

TEST_F(Exchange, TheRunsFolderIsTheOneThatWasNamed) {
  const std::string theirs = write("theirs", all_tensors());
  const auto with = [&](const std::string& run, const Overrides& overrides) {
    return error_of([&] {
      import_folder({.folder = theirs, .run = path(run), .config = {}, .overrides = overrides});
    });
  };
  EXPECT_THAT(with("run", {"run.name=other"}),
              HasSubstr("--set run.name=other: the run's folder is '"));
  EXPECT_THAT(with("run", {"run.dir=other"}),
              HasSubstr("--set run.dir=other: the run's folder is '"));
  EXPECT_THAT(with("run", {"model.dim=4"}), "(no error)");  // said of every tensor
  EXPECT_FALSE(std::filesystem::exists(path("run")));
  EXPECT_EQ(with("[run]", {}), "(no error)");
  EXPECT_TRUE(std::filesystem::exists(path("[run]/checkpoints")));
}

TEST_F(Exchange, AnAdapterIsNotLeftOutSilently) {
  const std::string theirs = write("theirs", all_tensors());
  std::ofstream(theirs + "/adapter_config.json") << "{}";
  EXPECT_THAT(error_of([&] { import(theirs, "run"); }),
              AllOf(HasSubstr("theirs holds an adapter"), HasSubstr("merge it first")));
}

// As transformers has it.
TEST_F(Exchange, ASingleFileGoesBeforeAnIndex) {
  const std::string folder = write("several", all_tensors(), kConfig, 1000);
  auto others = all_tensors();
  for (float& value : others.at("transformer.wpe.weight").span<float>()) value = -7;
  std::filesystem::copy(write("one", others) + "/model.safetensors", folder + "/model.safetensors");
  EXPECT_TRUE(equal(folder, path("one")));
  import(folder, "run");
  for (const Parameter& p : load_model(path("run")).module->parameters()) {
    if (p.name() != "wpe.weight") continue;
    EXPECT_EQ(p.data().select(0, 0).select(0, 0).item(), -7);
  }
}

TEST_F(Exchange, Llama) {
  const std::string json =
      R"({"model_type": "llama", "vocab_size": 11, "max_position_embeddings": 6, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0})";
  for (const char* tied : {"true", "false"}) {
    const std::string config_json = json + R"(, "tie_word_embeddings": )" + tied + "}";
    Config config;
    config.model = parse_config_json(config_json, "c").model.model;
    EXPECT_EQ(config.model.rope_theta, 500.0);
    std::map<std::string, Tensor> tensors;
    std::map<std::string, Tensor> ours;
    for (const Parameter& p : build_model(config).module->parameters())
      ours.emplace(p.name(), p.data());
    for (const NamePair& pair : kLlamaLayout.tensors(config.model))
      tensors.emplace(pair.theirs, ours.at(pair.ours));
    EXPECT_EQ(tensors.size(), ours.size());
    EXPECT_EQ(tensors.count("lm_head.weight"), std::string(tied) == "true" ? 0u : 1u);
    // Old folders have it.
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = Tensor::zeros({2});
    const std::string run = std::string("run-") + tied, back = std::string("back-") + tied;
    EXPECT_NE(import(write(std::string("theirs-") + tied, tensors, config_json), run).checkpoint,
              "");
    export_checkpoint({.checkpoint = path(run), .dir = path(back)});
    import(path(back), run + "-again");
    EXPECT_TRUE(equal(path(run), path(run + "-again")));
    EXPECT_EQ(canonical_text(load_model(path(run)).config, KeyScope::result),
              canonical_text(load_model(path(run + "-again")).config, KeyScope::result));
    EXPECT_THAT(
        error_of([&] {
          export_checkpoint({.checkpoint = path(run), .dir = path("x"), .format = "hf-gpt2"});
        }),
        HasSubstr("llama"));
  }
  const auto with = [](const std::string& fields) {
    return error_of(
        [&] { parse_config_json(R"({"model_type": "llama", )" + fields + "}", "config.json"); });
  };
  EXPECT_EQ(with(R"("rope_theta": 1e6, "rope_scaling": null, "num_key_value_heads": null)"),
            "(no error)");
  EXPECT_THAT(with(R"("rope_scaling": {"rope_type": "llama3"})"), HasSubstr("rope_scaling"));
  EXPECT_THAT(with(R"("rope_parameters": {"rope_type": "yarn"})"), HasSubstr("rope_type"));
  EXPECT_THAT(with(R"("attention_bias": true)"), HasSubstr("attention_bias"));
  EXPECT_THAT(with(R"("head_dim": 64)"), HasSubstr("head_dim"));
  EXPECT_THAT(with(R"("hidden_act": "gelu")"), HasSubstr("hidden_act"));
}

TEST_F(Exchange, TheModelIsTheFoldersOwn) {
  import(
      write(
          "theirs", all_tensors(),
          R"({"model_type": "gpt2", "vocab_size": 11, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2,
     "activation_function": "relu", "layer_norm_epsilon": 0.5, "resid_pdrop": 0.25})"),
      "run");
  const SavedModel saved = load_model(path("run"));
  EXPECT_EQ(saved.config.model.activation, Activation::relu);
  EXPECT_EQ(saved.config.model.norm_eps, 0.5);
  EXPECT_EQ(saved.config.model.dropout, 0.25);
  EXPECT_EQ(saved.step, 0);
  const std::string again = kGpt2Layout.to_config_json(saved.config.model);
  const ModelConfig read = parse_config_json(again, "again").model.model;
  EXPECT_EQ(read.activation, Activation::relu);
  EXPECT_EQ(read.norm_eps, 0.5);
  EXPECT_EQ(read.vocab, 11);
}

TEST_F(Exchange, LossOfTokensIsTheMeanOverAllButTheFirst) {
  import(write("theirs", all_tensors()), "run");
  const SavedModel saved = load_model(path("run"));
  const TokenEvaluation evaluation = evaluate_tokens(saved, {3, 1, 4});
  ASSERT_EQ(evaluation.logits.shape(), (Shape{3, 11}));
  double loss = 0;
  for (const auto& [row, target] : {std::pair{0, 1}, std::pair{1, 4}}) {
    double total = 0;
    const auto logits = evaluation.logits.select(0, row).to_vector<float>();
    for (const float logit : logits) total += std::exp(static_cast<double>(logit));
    loss += std::log(total) - static_cast<double>(logits[static_cast<size_t>(target)]);
  }
  EXPECT_NEAR(evaluation.loss, loss / 2, 1e-5);
  EXPECT_THAT(error_of([&] { evaluate_tokens(saved, {11}); }),
              HasSubstr("token 11 is outside of the vocabulary of 11"));
  EXPECT_THAT(error_of([&] { evaluate_tokens(saved, std::vector<int32_t>(7)); }),
              HasSubstr("expected 1 to 6 tokens"));
  EXPECT_THAT(error_of([&] { evaluate_tokens(saved, {}); }), HasSubstr("got 0"));
}

// A disk that fails once all is written, and none of it is safe.
TEST(Logits, AreInAWholeFileOrInNone) {
  const test::TempDir dir;
  const TokenEvaluation evaluation{.logits = Tensor::full({2, 3}, 1), .loss = 0.5};
  for (const char* name : {"logits.json", "logits.safetensors"}) {
    const std::string file = dir.path() + "/" + name;
    std::string error;
    const bool filtered = test::where_call_fails(SYS_fsync, EIO, [&] {
      error = error_of([&] { write_logits(file, {1, 2}, evaluation); });
    });
    if (!filtered) GTEST_SKIP() << "skipped: the system lets no thread filter its calls";
    EXPECT_THAT(error, HasSubstr("errno 5"));
    EXPECT_TRUE(std::filesystem::is_empty(dir.path())) << name;
    write_logits(file, {1, 2}, evaluation);
    EXPECT_GT(std::filesystem::file_size(file), 0u);
    EXPECT_NE(error_of([&] {
                write_logits(file, {1, 2}, evaluation);
              }),
              "(no error)")
        << "written over";
    std::filesystem::remove(file);
  }
}

TEST(TokenIds, TextAndJson) {
  const std::vector<int32_t> expected = {1, 20, 3};
  for (const char* text :
       {"1,20,3", " 1 20\n3\n", "[1, 20, 3]", R"({"input_ids": [1, 20, 3], "loss": 1})"})
    EXPECT_EQ(parse_token_ids(text, "--ids"), expected) << text;
  for (const char* text :
       {"", " ", "1,x", "-1", "99999999999", "[1.5]", "[-1]", "{}", "[1", R"({"input_ids": 1})"})
    EXPECT_THAT(error_of([&] { parse_token_ids(text, "--ids"); }), HasSubstr("--ids")) << text;
}

}  // namespace
}  // namespace lockstep::train
