// lockstep config show CONFIG [--set key=value]…, lockstep config keys
#include <cstdio>

#include <CLI/App.hpp>

#include "cli/commands.h"
#include "cli/rank_options.h"

namespace lockstep::cli {

void add_config_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("config", "look at configs");
  command->require_subcommand(1);
  auto options = std::make_shared<RankOptions>();
  CLI::App* show = command->add_subcommand("show", "the config with every default filled in");
  options->add_config_to(*show, true);
  show->callback([options, &exit_code] {
    std::fputs(train::to_yaml(options->load()).c_str(), stdout);
    exit_code = 0;
  });
  CLI::App* keys = command->add_subcommand("keys", "all keys with types, defaults and meaning");
  keys->callback([&exit_code] {
    std::fputs(train::key_table().c_str(), stdout);
    exit_code = 0;
  });
}

}  // namespace lockstep::cli
