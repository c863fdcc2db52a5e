// Products by cuBLASLt. Its matrices are column-major, and a row-major matrix is its transpose
// there: C = op(A)·op(B) becomes Cᵀ = op(B)ᵀ·op(A)ᵀ without moving anything.
#include "core/device/cuda/products.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <utility>

#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/device/cuda/choices.h"
#include "core/device/cuda/stream.h"
#include "core/device/cuda/toolkit/cublaslt.h"
#include "core/device/cuda/workspace.h"

namespace lockstep::cuda {
namespace {

// More gives no faster algorithm on the devices known today; Hopper's want 32 MiB.
constexpr size_t kWorkspace = size_t{32} << 20;

cudaDataType_t type_of(DType dtype) {
  if (dtype == DType::f32) return CUDA_R_32F;
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
}

struct Desc {
  cublasLtMatmulDesc_t handle = nullptr;
  ~Desc() {
    if (handle) cublas().desc_destroy(handle);
  }
};
struct Layout {
  cublasLtMatrixLayout_t handle = nullptr;
  ~Layout() {
    if (handle) cublas().layout_destroy(handle);
  }
};
struct Preference {
  cublasLtMatmulPreference_t handle = nullptr;
  ~Preference() {
    if (handle) cublas().preference_destroy(handle);
  }
};

// What a plan depends on, beside the device.
struct Key {
  int64_t m, n, k, lda, ldb, ldc;
  DType in, out;
  bool transposed_a, transposed_b, accumulate, bias, sums;
  int alignment;  // of all matrices, in bytes: 16, or what the least aligned one has
  auto operator<=>(const Key&) const = default;
};

int alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  for (int bytes = 16; bytes > 2; bytes /= 2)
    if (address % static_cast<uintptr_t>(bytes) == 0) return bytes;
  return 2;
}

Key key_of(const Product& product) {
  const GemmArgs& args = product.args;
  return {.m = args.m,
          .n = args.n,
          .k = args.k,
          .lda = args.a.ld,
          .ldb = args.b.ld,
          .ldc = args.ldc,
          .in = args.a.dtype,
          .out = args.c_dtype,
          .transposed_a = args.a.transposed,
          .transposed_b = args.b.transposed,
          .accumulate = args.accumulate,
          .bias = product.bias != nullptr,
          .sums = product.sums != nullptr,
          .alignment = std::min(
              {alignment_of(args.a.data), alignment_of(args.b.data), alignment_of(args.c)})};
}

// A product's descriptors and algorithm. Used by one thread at a time, since the bias is a part of
// the descriptor.
class Plan {
 public:
  Plan(cublasLtHandle_t handle, const Key& key);
  // Whether the library has an algorithm. False only for products with sums.
  bool exists() const { return exists_; }
  void run(const Queue& queue, const Product& product);
  std::string algorithm_text() const;

 private:
  void choose(const Key& key);

  Mutex mutex_;
  cublasLtHandle_t handle_;
  Desc desc_;
  Layout a_, b_, c_;  // in cuBLASLt's order: its A is our B
  bool exists_ = true;
  cublasLtMatmulAlgo_t algorithm_{};
  size_t workspace_ = 0;
};

void make_layout(Layout& layout, DType dtype, int64_t rows, int64_t columns, int64_t ld) {
  check_cublas(cublas().layout_create(&layout.handle, type_of(dtype), static_cast<uint64_t>(rows),
                                      static_cast<uint64_t>(columns), ld),
               "describing a matrix");
}

template <class T>
void set(const Desc& desc, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check_cublas(cublas().desc_set(desc.handle, attribute, &value, sizeof(value)),
               "describing a product");
}

template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const T& value) {
  check_cublas(cublas().preference_set(preference.handle, attribute, &value, sizeof(value)),
               "choosing an algorithm");
}

