#include <array>
#include <cstdlib>

#include <sys/mman.h>

#include "core/base/parallel.h"
#include "core/device/cpu/pieces.h"

namespace lockstep::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;
  ~Buffer() { std::free(data); }
};

}  // namespace

void run_pieces(int64_t pieces, void (*body)(const void*, int64_t), const void* context) {
  parallel_for(pieces, [body, context](int64_t i) { body(context, i); });
}

void* scratch(Scratch slot, size_t bytes) {
  thread_local std::array<Buffer, 5> buffers;
  Buffer& buffer = buffers[static_cast<size_t>(slot)];
  if (buffer.bytes >= bytes) return buffer.data;
  std::free(buffer.data);
  const size_t alignment = bytes >= kHugePage ? kHugePage : 4096;
  buffer.bytes = (bytes + alignment - 1) / alignment * alignment;
  buffer.data = std::aligned_alloc(alignment, buffer.bytes);
  if (!buffer.data) {
    buffer.bytes = 0;
    throw EnvironmentError(str("[cpu] no memory for ", bytes, " bytes of working memory"));
  }
  // Packed matrices are read with large strides. With small pages that costs more than the
  // arithmetic.
  if (alignment == kHugePage) madvise(buffer.data, buffer.bytes, MADV_HUGEPAGE);
  return buffer.data;
}

void unsupported_dtype(const char* kernel, DType dtype) {
  throw UsageError(str("[", kernel, "] expected f32 or bf16, got ", dtype));
}

}  // namespace lockstep::cpu
