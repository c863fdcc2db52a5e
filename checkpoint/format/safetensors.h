// The safetensors format, of our shard files and of models of other programs: u64 N,
// little-endian; N bytes of JSON; then the bytes of the tensors, row-major and little-endian,
// without gaps.
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

// "F32" for DType::f32. Nothing for names of types that lockstep lacks ("F64", "I8").
std::string_view safetensors_dtype(DType dtype);
std::optional<DType> dtype_of_safetensors(std::string_view word);

// The longest header that the format allows.
constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// Reads the header of a file and checks everything that the format demands, before it allocates
// anything of a claimed size. The header must be within the file, have at most 100 MB, and be one
// object in UTF-8 that starts at byte 8 without repeated keys. Dtypes must be known, shapes must
// not overflow, and their bytes must match the offsets. Metadata must be strings. Tensors must
// follow each other without gaps or overlaps up to the end of the file. Padding is not required, so
// unaligned files can be read. Tensors without bytes may share an offset, as in files of other
// programs. Takes at most twice the header's length and 256 KiB of memory, even for bad files.
// Throws EnvironmentError that names file, tensor, expected and found.
SafetensorsHeader read_safetensors_header(const std::string& path);
SafetensorsHeader read_safetensors_header(const ReadableFile& file);

// The same for `file_bytes` bytes that `read` can read. `path` is for messages.
SafetensorsHeader read_safetensors_header(const std::string& path, int64_t file_bytes,
                                          const ReadAt& read);

// Makes the first bytes of a file: 8 + N bytes. Needs name, dtype and shape; sorts `tensors` (by
// alignment, then name) and sets their offsets. Throws UsageError for names that are repeated or
// not UTF-8, and for a header longer than readers accept.
std::string make_safetensors_header(SafetensorsHeader& header);

struct WrittenFile {
  int64_t bytes = 0;
  std::string sha256;
  uint64_t header_xxh3 = 0;
  std::vector<std::vector<uint64_t>> xxh3;  // for each tensor's chunks (checkpoint/format/chunks.h)
};
struct FileToWrite {
  std::string path = {};
  std::string header = {};  // the first bytes of the file
  // Contiguous, on the host, in the order that make_safetensors_header() gave.
  std::vector<Tensor> tensors = {};
};
// Writes and syncs one or two files, a few MiB of each in turn. Meanwhile a second thread, which
// runs only while nothing else wants the core, hashes both files at once; this thread hashes the
// rest. Once `stop` is true, returns early, and the result is useless.
std::vector<WrittenFile> write_safetensors(FileSystem& files,
                                           const std::vector<FileToWrite>& wanted,
                                           const std::atomic<bool>* stop = nullptr);
WrittenFile write_safetensors(FileSystem& files, const std::string& path, std::string header,
                              std::vector<Tensor> tensors);
// The two halves of this function: writing, which calls `disk_has_work` once before it waits for
// the disk; and the sums.
void write_bytes(FileSystem& files, const std::vector<FileToWrite>& wanted,
                 const std::function<bool()>& stopped,
                 const std::function<void()>& disk_has_work = {});
std::vector<WrittenFile> compute_sums(const std::vector<FileToWrite>& wanted);

}  // namespace lockstep::checkpoint
