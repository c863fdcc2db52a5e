// NVIDIA's NCCL, found at run time: a program that was built with CUDA starts where the library is
// missing.
#include "comm/nccl/api.h"

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <dlfcn.h>
#include <link.h>
#include <nccl.h>

#include "core/base/error.h"

namespace lockstep::comm::nccl {
namespace {

constexpr const char* kLibrary = "libnccl.so.2";
constexpr int kCudaMajor = CUDART_VERSION / 1000;
// Before it, communicators always blocked (2.14), or did not heed the configuration's name (2.19).
constexpr int kOldestVersion = 21900;

struct Functions {
  decltype(&ncclGetVersion) version;
  decltype(&ncclGetUniqueId) unique_id;
  decltype(&ncclCommInitRankConfig) init;
  decltype(&ncclCommGetAsyncError) state;
  decltype(&ncclCommFinalize) finalize;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclReduceScatter) reduce_scatter;
  decltype(&ncclReduce) reduce;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclBroadcast) broadcast;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;
  decltype(&ncclGetErrorString) error_text;
  decltype(&ncclGetLastError) last_error;
};

template <class F>
void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (!function)
    throw EnvironmentError(str("[nccl] ", kLibrary, " has no function ", name,
                               ": install NCCL 2.19 or later, built for CUDA ", kCudaMajor));
}

// What the search for the library's words has found.
struct Words {
  const void* inside;  // an address in the library
  std::string path, cuda;
};

// NCCL has no call that says for which CUDA it was built, but carries "NCCL
// version 2.28.9+cuda13.0" in its constants.
int look_for_cuda(dl_phdr_info* info, size_t, void* data) {
  auto& words = *static_cast<Words*>(data);
  const auto begin_of = [&](const ElfW(Phdr) & header) {
    return reinterpret_cast<const char*>(info->dlpi_addr + header.p_vaddr);
  };
  const std::vector<ElfW(Phdr)> headers(info->dlpi_phdr, info->dlpi_phdr + info->dlpi_phnum);
  bool here = false;
  for (const auto& header : headers)
    here = here || (header.p_type == PT_LOAD && words.inside >= begin_of(header) &&
                    words.inside < begin_of(header) + header.p_memsz);
  if (!here) return 0;
  words.path = info->dlpi_name;
  constexpr std::string_view kBefore = "NCCL version ", kMark = "+cuda";
  for (const auto& header : headers) {
    if (header.p_type != PT_LOAD || !(header.p_flags & PF_R) || (header.p_flags & PF_W)) continue;
    const std::string_view text(begin_of(header), header.p_filesz);
    for (size_t at = text.find(kBefore); at != text.npos; at = text.find(kBefore, at + 1)) {
      const std::string_view line = text.substr(at, 64);
      const size_t mark = line.find(kMark);
      if (mark == line.npos || mark > line.find('\0')) continue;
      const size_t from = mark + kMark.size();
      words.cuda = line.substr(from, line.find_first_not_of("0123456789.", from) - from);
      return 1;
    }
  }
  return 1;
}

void check_cuda_of(const void* inside) {
  Words words{.inside = inside, .path = {}, .cuda = {}};
  dl_iterate_phdr(look_for_cuda, &words);
  // Words that are not found prove nothing.
  if (!words.cuda.empty() &&
      words.cuda.substr(0, words.cuda.find('.')) != std::to_string(kCudaMajor))
    throw EnvironmentError(str("[nccl] ", words.path, " was built for CUDA ", words.cuda,
                               ", and lockstep for CUDA ", kCudaMajor, ": install NCCL for CUDA ",
                               kCudaMajor, ", or name its folder in LD_LIBRARY_PATH"));
}

Functions load() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    throw EnvironmentError(str("[nccl] ", kLibrary, " cannot be loaded: ", dlerror(),
                               ". Install NCCL for CUDA ", kCudaMajor,
                               ", or name its folder in LD_LIBRARY_PATH"));
  Functions f{};
  find(library, "ncclGetVersion", f.version);
  check_cuda_of(reinterpret_cast<const void*>(f.version));
  int version = 0;
  if (f.version(&version) != ncclSuccess || version < kOldestVersion)
    throw EnvironmentError(str("[nccl] ", kLibrary, " has version code ", version,
                               ", expected 2.19 or later (", kOldestVersion, ")"));
  find(library, "ncclGetUniqueId", f.unique_id);
  find(library, "ncclCommInitRankConfig", f.init);
  find(library, "ncclCommGetAsyncError", f.state);
  find(library, "ncclCommFinalize", f.finalize);
  find(library, "ncclCommDestroy", f.destroy);
  find(library, "ncclCommAbort", f.abort);
  find(library, "ncclGroupStart", f.group_start);
  find(library, "ncclGroupEnd", f.group_end);
  find(library, "ncclAllReduce", f.all_reduce);
  find(library, "ncclReduceScatter", f.reduce_scatter);
  find(library, "ncclReduce", f.reduce);
  find(library, "ncclAllGather", f.all_gather);
  find(library, "ncclBroadcast", f.broadcast);
  find(library, "ncclSend", f.send);
  find(library, "ncclRecv", f.recv);
  find(library, "ncclGetErrorString", f.error_text);
  find(library, "ncclGetLastError", f.last_error);
  return f;
}

