#include "comm/mpi/native.h"

#include <cstring>
#include <limits>

#include "core/base/error.h"

namespace lockstep::comm::mpi {
namespace {

// For moving bytes: any MPI type of the right size will do.
MPI_Datatype type_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return MPI_FLOAT;
    case DType::i64: return MPI_INT64_T;
    case DType::i32: return MPI_INT32_T;
    case DType::bf16:
    case DType::f16: return MPI_UINT16_T;
    case DType::u8:
    case DType::boolean: return MPI_UINT8_T;
  }
  throw UsageError("[mpi] unknown dtype");
}

MPI_Op op_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return MPI_SUM;
    case ReduceOp::product: return MPI_PROD;
    case ReduceOp::min: return MPI_MIN;
    case ReduceOp::max: return MPI_MAX;
    case ReduceOp::band: return MPI_BAND;
    case ReduceOp::bor: return MPI_BOR;
    case ReduceOp::bxor: return MPI_BXOR;
  }
  throw UsageError("[mpi] unknown reduce operation");
}

const void* or_in_place(const void* own, const void* place) {
  return own == place ? MPI_IN_PLACE : own;
}
void* or_in_place(void* own, const void* place) { return own == place ? MPI_IN_PLACE : own; }

}  // namespace

bool is_native(const Call& call) {
  if (point_to_point(call.op) || call.count > std::numeric_limits<int>::max()) return false;
  const bool summable = call.dtype == DType::f32 || call.dtype == DType::i64 ||
                        call.dtype == DType::i32 || call.dtype == DType::u8;
  return !reduces(call.op) || summable;
}

void execute_native(Runtime& runtime, MPI_Comm communicator, int rank, const Call& call,
                    const std::function<void(MPI_Request)>& complete) {
  const int n = static_cast<int>(call.count);
  const MPI_Datatype type = type_of(call.dtype);
  const auto bytes = static_cast<size_t>(call.bytes());
  // MPI forbids overlapping buffers; MPI_IN_PLACE tells it that this slice is already in place.
  const auto slice_of = [&](const void* whole) {
    return whole ? static_cast<const char*>(whole) + static_cast<size_t>(rank) * bytes : nullptr;
  };
  const void* out_slice = slice_of(call.out);
  const void* in_slice = slice_of(call.in);
  std::vector<char> aside;  // reduce_scatter knows no such MPI_IN_PLACE

  MPI_Request request = MPI_REQUEST_NULL;
  const auto start = [&](int code, const char* name) { check_mpi(code, name); };
  runtime.locked([&] {
    switch (call.op) {
      case Op::all_reduce:
        return start(MPI_Iallreduce(MPI_IN_PLACE, call.out, n, type, op_of(call.reduce_op),
                                    communicator, &request),
                     "MPI_Iallreduce");
      case Op::reduce_scatter: {
        if (call.out == in_slice) aside.resize(bytes);
        void* out = aside.empty() ? call.out : aside.data();
        return start(MPI_Ireduce_scatter_block(call.in, out, n, type, op_of(call.reduce_op),
                                               communicator, &request),
                     "MPI_Ireduce_scatter_block");
      }
      case Op::reduce: {
        const void* in = rank == call.root ? MPI_IN_PLACE : call.in;
        return start(MPI_Ireduce(in, call.out, n, type, op_of(call.reduce_op), call.root,
                                 communicator, &request),
                     "MPI_Ireduce");
      }
      case Op::all_gather:
        return start(MPI_Iallgather(or_in_place(call.in, out_slice), n, type, call.out, n, type,
                                    communicator, &request),
                     "MPI_Iallgather");
      case Op::broadcast:
        return start(MPI_Ibcast(call.out, n, type, call.root, communicator, &request),
                     "MPI_Ibcast");
      case Op::gather: {
        const void* in = rank == call.root ? or_in_place(call.in, out_slice) : call.in;
        return start(MPI_Igather(in, n, type, call.out, n, type, call.root, communicator, &request),
                     "MPI_Igather");
      }
      case Op::scatter: {
        void* out = rank == call.root ? or_in_place(call.out, in_slice) : call.out;
        return start(
            MPI_Iscatter(call.in, n, type, out, n, type, call.root, communicator, &request),
            "MPI_Iscatter");
      }
      case Op::all_to_all:
        return start(MPI_Ialltoall(call.in, n, type, call.out, n, type, communicator, &request),
                     "MPI_Ialltoall");
      default: return;  // barrier: the comparison of fingerprints was one already
    }
  });
  complete(request);
  if (!aside.empty()) std::memcpy(call.out, aside.data(), bytes);
}

}  // namespace lockstep::comm::mpi
