#include "checkpoint/exchange/tensor_source.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/exchange/safetensors_index.h"
#include "checkpoint/files/readable_file.h"
#include "checkpoint/format/safetensors.h"
#include "checkpoint/format/strict_json.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr const char* kModelName = "model.safetensors";

class CheckpointSource final : public TensorSource {
 public:
  explicit CheckpointSource(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {
    for (const auto& item : checkpoint_.manifest().entries) entries_.push_back(&item);
  }
  size_t size() const override { return entries_.size(); }
  std::string_view name(size_t tensor) const override { return entries_[tensor]->first; }
  StoredTensor operator[](size_t tensor) const override {
    const auto& [name, entry] = *entries_[tensor];
    return {name, safetensors_dtype(entry.dtype), entry.shape,
            entry.shape.numel() * size_of(entry.dtype)};
  }
  const std::string& path() const override { return checkpoint_.folder(); }
  void read(size_t tensor, int64_t offset, int64_t bytes, void* to) const override {
    if (bytes == 0) return;
    const auto& [name, stored] = *entries_[tensor];
    const int64_t element = size_of(stored.dtype), count = bytes / element;
    const auto storage = std::make_shared<Storage>(to, static_cast<size_t>(bytes), kCpu, [] {});
    const Entry entry(name, Tensor::wrap(storage, {count}, stored.dtype),
                      {stored.shape, offset / element, count});
    checkpoint_.read({&entry, 1});
  }

 private:
  Checkpoint checkpoint_;
  std::vector<const decltype(Manifest::entries)::value_type*> entries_;
};

class SafetensorsSource final : public TensorSource {
 public:
  SafetensorsSource(std::string path, const std::vector<std::string>& files)
      : path_(std::move(path)) {
    for (const std::string& file : files) add(file);
    std::sort(places_.begin(), places_.end(), [&](const Place& a, const Place& b) {
      const std::string_view x = name_of(a), y = name_of(b);
      return x != y ? x < y : a.file < b.file;
    });
    const auto twice = std::adjacent_find(
        places_.begin(), places_.end(),
        [&](const Place& a, const Place& b) { return name_of(a) == name_of(b); });
    if (twice != places_.end())
      throw EnvironmentError(str("tensor ", shown(name_of(*twice)), " is in '",
                                 files[twice[0].file], "' and in '", files[twice[1].file], "'"));
  }

  size_t size() const override { return places_.size(); }
  std::string_view name(size_t tensor) const override { return name_of(places_[tensor]); }
  StoredTensor operator[](size_t tensor) const override {
    const SafetensorsInfo info = info_of(places_[tensor]);
    return {info.name, info.dtype, info.shape, info.bytes};
  }
  const std::string& path() const override { return path_; }
  void read(size_t tensor, int64_t offset, int64_t bytes, void* to) const override {
    const Place& place = places_[tensor];
    files_[place.file].file->read(info_of(place).begin + offset, to, bytes);
  }
  // Returns which of the files holds the tensor.
  uint32_t file(size_t tensor) const { return places_[tensor].file; }

 private:
  struct File {
    std::unique_ptr<const ReadableFile> file;
    SafetensorsTensors tensors;
  };
  struct Place {
    uint32_t file, tensor;
  };

  void add(const std::string& path) {
    auto file = open_file(path);
    SafetensorsTensors tensors = read_safetensors_header(*file).tensors;
    places_.reserve(places_.size() + tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i)
      places_.push_back({static_cast<uint32_t>(files_.size()), static_cast<uint32_t>(i)});
    files_.push_back({std::move(file), std::move(tensors)});
  }
  std::string_view name_of(const Place& place) const {
    return files_[place.file].tensors.name(place.tensor);
  }
  SafetensorsInfo info_of(const Place& place) const {
    return files_[place.file].tensors[place.tensor];
  }

  std::string path_;
  std::vector<File> files_;
  std::vector<Place> places_;  // sorted by name
};

// Checks that each tensor is in the file that the index names, and that no other tensor is there.
std::unique_ptr<TensorSource> open_indexed(const std::string& folder) {
  const std::string path = folder + "/" + SafetensorsIndex::kFileName;
  const SafetensorsIndex index = SafetensorsIndex::read(path);
  std::vector<std::string> files;
  for (const std::string& file : index.files()) files.push_back(folder + "/" + file);
  auto source = std::make_unique<SafetensorsSource>(folder, files);
  for (size_t i = 0; i < index.size() || i < source->size(); ++i) {
    const int order = i == index.size()     ? 1
                      : i == source->size() ? -1
                                            : index.name(i).compare(source->name(i));
    if (order < 0 || (order == 0 && index.file(i) != source->file(i)))
      throw EnvironmentError(str(path, ": says that ", shown(index.name(i)), " is in ",
                                 shown(index.files()[index.file(i)]), ", where it is not"));
    if (order > 0)
      throw EnvironmentError(str(path, ": does not list ", shown(source->name(i)), ", which is in ",
                                 shown(index.files()[source->file(i)])));
  }
  return source;
}

std::vector<std::string> safetensors_files(const std::string& folder) {
  std::vector<std::string> files;
  for (const std::string& name : posix_file_system().list(folder))
    if (name.size() > 12 && name[0] != '.' && name.ends_with(".safetensors"))
      files.push_back(folder + "/" + name);
  return files;
}

std::unique_ptr<TensorSource> open_newest(const std::string& dir) {
  LatestGood latest = latest_good(dir);
  for (const std::string& reason : latest.skipped)
    log::warn("skipped a damaged checkpoint: ", reason);
  if (latest.checkpoint) return std::make_unique<CheckpointSource>(std::move(*latest.checkpoint));
  if (!latest.skipped.empty())
    throw EnvironmentError(str("none of the checkpoints in ", dir, " can be used"));
  return nullptr;
}

}  // namespace

std::optional<size_t> TensorSource::find(std::string_view wanted) const {
  size_t begin = 0, end = size();
  while (begin < end) {
    const size_t middle = begin + (end - begin) / 2;
    if (name(middle) < wanted)
      begin = middle + 1;
    else
      end = middle;
  }
  return begin < size() && name(begin) == wanted ? std::optional(begin) : std::nullopt;
}

std::unique_ptr<TensorSource> open_tensors(const std::string& path) {
  if (fs::is_regular_file(path))
    return std::make_unique<SafetensorsSource>(path, std::vector{path});
  check(fs::is_directory(path), "no such file or folder: ", path);
  if (is_checkpoint(path)) return std::make_unique<CheckpointSource>(Checkpoint::open(path));
  // transformers searches in the same order: a single file before an index.
  if (const std::string file = path + "/" + kModelName; fs::exists(file))
    return std::make_unique<SafetensorsSource>(path, std::vector{file});
  if (fs::exists(path + "/" + SafetensorsIndex::kFileName)) return open_indexed(path);
  if (const std::vector<std::string> files = safetensors_files(path); !files.empty())
    return std::make_unique<SafetensorsSource>(path, files);
  for (const std::string& dir : {path + "/checkpoints", path})
    if (auto source = open_newest(dir)) return source;
  throw UsageError(str("found neither a checkpoint nor a safetensors file in ", path));
}

}  // namespace lockstep::checkpoint
