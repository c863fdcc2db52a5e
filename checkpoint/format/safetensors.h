// The safetensors format (the container of shard files, and of models that other programs write):
// u64 N, little-endian; N bytes of JSON; the tensors' bytes, row-major and little-endian, back to
// back.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/files/file_system.h"
#include "checkpoint/format/safetensors_entries.h"
#include "core/base/dtype.h"
#include "core/tensor/tensor.h"

namespace lockstep::checkpoint {

struct SafetensorsHeader {
  SafetensorsMetadata metadata;
  SafetensorsTensors tensors;  // in the order of their bytes
};

// "F32" for DType::f32; nothing for words that lockstep has no type for ("F64", "I8").
std::string_view safetensors_dtype(DType dtype);
std::optional<DType> dtype_of_safetensors(std::string_view word);

// The longest header that the format allows.
constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// Reads the header of a file and checks all that the format demands, before anything of the size
// that it claims is allocated: header within the file and at most 100 MB, one object of UTF-8 that
// starts at byte 8, no doubled keys, known dtypes, shapes without overflow whose bytes fit their
// offsets, metadata of strings, tensors without holes or overlaps up to exactly the end of the
// file. Padding is not demanded: files whose data is not aligned are read. Tensors without bytes
// may share an offset, as those of other programs' files do. Memory: at most twice the header's
// length and 256 KiB, the result included, whether the file is good or not. Throws EnvironmentError
// naming file, tensor, and what was expected and found.
SafetensorsHeader read_safetensors_header(const std::string& path);
SafetensorsHeader read_safetensors_header(const ReadableFile& file);

// The same of `file_bytes` bytes that `read` gives parts of; `path` is for messages.
SafetensorsHeader read_safetensors_header(const std::string& path, int64_t file_bytes,
                                          const ReadAt& read);

// What a file will start with: 8 + N bytes. Orders `tensors` (by alignment, then name) and sets
// where they begin; wants name, dtype and shape. Throws UsageError for a name that is there twice
// or is no UTF-8, and for a header longer than readers accept.
std::string make_safetensors_header(SafetensorsHeader& header);

struct WrittenFile {
  int64_t bytes = 0;
  std::string sha256;
  uint64_t header_xxh3 = 0;
  std::vector<std::vector<uint64_t>> xxh3;  // of each tensor's chunks (checkpoint/format/chunks.h)
};
struct FileToWrite {
  std::string path = {};
  std::string header = {};  // what it starts with
  // Contiguous, on the host, in the order that make_safetensors_header() gave.
  std::vector<Tensor> tensors = {};
};
// Writes and syncs one file or two, some MiB of each in turn; a second thread, to which the core
// belongs while nothing else wants it, hashes meanwhile, both files at once, and this one does the
// rest. Returns early, with nothing of use, once `stop` is true.
std::vector<WrittenFile> write_safetensors(FileSystem& files,
                                           const std::vector<FileToWrite>& wanted,
                                           const std::atomic<bool>* stop = nullptr);
WrittenFile write_safetensors(FileSystem& files, const std::string& path, std::string header,
                              std::vector<Tensor> tensors);
// What it does at once: the writing, which calls `disk_has_work` once, before it waits for the
// disk; and the sums.
void write_bytes(FileSystem& files, const std::vector<FileToWrite>& wanted,
                 const std::function<bool()>& stopped,
                 const std::function<void()>& disk_has_work = {});
std::vector<WrittenFile> compute_sums(const std::vector<FileToWrite>& wanted);

}  // namespace lockstep::checkpoint
