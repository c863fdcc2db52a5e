// Makes a run from a model folder that another program wrote.
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

#include "checkpoint/exchange/tensor_source.h"
#include "checkpoint/files/readable_file.h"
#include "checkpoint/format/safetensors.h"
#include "train/exchange/exchange.h"
#include "train/exchange/layout.h"
#include "train/models/factory.h"
#include "train/parallel/groups.h"
#include "train/run/checkpoints.h"
#include "train/run/run_dir.h"
#include "train/run/trainer.h"

namespace lockstep::train {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = 16 << 20;
constexpr const char* kHead = "lm_head.weight";

std::string_view without(std::string_view prefix, std::string_view name) {
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

// The place in config.json that decides `ours`: its key, or the whole file if it has none.
std::string origin_of(std::string_view ours, const Layout& layout, const std::string& config_path) {
  for (const KeyPair& pair : layout.keys)
    if (pair.ours == ours) return str(config_path, ": '", pair.theirs, "'");
  return config_path;
}

// Presets that let the folder's config.json decide the model's keys.
std::vector<Preset> model_presets(const Described& theirs, const std::string& config_path) {
  Config with;
  with.model = theirs.model.model;
  std::vector<Preset> presets;
  std::istringstream lines(canonical_text(with));
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("model."))
      presets.push_back(
          {line, origin_of(line.substr(0, line.find('=')), theirs.layout, config_path)});
  return presets;
}

Config make_config(const ImportRequest& request, const Described& theirs,
                   const std::string& config_path) {
  for (const std::string& set : request.overrides)
    check(!set.starts_with("run.name=") && !set.starts_with("run.dir="), "--set ", set,
          ": the run's folder is '", request.run, "', which the import already sets");
  const fs::path run = fs::path(request.run).has_filename() ? fs::path(request.run)
                                                            : fs::path(request.run).parent_path();
  const std::string origin = str("the run's folder '", request.run, "'");
  std::vector<Preset> presets = model_presets(theirs, config_path);
  presets.push_back({"run.name=" + run.filename().string(), origin});
  presets.push_back(
      {"run.dir=" + (run.has_parent_path() ? run.parent_path().string() : "."), origin});
  if (!request.config.empty()) return load_config(request.config, request.overrides, presets);
  presets.push_back({"data.kind=random", "import"});
  return parse_config("", "import", request.overrides, presets);
}

// Reads a whole tensor in its stored dtype.
Tensor read_whole(const checkpoint::TensorSource& source, size_t tensor) {
  const checkpoint::StoredTensor stored = source[tensor];
  const Tensor whole = Tensor::empty(stored.shape, *checkpoint::dtype_of_safetensors(stored.dtype));
  if (stored.bytes > 0) source.read(tensor, 0, stored.bytes, whole.raw());
  return whole;
}

std::string type_text(const checkpoint::StoredTensor& stored) {
  return str(stored.dtype, stored.shape);
}

bool is_weight_type(std::string_view dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16";
}

class Import {
 public:
  Import(const checkpoint::TensorSource& source, const Layout& layout, const ModelConfig& model)
      : source_(source), layout_(layout), taken_(source.size()) {
    for (const NamePair& pair : layout.tensors(model)) by_ours_.emplace(pair.ours, pair);
  }

  // Checks all names and shapes before any value is read.
  void compare(const std::vector<Parameter>& parameters, ImportReport& report) {
    for (const Parameter& p : parameters) {
      const NamePair& pair = by_ours_.at(p.name());
      const std::optional<size_t> found = find(pair.theirs);
      if (!found) {
        report.missing.push_back(pair.theirs);
        continue;
      }
      const checkpoint::StoredTensor stored = source_[*found];
      Shape expected = p.data().shape();
      if (pair.transposed) expected = {expected[1], expected[0]};
      if (!(stored.shape == expected) || !is_weight_type(stored.dtype))
        report.misshapen.push_back(str(stored.name, ": expected F32, BF16 or F16 of ", expected,
                                       ", found ", type_text(stored)));
      numbers_[p.name()] = *found;
      taken_[*found] = true;
    }
    take_head(report);
    for (size_t i = 0; i < taken_.size(); ++i) {
      if (taken_[i]) continue;
      if (layout_.is_constant(std::string(without(layout_.prefix, source_.name(i)))))
        report.notes.push_back(str(source_.name(i), " holds constants and was left out"));
      else
        report.unexpected.push_back(str(source_.name(i), ": ", type_text(source_[i])));
    }
  }

