// lockstep checkpoint ls|verify DIR, diff A B, export CHECKPOINT FOLDER, import FOLDER RUN
#include "checkpoint/checkpoint.h"

#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>

#include <CLI/App.hpp>

#include "checkpoint/exchange/diff.h"
#include "checkpoint/format/strict_json.h"
#include "cli/commands.h"
#include "cli/option_checks.h"
#include "core/base/error.h"
#include "core/base/number_text.h"
#include "train/exchange/exchange.h"

namespace lockstep::cli {
namespace {

// `path`: a run's folder, its folder of checkpoints, or one checkpoint, which may have been
// renamed.
std::vector<checkpoint::Listed> find(std::string path, checkpoint::Check how) {
  namespace fs = std::filesystem;
  check(fs::is_directory(path), "no such folder: ", path);
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const fs::path name = fs::path(path).filename();
  if (name == "." || name == "..")
    path = fs::canonical(path).string();  // the step in a folder's name is compared too
  if (checkpoint::is_checkpoint(path)) return {checkpoint::look_at(path, how)};
  return checkpoint::list(fs::is_directory(path + "/checkpoints") ? path + "/checkpoints" : path,
                          how);
}

// The size of a checkpoint whose manifest is not reliable.
int64_t size_on_disk(const std::string& folder) {
  namespace fs = std::filesystem;
  int64_t bytes = 0;
  std::error_code error;
  for (fs::directory_iterator it(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    std::error_code gone;
    const auto size = it->file_size(gone);
    if (!gone) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

void show_unknown(const std::vector<std::string>& names) {
  constexpr size_t kShown = 5;
  std::string text;
  for (size_t i = 0; i < names.size() && i < kShown; ++i)
    text += str(i > 0 ? ", " : "", checkpoint::shown(names[i]));
  if (names.size() > kShown) text += str(" and ", names.size() - kShown, " more");
  if (!names.empty())
    std::printf("  note: not verified, as its manifest does not name it: %s\n", text.c_str());
}

int show(const std::string& path, checkpoint::Check how) {
  const auto all = find(path, how);
  if (all.empty())
    std::printf("no checkpoints in %s%s\n", path.c_str(),
                std::filesystem::is_directory(path + "/checkpoints")
                    ? " yet"
                    : ": expected a run's folder, its checkpoints folder, or one checkpoint");
  bool good = !all.empty();
  for (const checkpoint::Listed& c : all) {
    std::printf(
        "%-40s step %8lld  %9s  %s\n", c.folder.c_str(), static_cast<long long>(c.step),
        size_text(static_cast<double>(c.bytes > 0 ? c.bytes : size_on_disk(c.folder))).c_str(),
        c.problem.empty() ? (how == checkpoint::Check::everything ? "every byte verified" : "ok")
                          : c.problem.c_str());
    show_unknown(c.unknown);
    good = good && c.problem.empty();
  }
  return good ? 0 : 1;
}

struct DiffOptions {
  std::string a, b;
  std::vector<std::string> skip;
  size_t show = 20;
};

int show_diff(const DiffOptions& options) {
  const auto a = checkpoint::open_tensors(options.a), b = checkpoint::open_tensors(options.b);
  std::printf("first   %s\nsecond  %s\n", a->path().c_str(), b->path().c_str());
  size_t shown = 0;
  const checkpoint::Compared result =
      checkpoint::diff(*a, *b, options.skip, [&](const checkpoint::TensorDifference& difference) {
        if (shown == options.show) return;
        ++shown;
        std::printf("%s\n", checkpoint::to_text(difference).c_str());
      });
  check(result.tensors > 0 || result.different > 0, "nothing was compared: ",
        options.skip.empty() ? "neither holds a tensor" : "--skip leaves out every tensor");
  const auto different = static_cast<long long>(result.different);
  if (different > static_cast<long long>(shown))
    std::printf("and %lld more (--show %lld)\n", different - static_cast<long long>(shown),
                different);
  const std::string compared = str(count_text(static_cast<long long>(result.tensors), "tensor"),
                                   " in both, ", result.bytes, " bytes compared");
  if (different == 0)
    std::printf("equal: %s\n", compared.c_str());
  else
    std::printf("different: %s; %s\n", count_text(different, "tensor").c_str(), compared.c_str());
  return different == 0 ? 0 : 1;
}

void add_diff(CLI::App& command, int& exit_code) {
  CLI::App* diff = command.add_subcommand(
      "diff", "name the tensors, and the first element, in which two differ; 0 equal, 1 different");
  auto options = std::make_shared<DiffOptions>();
  const std::string what =
      "a checkpoint, a run (its newest good one), or a safetensors file or folder";
  diff->add_option("first", options->a, what)->required();
  diff->add_option("second", options->b, what)->required();
  diff->add_option("--skip", options->skip,
                   "leave out tensors whose names start so, such as optim. (repeatable)")
      ->option_text("PREFIX")
      ->allow_extra_args(false);
  diff->add_option("--show", options->show, "how many differing tensors to print")
      ->check(whole_number(0, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
  diff->callback([options, &exit_code] { exit_code = show_diff(*options); });
}

int64_t bytes_of(const std::string& text) {
  const auto bytes = parse_size(text);
  check(bytes.has_value(), "--max-shard-size '", text,
        "': expected a whole number above 0 of B, KB, MB, GB, KiB, MiB or GiB, such as 1500MB");
  return *bytes;
}

void add_export(CLI::App& command, int& exit_code) {
  CLI::App* sub =
      command.add_subcommand("export", "write a model to a folder that other programs read");
  auto request = std::make_shared<train::ExportRequest>();
  auto size = std::make_shared<std::string>();
  sub->add_option("checkpoint", request->checkpoint,
                  "a checkpoint, or a run's folder (its newest good one)")
      ->required();
  sub->add_option("folder", request->dir, "the new folder; must not exist yet")->required();
  sub->add_option(
         "--format", request->format,
         "as transformers reads it (default: what fits the model), or safetensors: our own names")
      ->check(CLI::IsMember({"hf-gpt2", "hf-llama", "safetensors"}));
  sub->add_option("--max-shard-size", *size,
                  "of a file, such as 5GB or 64MiB; default: one file for all");
  sub->callback([request, size, &exit_code] {
    if (!size->empty()) request->max_shard_bytes = bytes_of(*size);
    const train::Exported exported = train::export_checkpoint(*request);
    std::printf("checkpoint %s\nfolder     %s\nwritten    %s, %s, %s\n",
                exported.checkpoint.c_str(), request->dir.c_str(),
                count_text(exported.tensors, "tensor").c_str(),
                size_text(static_cast<double>(exported.bytes)).c_str(),
                count_text(static_cast<long long>(exported.files.size()), "file").c_str());
    exit_code = 0;
  });
}

int import(const train::ImportRequest& request) {
  const train::ImportReport report = train::import_folder(request);
  for (const std::string& line : report.missing) std::printf("missing     %s\n", line.c_str());
  for (const std::string& line : report.misshapen) std::printf("misshapen   %s\n", line.c_str());
  for (const std::string& line : report.unexpected) std::printf("unexpected  %s\n", line.c_str());
  for (const std::string& line : report.notes) std::printf("note        %s\n", line.c_str());
  if (report.checkpoint.empty()) {
    std::printf("nothing was imported: %zu missing, %zu misshapen, %zu unexpected\n",
                report.missing.size(), report.misshapen.size(), report.unexpected.size());
    return kFailed;
  }
  std::printf("imported    %s\ncheckpoint  %s\n", count_text(report.imported, "tensor").c_str(),
              report.checkpoint.c_str());
  return kDone;
}

void add_import(CLI::App& command, int& exit_code) {
  CLI::App* sub = command.add_subcommand("import",
                                         "make a run from a GPT-2 or Llama folder that "
                                         "transformers wrote; 1 if a tensor does not fit");
  auto request = std::make_shared<train::ImportRequest>();
  sub->add_option("folder", request->folder,
                  "with config.json and model.safetensors, or several files and their index")
      ->required();
  sub->add_option("run", request->run, "the new run's folder")->required();
  sub->add_option("--config", request->config,
                  "a config whose data, training and other sections the run takes over");
  sub->add_option("--set", request->overrides,
                  "set a key of the run's config: data.path=FILE (repeatable)")
      ->option_text("KEY=VALUE")
      ->allow_extra_args(false);
  sub->add_flag("--ignore-unexpected", request->ignore_unexpected,
                "leave out tensors that the model has no place for");
  sub->callback([request, &exit_code] { exit_code = import(*request); });
}

}  // namespace

void add_checkpoint_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "checkpoint", "look at checkpoints, compare them, and exchange models with other programs");
  command->require_subcommand(1);
  auto path = std::make_shared<std::string>();
  CLI::App* ls = command->add_subcommand("ls",
                                         "list the checkpoints of a run: ok if the manifest and "
                                         "the sizes of the files are right; 1 if one is not");
  CLI::App* verify = command->add_subcommand(
      "verify", "read every byte and compare checksums; 1 if anything is wrong");
  for (CLI::App* sub : {ls, verify})
    sub->add_option("dir", *path, "a run, its checkpoints folder, or one checkpoint")->required();
  ls->callback([path, &exit_code] { exit_code = show(*path, checkpoint::Check::manifest); });
  verify->callback([path, &exit_code] { exit_code = show(*path, checkpoint::Check::everything); });
  add_diff(*command, exit_code);
  add_export(*command, exit_code);
  add_import(*command, exit_code);
}

}  // namespace lockstep::cli
