// The safetensors reader, fed with anything: it either refuses with an EnvironmentError, or what it read obeys the format and can be
// written again. Neither may take more memory than the input justifies.
#include <cstring>
#include <string>

#include "checkpoint/safetensors.h"
#include "core/base/error.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace lockstep;
using namespace lockstep::checkpoint;
using fuzz::require;

SafetensorsHeader read(const uint8_t* data, int64_t size) {
  return read_safetensors_header("input", size, [&](int64_t offset, void* to, int64_t bytes) {
    require(offset >= 0 && bytes >= 0 && bytes <= size - offset, "a read outside of the file");
    std::memcpy(to, data + offset, static_cast<size_t>(bytes));
  });
}

void check_accepted(SafetensorsHeader header, int64_t size) {
  int64_t at = header.tensors.empty() ? size : header.tensors.front().begin;
  for (const SafetensorsInfo info : header.tensors) {
    require(info.begin == at, "a hole or an overlap");
    require(info.shape.numel() * safetensors_bits(info.dtype) == info.bytes * 8, "a shape that does not fill its bytes");
    at += info.bytes;
  }
  require(at == size, "the tensors do not end with the file");

  const std::string again = make_safetensors_header(header);
  const int64_t bytes =
      header.tensors.empty() ? static_cast<int64_t>(again.size()) : header.tensors.back().begin + header.tensors.back().bytes;
  const SafetensorsHeader reread = read_safetensors_header("written", bytes, [&](int64_t offset, void* to, int64_t count) {
    std::memcpy(to, again.data() + offset, static_cast<size_t>(count));
  });
  require(reread.metadata == header.metadata && reread.tensors.size() == header.tensors.size(), "writing lost something");
  for (size_t i = 0; i < header.tensors.size(); ++i)
    require(reread.tensors[i].name == header.tensors[i].name && reread.tensors[i].shape == header.tensors[i].shape &&
                reread.tensors[i].dtype == header.tensors[i].dtype && reread.tensors[i].begin == header.tensors[i].begin,
            "writing changed a tensor");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = static_cast<int64_t>(size);
  fuzz::reset_peak();
  SafetensorsHeader header;
  try {
    header = read(data, bytes);
  } catch (const EnvironmentError&) {
    fuzz::require_justified(size, 32);
    return 0;
  }
  fuzz::require_justified(size, 32);
  check_accepted(std::move(header), bytes);
  return 0;
}
