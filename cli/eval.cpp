// lockstep eval CHECKPOINT [--ids IDS|FILE [--logits FILE]] [--batches N] [--set key=value]…
// [--json]
#include <cstdio>
#include <filesystem>

#include <CLI/App.hpp>
#include <nlohmann/json.hpp>

#include "checkpoint/files/readable_file.h"
#include "cli/commands.h"
#include "cli/option_checks.h"
#include "core/base/byte_text.h"
#include "train/inference/evaluate.h"

namespace lockstep::cli {
namespace {

constexpr int64_t kMaxIdBytes = 64 << 20;

struct Options {
  std::string checkpoint, ids, logits;
  std::vector<std::string> sets;
  int64_t batches = 0;
  bool json = false;
};

std::vector<int32_t> tokens_of(const std::string& ids) {
  if (!std::filesystem::is_regular_file(ids)) return train::parse_token_ids(ids, "--ids");
  return train::parse_token_ids(checkpoint::read_text(*checkpoint::open_file(ids), kMaxIdBytes),
                                ids);
}

void print(const Options& options, const train::SavedModel& model, const char* unit, int64_t count,
           double loss) {
  if (options.json) {
    std::puts(nlohmann::json{{"checkpoint", text_of_bytes(model.folder)},
                             {"step", model.step},
                             {unit, count},
                             {"loss", loss}}
                  .dump()
                  .c_str());
    return;
  }
  std::printf("checkpoint %s\n%-10s %lld\nloss       %.9g\n", model.folder.c_str(), unit,
              static_cast<long long>(count), loss);
}

int eval(const Options& options) {
  check(options.logits.empty() || !options.ids.empty(),
        "--logits needs --ids: which tokens to compute them for");
  check(options.batches == 0 || options.ids.empty(),
        "--batches selects data, but --ids gives the tokens: use one of them");
  const train::SavedModel model = train::load_model(options.checkpoint, options.sets);
  if (options.ids.empty()) {
    const int64_t batches = options.batches > 0 ? options.batches : model.config.train.eval_batches;
    print(options, model, "batches", batches, train::evaluate_on_data(model, batches));
    return kDone;
  }
  const std::vector<int32_t> tokens = tokens_of(options.ids);
  const train::TokenEvaluation evaluation = train::evaluate_tokens(model, tokens);
  if (!options.logits.empty()) train::write_logits(options.logits, tokens, evaluation);
  print(options, model, "tokens", static_cast<int64_t>(tokens.size()), evaluation.loss);
  return kDone;
}

}  // namespace

void add_eval_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "eval", "a saved model's loss on its data, or loss and logits of given tokens");
  auto options = std::make_shared<Options>();
  command
      ->add_option("checkpoint", options->checkpoint,
                   "a checkpoint, or a run's folder (its newest good one)")
      ->required();
  command->add_option("--ids", options->ids,
                      "token ids (\"1,2,3\"), or a file of them: text, or JSON with 'input_ids'");
  command->add_option("--logits", options->logits,
                      "write the logits to a new file: .json, or else safetensors");
  command
      ->add_option("--batches", options->batches,
                   "micro-batches of the data's validation part; default: train.eval_batches")
      ->check(whole_number(1, 1 << 30));
  command
      ->add_option("--set", options->sets,
                   "set a key over the saved config: data.path=FILE (repeatable)")
      ->option_text("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_flag("--json", options->json, "one line of JSON");
  command->callback([options, &exit_code] { exit_code = eval(*options); });
}

}  // namespace lockstep::cli
