// The subcommands of the `lockstep` program, one file each. Each add_… registers options and a
// callback that sets `exit_code`. Errors are exceptions; main() prints them.
#pragma once

#include <CLI/App.hpp>

#include "core/base/error.h"

namespace lockstep::cli {

void add_train_command(CLI::App& app, int& exit_code);
void add_run_command(CLI::App& app, int& exit_code);
void add_generate_command(CLI::App& app, int& exit_code);
void add_eval_command(CLI::App& app, int& exit_code);
void add_checkpoint_command(CLI::App& app, int& exit_code);
void add_bench_command(CLI::App& app, int& exit_code);
// Adds it as a subcommand of bench.
void add_bench_checkpoint(CLI::App& bench, int& exit_code);
void add_plan_command(CLI::App& app, int& exit_code);
void add_doctor_command(CLI::App& app, int& exit_code);
void add_token_command(CLI::App& app);
void add_config_command(CLI::App& app, int& exit_code);

}  // namespace lockstep::cli