  void read(const std::vector<Parameter>& parameters) {
    for (const Parameter& p : parameters) {
      const Tensor theirs = read_whole(source_, numbers_.at(p.name()));
      p.data().copy_(by_ours_.at(p.name()).transposed ? theirs.transpose(0, 1) : theirs);
    }
  }

 private:
  // Finds a tensor by its name with or without the prefix. If both exist, the second one stays
  // unused and is reported.
  std::optional<size_t> find(std::string_view theirs) const {
    const std::string_view bare = without(layout_.prefix, theirs);
    const std::optional<size_t> found = source_.find(str(layout_.prefix, bare));
    return found ? found : source_.find(bare);
  }

  // A tied head that is stored anyway must have the same values as the embedding.
  void take_head(ImportReport& report) {
    const std::optional<size_t> head = find(kHead);
    if (!head || taken_[*head] || !numbers_.count("wte.weight")) return;
    const size_t embedding = numbers_.at("wte.weight");
    const checkpoint::StoredTensor a = source_[embedding], b = source_[*head];
    if (a.dtype != b.dtype || !(a.shape == b.shape) || !is_weight_type(a.dtype)) return;
    const Tensor x = read_whole(source_, embedding), y = read_whole(source_, *head);
    if (std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.bytes())) != 0) return;
    report.notes.push_back(str(b.name, " equals the embedding, as it must where they are tied"));
    taken_[*head] = true;
  }

  const checkpoint::TensorSource& source_;
  const Layout& layout_;
  std::vector<bool> taken_;  // by index in the source
  std::map<std::string, NamePair> by_ours_;
  std::map<std::string, size_t> numbers_;  // maps our name to the index in the source
};

}  // namespace

ImportReport import_folder(const ImportRequest& request) {
  check(fs::is_directory(request.folder), "no such folder: ", request.folder);
  const std::string config_path = request.folder + "/config.json";
  check(fs::exists(config_path), "no config.json in ", request.folder,
        ": expected a model folder as Hugging Face's transformers writes it");
  // transformers would add such an adapter to the weights.
  check(!fs::exists(request.folder + "/adapter_config.json"), request.folder,
        " holds an adapter (adapter_config.json), which is not supported here: merge it "
        "first, or remove its files");
  const Described theirs = parse_config_json(
      checkpoint::read_text(*checkpoint::open_file(config_path), kMaxConfigBytes), config_path);
  const Config config = make_config(request, theirs, config_path);
  const RunDir run_dir(config);
  check(!run_dir.has_results(), "'", run_dir.path,
        "' holds a run: nothing is written over; name a folder that is not there yet");
  run_dir.check_free(false);

  const auto source = checkpoint::open_tensors(request.folder);
  // Build without memory: sizes that config.json claims cost nothing until the files confirm them.
  const auto wanted = build_model(config, InitialValues::deferred).module->parameters();
  ImportReport report;
  report.notes = theirs.model.notes;
  Import import(*source, theirs.layout, config.model);
  import.compare(wanted, report);
  if (!report.missing.empty() || !report.misshapen.empty() ||
      (!report.unexpected.empty() && !request.ignore_unexpected))
    return report;
  // The initial state of a run with this config, whole on one rank, including the optimizer's
  // state. The weights are then filled in.
  Config alone = config;
  alone.parallel = {};
  alone.parallel.strategy = StrategyKind::single;
  alone.checkpoint.async = false;
  Trainer trainer(alone, make_group(alone.parallel, launcher::RankEnv{}));
  import.read(trainer.model().module->parameters());
  report.imported = static_cast<int64_t>(wanted.size());
  const auto lock = run_dir.lock(false);
  run_dir.prepare(config);
  report.checkpoint = Checkpoints(trainer, run_dir.checkpoints()).save_last();
  return report;
}

}  // namespace lockstep::train