const Functions& nccl() {
  static const Functions functions = load();
  return functions;
}

ncclComm_t from(CommHandle comm) { return static_cast<ncclComm_t>(comm); }
cudaStream_t on(StreamHandle stream) { return static_cast<cudaStream_t>(stream); }

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return ncclFloat32;
    case DType::bf16: return ncclBfloat16;
    case DType::f16: return ncclFloat16;
    case DType::i64: return ncclInt64;
    case DType::i32: return ncclInt32;
    case DType::u8: return ncclUint8;
    case DType::boolean: break;
  }
  throw UsageError(str("[nccl] has no sums of ", dtype));
}
ncclRedOp_t sum_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return ncclSum;
    case ReduceOp::product: return ncclProd;
    case ReduceOp::min: return ncclMin;
    case ReduceOp::max: return ncclMax;
    default: break;
  }
  throw UsageError(str("[nccl] has no reduction by ", name_of(op)));
}

int version(int* version) { return nccl().version(version); }
int unique_id(UniqueId* id) {
  static_assert(sizeof(ncclUniqueId) == sizeof(UniqueId));
  ncclUniqueId made;
  const int result = nccl().unique_id(&made);
  std::memcpy(id->bytes.data(), &made, sizeof made);
  return result;
}
int init(CommHandle* comm, int size, const UniqueId& id, int rank, const char* name) {
  ncclUniqueId theirs;
  std::memcpy(&theirs, id.bytes.data(), sizeof theirs);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.commName = name;
  ncclComm_t made = nullptr;
  const int result = nccl().init(&made, size, theirs, rank, &config);
  *comm = made;
  return result;
}
int state(CommHandle comm, int* state) {
  ncclResult_t now = ncclSuccess;
  const int result = nccl().state(from(comm), &now);
  *state = now;
  return result;
}
int finalize(CommHandle comm) { return nccl().finalize(from(comm)); }
int destroy(CommHandle comm) { return nccl().destroy(from(comm)); }
int abort(CommHandle comm) { return nccl().abort(from(comm)); }
int group_start() { return nccl().group_start(); }
int group_end() { return nccl().group_end(); }

int all_reduce(const void* in, void* out, size_t count, DType dtype, ReduceOp op, CommHandle comm,
               StreamHandle stream) {
  return nccl().all_reduce(in, out, count, type_of(dtype), sum_of(op), from(comm), on(stream));
}
int reduce_scatter(const void* in, void* out, size_t count, DType dtype, ReduceOp op,
                   CommHandle comm, StreamHandle stream) {
  return nccl().reduce_scatter(in, out, count, type_of(dtype), sum_of(op), from(comm), on(stream));
}
int reduce(const void* in, void* out, size_t count, DType dtype, ReduceOp op, int root,
           CommHandle comm, StreamHandle stream) {
  return nccl().reduce(in, out, count, type_of(dtype), sum_of(op), root, from(comm), on(stream));
}
int all_gather(const void* in, void* out, size_t bytes, CommHandle comm, StreamHandle stream) {
  return nccl().all_gather(in, out, bytes, ncclInt8, from(comm), on(stream));
}
int broadcast(const void* in, void* out, size_t bytes, int root, CommHandle comm,
              StreamHandle stream) {
  return nccl().broadcast(in, out, bytes, ncclInt8, root, from(comm), on(stream));
}
int send(const void* in, size_t bytes, int peer, CommHandle comm, StreamHandle stream) {
  return nccl().send(in, bytes, ncclInt8, peer, from(comm), on(stream));
}
int recv(void* out, size_t bytes, int peer, CommHandle comm, StreamHandle stream) {
  return nccl().recv(out, bytes, ncclInt8, peer, from(comm), on(stream));
}

const char* error_text(int result) { return nccl().error_text(static_cast<ncclResult_t>(result)); }
const char* last_error(CommHandle comm) {
  const char* text = nccl().last_error(from(comm));
  return text ? text : "";
}

}  // namespace

const NcclApi& api() {
  nccl();  // says what is missing
  static const NcclApi table{.version = version,
                             .unique_id = unique_id,
                             .init = init,
                             .state = state,
                             .finalize = finalize,
                             .destroy = destroy,
                             .abort = abort,
                             .group_start = group_start,
                             .group_end = group_end,
                             .all_reduce = all_reduce,
                             .reduce_scatter = reduce_scatter,
                             .reduce = reduce,
                             .all_gather = all_gather,
                             .broadcast = broadcast,
                             .send = send,
                             .recv = recv,
                             .error_text = error_text,
                             .last_error = last_error};
  return table;
}

const char* api_kind() { return ""; }

}  // namespace lockstep::comm::nccl
