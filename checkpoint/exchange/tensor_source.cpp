#include "checkpoint/exchange/tensor_source.h"

#include <filesystem>
#include <set>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/readable_file.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/strict_json.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kModelName = "model.safetensors";
constexpr int64_t kMaxIndexBytes = 256 << 20;

class CheckpointSource final : public TensorSource {
 public:
  explicit CheckpointSource(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {
    for (const auto& [name, entry] : checkpoint_.manifest().entries)
      tensors_.emplace(name,
                       StoredTensor{std::string(safetensors_dtype(entry.dtype)), entry.shape, entry.shape.numel() * size_of(entry.dtype)});
  }
  const std::map<std::string, StoredTensor>& tensors() const override { return tensors_; }
  const std::string& path() const override { return checkpoint_.folder(); }
  void read(const std::string& name, int64_t offset, int64_t bytes, void* to) const override {
    if (bytes == 0) return;
    const StoredTensor& stored = tensors_.at(name);
    const DType dtype = *dtype_of_safetensors(stored.dtype);
    const int64_t element = size_of(dtype), count = bytes / element;
    const auto storage = std::make_shared<Storage>(to, static_cast<size_t>(bytes), kCpu, [] {});
    const Entry entry(name, Tensor::wrap(storage, {count}, dtype), {stored.shape, offset / element, count});
    checkpoint_.read({&entry, 1});
  }

 private:
  Checkpoint checkpoint_;
  std::map<std::string, StoredTensor> tensors_;
};

class SafetensorsSource final : public TensorSource {
 public:
  explicit SafetensorsSource(std::string path) : path_(std::move(path)) {}

  // Every tensor of a file. Returns their names.
  std::set<std::string> add(const std::string& file) {
    std::set<std::string> names;
    const auto shared = std::shared_ptr<const ReadableFile>(open_file(file));
    const SafetensorsHeader header = read_safetensors_header(*shared);
    for (const SafetensorsInfo info : header.tensors) {
      const std::string name(info.name);
      const auto [place, added] = places_.try_emplace(name, Place{shared, info.begin});
      if (!added) throw EnvironmentError(str("tensor ", shown(name), " is in '", place->second.file->path(), "' and in '", file, "'"));
      tensors_.emplace(name, StoredTensor{std::string(info.dtype), info.shape, info.bytes});
      names.insert(name);
    }
    return names;
  }

  const std::map<std::string, StoredTensor>& tensors() const override { return tensors_; }
  const std::string& path() const override { return path_; }
  void read(const std::string& name, int64_t offset, int64_t bytes, void* to) const override {
    const Place& place = places_.at(name);
    place.file->read(place.begin + offset, to, bytes);
  }

 private:
  struct Place {
    std::shared_ptr<const ReadableFile> file;
    int64_t begin;
  };
  std::string path_;
  std::map<std::string, StoredTensor> tensors_;
  std::map<std::string, Place> places_;
};

// File → names, from the index. A file is a plain name: an index must not reach outside of its folder.
std::map<std::string, std::set<std::string>> read_index(const std::string& path) {
  const nlohmann::json json = parse_strict_json(read_text(*open_file(path), kMaxIndexBytes), path);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    throw EnvironmentError(str(path, ": expected an object with an object 'weight_map'"));
  std::map<std::string, std::set<std::string>> files;
  for (const auto& item : json["weight_map"].items()) {
    const std::string file = item.value().is_string() ? item.value().get<std::string>() : std::string();
    if (file.empty() || file[0] == '.' || file.find('/') != std::string::npos || file.find('\0') != std::string::npos)
      throw EnvironmentError(str(path, ": '", item.key(), "': expected the name of a file in the same folder, got ", item.value().dump()));
    files[file].insert(item.key());
  }
  return files;
}

std::unique_ptr<TensorSource> open_indexed(const std::string& folder) {
  auto source = std::make_unique<SafetensorsSource>(folder);
  const std::string index = folder + "/" + kIndexName;
  for (const auto& [file, listed] : read_index(index)) {
    const std::set<std::string> found = source->add(folder + "/" + file);
    for (const std::string& name : listed)
      if (!found.count(name)) throw EnvironmentError(str(index, ": says that '", name, "' is in '", file, "', where it is not"));
    for (const std::string& name : found)
      if (!listed.count(name)) throw EnvironmentError(str(index, ": does not list '", name, "', which is in '", file, "'"));
  }
  return source;
}

std::vector<std::string> safetensors_files(const std::string& folder) {
  std::vector<std::string> files;
  for (const std::string& name : posix_file_system().list(folder))
    if (name.size() > 12 && name[0] != '.' && name.ends_with(".safetensors")) files.push_back(folder + "/" + name);
  return files;
}

std::unique_ptr<TensorSource> open_newest(const std::string& dir) {
  LatestGood latest = latest_good(dir);
  for (const std::string& reason : latest.skipped) log::warn("skipped a damaged checkpoint: ", reason);
  return latest.checkpoint ? std::make_unique<CheckpointSource>(std::move(*latest.checkpoint)) : nullptr;
}

}  // namespace

std::unique_ptr<TensorSource> open_tensors(const std::string& path) {
  if (fs::is_regular_file(path)) {
    auto source = std::make_unique<SafetensorsSource>(path);
    source->add(path);
    return source;
  }
  check(fs::is_directory(path), "no such file or folder: ", path);
  if (fs::exists(path + "/" + Manifest::kFileName)) return std::make_unique<CheckpointSource>(Checkpoint::open(path));
  if (fs::exists(path + "/" + kIndexName)) return open_indexed(path);
  std::vector<std::string> files = safetensors_files(path);
  if (fs::exists(path + "/" + kModelName)) files = {path + "/" + kModelName};
  if (!files.empty()) {
    auto source = std::make_unique<SafetensorsSource>(path);
    for (const std::string& file : files) source->add(file);
    return source;
  }
  for (const std::string& dir : {path + "/checkpoints", path})
    if (auto source = open_newest(dir)) return source;
  throw UsageError(str("no checkpoint and no safetensors file in ", path));
}

}  // namespace lockstep::checkpoint
