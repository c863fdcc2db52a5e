// lockstep generate CHECKPOINT --prompt TEXT [--tokens N] [--temperature T] [--seed S]
// [--device auto|cpu|cuda]
#include "train/inference/generate.h"

#include <cstdio>
#include <limits>

#include <CLI/App.hpp>

#include "cli/commands.h"
#include "cli/option_checks.h"

namespace lockstep::cli {

void add_generate_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("generate", "write text with a trained model");
  auto options = std::make_shared<train::GenerateOptions>();
  auto path = std::make_shared<std::string>();
  command->add_option("checkpoint", *path, "a checkpoint, or a run's folder (its newest good one)")
      ->required();
  command->add_option("--prompt", options->prompt, "how the text begins")->required();
  command->add_option("--tokens", options->tokens, "how many to write")
      ->check(whole_number(0, 1 << 20))
      ->capture_default_str();
  command->add_option("--temperature", options->temperature, "0: always the likeliest")
      ->check(number_from_zero())
      ->capture_default_str();
  command->add_option("--seed", options->seed, "equal seeds give equal text")
      ->check(whole_number(0, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
  command
      ->add_option("--device", options->device,
                   "auto, cpu or cuda; default: where the model was trained")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  command->callback([options, path, &exit_code] {
    train::generate(*path, *options, [](const std::string& piece) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    });
    std::puts("");
    exit_code = 0;
  });
}

}  // namespace lockstep::cli