Plan::Plan(cublasLtHandle_t handle, const Key& key) : handle_(handle) {
  check_cublas(cublas().desc_create(&desc_.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "describing a product");
  // Stored row-major [K, N] is column-major N×K: what Cᵀ = op(B)ᵀ·op(A)ᵀ takes as it is.
  set(desc_, CUBLASLT_MATMUL_DESC_TRANSA, key.transposed_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(desc_, CUBLASLT_MATMUL_DESC_TRANSB, key.transposed_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (key.bias) {
    set(desc_, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(desc_, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(key.out));
  }
  if (key.sums) {
    // cuBLASLt's B is our A, and the sums over k are those of B's columns there.
    set(desc_, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BGRADB);
    set(desc_, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
  }
  const auto swap_if = [](bool transposed, int64_t rows, int64_t columns) {
    return transposed ? std::pair(columns, rows) : std::pair(rows, columns);
  };
  const auto [b_rows, b_columns] = swap_if(key.transposed_b, key.n, key.k);
  const auto [a_rows, a_columns] = swap_if(key.transposed_a, key.k, key.m);
  make_layout(a_, key.in, b_rows, b_columns, key.ldb);
  make_layout(b_, key.in, a_rows, a_columns, key.lda);
  make_layout(c_, key.out, key.n, key.m, key.ldc);
  choose(key);
}

// The first of cuBLASLt's suggestions. They depend on shapes, dtypes, alignment and device alone.
void Plan::choose(const Key& key) {
  Preference preference;
  check_cublas(cublas().preference_create(&preference.handle), "choosing an algorithm");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  // Parts of K are added in a fixed order in the workspace, not in the order in which they come.
  const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
  const auto alignment = static_cast<uint32_t>(key.alignment);
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    set(preference, attribute, alignment);
  std::array<cublasLtMatmulHeuristicResult_t, 1> found{};
  int count = 0;
  const cublasStatus_t status =
      cublas().heuristic(handle_, desc_.handle, a_.handle, b_.handle, c_.handle, c_.handle,
                         preference.handle, 1, found.data(), &count);
  const bool none = count == 0 || status == CUBLAS_STATUS_NOT_SUPPORTED;
  if (key.sums && none) {
    exists_ = false;
    return;
  }
  check_cublas(status, "choosing an algorithm");
  if (none)
    throw EnvironmentError(str("[cublas] has no algorithm for a product of [", key.m, ", ", key.k,
                               "] and [", key.k, ", ", key.n, "] of ", key.in));
  algorithm_ = found[0].algo;
  workspace_ = found[0].workspaceSize;
}

std::string Plan::algorithm_text() const {
  if (!exists_) return str("cuBLASLt ", cublas().version(), ", no algorithm");
  std::string text = str("cuBLASLt ", cublas().version());
  const auto add = [&](const char* name, cublasLtMatmulAlgoConfigAttributes_t attribute,
                       auto value) {
    size_t written = 0;
    check_cublas(cublas().algo_get(&algorithm_, attribute, &value, sizeof(value), &written),
                 "reading an algorithm");
    text += str(", ", name, " ", value);
  };
  add("algorithm", CUBLASLT_ALGO_CONFIG_ID, int32_t{0});
  add("tile", CUBLASLT_ALGO_CONFIG_TILE_ID, uint32_t{0});
  add("stages", CUBLASLT_ALGO_CONFIG_STAGES_ID, uint32_t{0});
  add("parts of K", CUBLASLT_ALGO_CONFIG_SPLITK_NUM, uint32_t{0});
  add("reduction", CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, uint32_t{0});
  add("swizzle", CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, uint32_t{0});
  add("option", CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, uint32_t{0});
  add("inner shape", CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, uint16_t{0});
  add("cluster", CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, uint16_t{0});
  return str(text, ", workspace ", workspace_);
}

void Plan::run(const Queue& queue, const Product& product) {
  const GemmArgs& args = product.args;
  const float one = 1.0f, beta = args.accumulate ? 1.0f : 0.0f;
  const Workspace workspace(queue, workspace_);
  const MutexLock lock(mutex_);
  if (product.bias) set(desc_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
  if (product.sums) set(desc_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.sums);
  check_cublas(cublas().matmul(handle_, desc_.handle, &one, args.b.data, a_.handle, args.a.data,
                               b_.handle, &beta, args.c, c_.handle, args.c, c_.handle, &algorithm_,
                               workspace.as<void>(), workspace_,
                               static_cast<cudaStream_t>(stream_of(queue))),
               "queueing a product");
}

// A device's plans; they live as long as the process.
struct Plans {
  Mutex mutex;
  cublasLtHandle_t handle LOCKSTEP_GUARDED_BY(mutex) = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans LOCKSTEP_GUARDED_BY(mutex);

  Plan& find(const Product& product) {
    const Key key = key_of(product);
    const MutexLock lock(mutex);
    if (!handle) check_cublas(cublas().create(&handle), "starting");
    std::unique_ptr<Plan>& plan = plans[key];
    if (!plan) {
      plan = std::make_unique<Plan>(handle, key);
      record_choice(str(text_of(product), ", aligned to ", key.alignment), plan->algorithm_text());
    }
    return *plan;
  }
};

Plans& plans_of(Device device) {
  static auto* plans = new std::map<int, Plans>;
  static auto* mutex = new Mutex;
  const MutexLock lock(*mutex);
  return (*plans)[device.index];
}

}  // namespace

void load_products() { cublas(); }

bool multiply(const Queue& queue, const Product& product) {
  stream_of(queue);  // makes the device current, for the handle
  Plan& plan = plans_of(queue.device()).find(product);
  if (!plan.exists()) return false;
  plan.run(queue, product);
  return true;
}

}  // namespace lockstep::cuda
