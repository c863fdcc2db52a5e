// lockstep checkpoint ls|verify DIR
#include "checkpoint/checkpoint.h"

#include <cstdio>
#include <filesystem>

#include <CLI/App.hpp>

#include "cli/commands.h"
#include "core/base/error.h"

namespace lockstep::cli {
namespace {

// A run's folder, its folder of checkpoints, or one checkpoint: all mean a folder of checkpoints here.
std::vector<checkpoint::Listed> find(const std::string& path, checkpoint::Check how) {
  namespace fs = std::filesystem;
  check(fs::is_directory(path), "no such folder: ", path);
  if (fs::exists(path + "/manifest.json")) {
    const fs::path folder = fs::canonical(path);
    auto all = checkpoint::list(folder.parent_path().string(), how);
    std::erase_if(all, [&](const checkpoint::Listed& c) { return fs::path(c.folder).filename() != folder.filename(); });
    return all;
  }
  return checkpoint::list(fs::is_directory(path + "/checkpoints") ? path + "/checkpoints" : path, how);
}

int show(const std::string& path, checkpoint::Check how) {
  const auto all = find(path, how);
  if (all.empty()) std::printf("no checkpoints in %s\n", path.c_str());
  bool good = !all.empty();
  for (const checkpoint::Listed& c : all) {
    std::printf("%-40s step %8lld  %9.1f MB  %s\n", c.folder.c_str(), static_cast<long long>(c.step), static_cast<double>(c.bytes) / 1e6,
                c.problem.empty() ? (how == checkpoint::Check::everything ? "every byte verified" : "ok") : c.problem.c_str());
    good = good && c.problem.empty();
  }
  return good ? 0 : 1;
}

}  // namespace

void add_checkpoint_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("checkpoint", "look at saved checkpoints");
  command->require_subcommand(1);
  auto path = std::make_shared<std::string>();
  CLI::App* ls = command->add_subcommand("ls", "list the checkpoints of a run");
  CLI::App* verify = command->add_subcommand("verify", "read every byte and compare checksums; 1 if anything is wrong");
  for (CLI::App* sub : {ls, verify}) sub->add_option("dir", *path, "a run, its checkpoints folder, or one checkpoint")->required();
  ls->callback([path, &exit_code] { exit_code = show(*path, checkpoint::Check::manifest); });
  verify->callback([path, &exit_code] { exit_code = show(*path, checkpoint::Check::everything); });
}

}  // namespace lockstep::cli
