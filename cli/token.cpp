// lockstep token: makes the secret that the hosts of a job share.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include <CLI/App.hpp>

#include "cli/commands.h"
#include "launcher/trust/job_token.h"

namespace lockstep::cli {

void add_token_command(CLI::App& app) {
  CLI::App* token = app.add_subcommand(
      "token", "make the secret of a job on several hosts (LOCKSTEP_JOB_TOKEN_FILE)");
  auto path = std::make_shared<std::string>();
  token->add_option("FILE", *path, "The new file, which only its owner may read")->required();
  token->callback([path] {
    launcher::JobToken::random().write_new(*path);
    std::printf(
        "wrote a token to %s: copy it to every host of the job, and there set\n"
        "  export LOCKSTEP_JOB_TOKEN_FILE=%s\n",
        path->c_str(), std::filesystem::absolute(*path).c_str());
  });
}

}  // namespace lockstep::cli
