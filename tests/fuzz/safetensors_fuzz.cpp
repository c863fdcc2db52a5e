// The safetensors reader, fed with anything: it either refuses with an EnvironmentError that is fit
// for a terminal, or what it read can be written again. Another reader of the same rules must come
// to the same verdict and the same contents (tests/checkpoint/format/safetensors_reference.h), and
// the memory stays within twice the header.
#include <algorithm>
#include <cstring>
#include <string>

#include "checkpoint/format/safetensors.h"
#include "core/base/error.h"
#include "tests/checkpoint/format/safetensors_reference.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/safetensors_mutator.h"

namespace {

using namespace lockstep;
using namespace lockstep::checkpoint;
using fuzz::require;

SafetensorsHeader read(std::string_view file) {
  const auto size = static_cast<int64_t>(file.size());
  return read_safetensors_header("input", size, [&](int64_t offset, void* to, int64_t bytes) {
    require(offset >= 0 && bytes >= 0 && bytes <= size - offset, "a read outside of the file");
    std::memcpy(to, file.data() + offset, static_cast<size_t>(bytes));
  });
}

void check_accepted(SafetensorsHeader header, int64_t size) {
  int64_t at = header.tensors.empty() ? size : header.tensors.front().begin;
  for (const SafetensorsInfo info : header.tensors) {
    require(info.begin == at, "a hole or an overlap");
    at += info.bytes;
  }
  require(at == size, "the tensors do not end with the file");

  const std::string again = make_safetensors_header(header);
  const ReferenceHeader written = as_reference(header);
  const int64_t data_bytes = header.tensors.empty()
                                 ? 0
                                 : header.tensors.back().begin + header.tensors.back().bytes -
                                       static_cast<int64_t>(again.size());
  require(as_reference(read(again + std::string(static_cast<size_t>(data_bytes), '\0'))) == written,
          "writing changed something");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  fuzz::reset_peak();
  std::optional<SafetensorsHeader> header;
  std::string said;
  try {
    header = read(file);
  } catch (const EnvironmentError& e) {
    said = e.what();
  }
  fuzz::require_justified(size, 3);  // one of them is the window, which holds all of a short header
  fuzz::require_fit_for_terminal(said);
  const std::optional<ReferenceHeader> reference = reference_read(file);
  require(header.has_value() == reference.has_value(), "another verdict than the other reader's");
  if (!header) return 0;
  require(as_reference(*header) == *reference, "other contents than the other reader's");
  check_accepted(std::move(*header), static_cast<int64_t>(size));
  return 0;
}

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

// Half of the changes know the structure; the others are bytes'.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  if (seed % 2 == 0) return LLVMFuzzerMutate(data, size, most);
  const std::string mutated =
      fuzz::SafetensorsMutator(seed)({reinterpret_cast<const char*>(data), size});
  const size_t bytes = std::min(mutated.size(), most);
  std::memcpy(data, mutated.data(), bytes);
  return bytes;
}
