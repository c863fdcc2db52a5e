// The `lockstep` program: finds the subcommand, runs it, and turns errors into words and an exit code.
#include <cstdio>
#include <exception>

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/rank_options.h"
#include "cli/version.h"
#include "comm/peer_failure.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "launcher/rank_env.h"

namespace {

constexpr int kFailed = 1;
constexpr int kWrongUse = 2;

int report(const std::exception& error, int code) {
  lockstep::log::error(error.what());
  // Under an agent the reason goes into its report too: the process that fails first is not always the one that is to blame.
  lockstep::launcher::report_failure(error.what(), lockstep::comm::caused_by_peer(error));
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace lockstep;
  cli::remember_command_line(argc, argv);
  CLI::App app{"lockstep: train on any number of ranks, with the same bits"};
  app.require_subcommand(1);
  app.set_version_flag("--version", cli::version_text());
  int exit_code = 0;
  cli::add_train_command(app, exit_code);
  cli::add_run_command(app, exit_code);
  cli::add_generate_command(app, exit_code);
  cli::add_checkpoint_command(app, exit_code);
  cli::add_bench_command(app, exit_code);
  cli::add_plan_command(app, exit_code);
  cli::add_doctor_command(app, exit_code);
  cli::add_config_command(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kWrongUse;
  } catch (const UsageError& e) {
    return report(e, kWrongUse);
  } catch (const std::exception& e) {
    return report(e, kFailed);
  }
  return exit_code;
}
