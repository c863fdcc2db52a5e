// The `lockstep` program: finds the subcommand, runs it, and turns errors into messages and an exit
// code.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/option_checks.h"
#include "cli/process/screen.h"
#include "cli/process/startup.h"
#include "cli/rank_options.h"
#include "cli/run.h"
#include "cli/version.h"
#include "comm/peer_failure.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "launcher/rank/rank_env.h"

namespace {

int report(const std::exception& error, int code) {
  lockstep::log::error(error.what());
  // Under an agent the reason also goes into its report, because the process that fails first is
  // not always to blame.
  lockstep::launcher::report_failure(error.what(), lockstep::comm::caused_by_peer(error));
  return code;
}

// The output of a command is its result. A program that reads it must not take a part for the
// whole.
int checked_output(int code) {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  int reason = errno;
  // If an earlier part could not be written, its errno is lost. Writing another byte fails for the
  // same reason.
  if (reason == 0 && ::write(STDOUT_FILENO, "\n", 1) < 0) reason = errno;
  return report(lockstep::EnvironmentError("cannot write to standard output" +
                                           (reason ? ": " + lockstep::errno_text(reason) : "")),
                code != 0 ? code : lockstep::kFailed);
}

// Names an unknown command. CLI11 would only say that a subcommand is required.
void check_command(const CLI::App& app, char** words) {
  const auto commands = app.get_subcommands({});
  if (commands.empty() || !*words || **words == '-') return;
  std::string known;
  for (const CLI::App* command : commands) {
    if (command->get_name() == *words) return check_command(*command, words + 1);
    known += lockstep::str(known.empty() ? "" : ", ", command->get_name());
  }
  lockstep::check(false, "unknown command '", *words, "': expected one of ", known);
}

// `is_run`: whether the command must not wait for the reader of its output.
int run_command(int argc, char** argv, bool is_run) {
  using namespace lockstep;
  cli::remember_command_line(argc, argv);
  CLI::App app{"lockstep: train on any number of ranks, with the same bits"};
  app.name(argv[0]);
  app.require_subcommand(1);
  // Computed only on request: it names the kernels, which may refuse LOCKSTEP_ISA.
  app.set_version_flag("--version", cli::version_text);
  int exit_code = 0;
  cli::add_train_command(app, exit_code);
  cli::add_run_command(app, exit_code);
  cli::add_generate_command(app, exit_code);
  cli::add_eval_command(app, exit_code);
  cli::add_checkpoint_command(app, exit_code);
  cli::add_bench_command(app, exit_code);
  cli::add_plan_command(app, exit_code);
  cli::add_doctor_command(app, exit_code);
  cli::add_token_command(app);
  cli::add_config_command(app, exit_code);
  cli::refuse_empty_values(app);
  const auto fail = [&](const std::exception& error, int code) {
    if (is_run) cli::open_screen();
    return report(error, code);
  };
  try {
    log::set_level_from_environment();
    check_command(app, argv + 1);
    std::vector<std::string> words(argv + 1, argv + argc);
    if (argc > 1 && words.front() == "run")
      cli::complete_options(*app.get_subcommand("run"), words, 1);
    std::reverse(words.begin(), words.end());  // as CLI11 takes them
    app.parse(std::move(words));
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return checked_output(app.exit(e));  // --help, --version
    return fail(UsageError(str(e.what(), " (see --help)")), kWrongUse);
  } catch (const UsageError& e) {
    return fail(e, kWrongUse);
  } catch (const std::bad_alloc&) {
    return fail(
        EnvironmentError(
            "out of memory: use a smaller model or micro_batch, or fewer ranks on this host"),
        kFailed);
  } catch (const std::exception& e) {
    return fail(e, kFailed);
  }
  // Training does not check its output: its results are in the run's folder, and ranks do not
  // depend on the agent's screen.
  return is_run ? exit_code : checked_output(exit_code);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace lockstep;
  const std::string_view command = argc > 1 ? argv[1] : "";
  const bool is_run = command == "train" || command == "run";
  cli::prepare_process(command);
  const int code = run_command(argc, argv, is_run);
  cli::close_screen(code);
  return code;
}
