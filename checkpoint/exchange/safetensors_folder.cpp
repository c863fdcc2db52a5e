#include "checkpoint/exchange/safetensors_folder.h"

#include <cstdio>
#include <filesystem>
#include <random>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "checkpoint/files/file_system.h"
#include "checkpoint/format/safetensors.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::checkpoint {
namespace {

namespace fs = std::filesystem;

using File = std::vector<const WantedTensor*>;

int64_t bytes_of(const WantedTensor& tensor) {
  return tensor.shape.numel() * size_of(tensor.dtype);
}

std::vector<File> split(const FolderRequest& request) {
  std::vector<File> files(1);
  int64_t bytes = 0;
  for (const WantedTensor& tensor : request.tensors) {
    if (request.max_shard_bytes > 0 && !files.back().empty() &&
        bytes + bytes_of(tensor) > request.max_shard_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    files.back().push_back(&tensor);
    bytes += bytes_of(tensor);
  }
  return files;
}

std::string file_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

void write_file(const std::string& path, const File& tensors) {
  SafetensorsHeader header;
  header.metadata = {{"format", "pt"}};  // transformers requires it
  std::unordered_map<std::string_view, const WantedTensor*> by_name;
  for (const WantedTensor* tensor : tensors) {
    header.tensors.push_back({tensor->name, safetensors_dtype(tensor->dtype), tensor->shape, 0, 0});
    check(by_name.emplace(tensor->name, tensor).second, "[safetensors] two tensors have the name '",
          tensor->name, "'");
  }
  const std::string start = make_safetensors_header(header);
  const auto file = posix_file_system().create(path);
  file->write(start.data(), start.size());
  for (const SafetensorsInfo info : header.tensors) {
    const Tensor values = by_name.at(info.name)->values();
    check(values.bytes() == info.bytes && values.is_contiguous() && values.device() == kCpu,
          "[safetensors] '", info.name, "': expected ", info.dtype, info.shape,
          ", contiguous and on the host, got ", values);
    file->write(values.raw(), static_cast<size_t>(info.bytes));
  }
  file->sync();
}

void write_text(const std::string& path, const std::string& text) {
  const auto file = posix_file_system().create(path);
  file->write(text.data(), text.size());
  file->sync();
}

std::string index_text(const std::vector<File>& files, int64_t bytes) {
  nlohmann::json map = nlohmann::json::object();
  for (size_t i = 0; i < files.size(); ++i)
    for (const WantedTensor* tensor : files[i]) map[tensor->name] = file_name(i, files.size());
  return nlohmann::json{{"metadata", {{"total_size", bytes}}}, {"weight_map", map}}.dump(2) + "\n";
}

WrittenFolder write_all(const std::string& folder, const FolderRequest& request) {
  WrittenFolder written;
  const std::vector<File> files = split(request);
  for (size_t i = 0; i < files.size(); ++i) {
    written.files.push_back(file_name(i, files.size()));
    write_file(folder + "/" + written.files.back(), files[i]);
    for (const WantedTensor* tensor : files[i]) written.bytes += bytes_of(*tensor);
  }
  if (files.size() > 1)
    write_text(folder + "/model.safetensors.index.json", index_text(files, written.bytes));
  for (const auto& [name, text] : request.texts) write_text(folder + "/" + name, text);
  posix_file_system().sync_directory(folder);
  return written;
}

}  // namespace

WrittenFolder write_safetensors_folder(const FolderRequest& request) {
  FileSystem& files = posix_file_system();
  const std::string dir = fs::path(request.dir).has_filename()
                              ? request.dir
                              : fs::path(request.dir).parent_path().string();
  check(!fs::exists(fs::symlink_status(dir)), "'", dir,
        "' exists: nothing is written over; name a folder that does not exist yet");
  const fs::path parent =
      fs::path(dir).has_parent_path() ? fs::path(dir).parent_path() : fs::path(".");
  files.make_directories(parent.string());
  std::random_device random;
  // Not derived from the folder's own name, which might become too long.
  const std::string aside = str(parent.string(), "/.tmp-", std::hex, random(), "-", random());
  files.make_directory(aside);
  try {
    WrittenFolder written = write_all(aside, request);
    rename_to_new(aside, dir);
    files.sync_directory(parent.string());
    return written;
  } catch (...) {
    try {
      files.remove_all(aside);
    } catch (const std::exception& e) {
      log::warn("a half-written folder is left: ", e.what());
    }
    throw;
  }
}

}  // namespace lockstep::checkpoint
