#include "comm/reduce/reduce_kernels.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/base/error.h"

namespace lockstep::comm {
namespace {

// The type that holds a value while it is being reduced.
template <typename T>
struct CarriedAs {
  using type = T;
};
template <>
struct CarriedAs<BFloat16> {
  using type = float;
};
template <>
struct CarriedAs<Float16> {
  using type = float;
};
template <>
struct CarriedAs<int32_t> {
  using type = uint32_t;  // unsigned: overflow is defined
};
template <>
struct CarriedAs<int64_t> {
  using type = uint64_t;
};
template <>
struct CarriedAs<bool> {
  using type = uint8_t;
};
template <typename T>
using Carried = typename CarriedAs<T>::type;

// Combines one element. T is the tensor's type and decides how carried values compare.
template <typename T, ReduceOp kOp>
[[gnu::always_inline]] inline Carried<T> combine(Carried<T> a, Carried<T> b) {
  using A = Carried<T>;
  if constexpr (std::is_same_v<T, bool>) {
    if constexpr (kOp == ReduceOp::product || kOp == ReduceOp::min || kOp == ReduceOp::band)
      return static_cast<A>(a & b);
    if constexpr (kOp == ReduceOp::bxor) return static_cast<A>(a ^ b);
    return static_cast<A>(a | b);
  } else if constexpr (kOp == ReduceOp::sum) {
    return static_cast<A>(a + b);
  } else if constexpr (kOp == ReduceOp::product) {
    return static_cast<A>(a * b);
  } else if constexpr (std::is_floating_point_v<A>) {
    // NaN wins on either side.
    if constexpr (kOp == ReduceOp::min)
      return (a < b || a != a) ? a : b;
    else if constexpr (kOp == ReduceOp::max)
      return (a > b || a != a) ? a : b;
    else
      return a;  // check_reducible refuses bit operations on floats
  } else {
    if constexpr (kOp == ReduceOp::min) return static_cast<T>(a) < static_cast<T>(b) ? a : b;
    if constexpr (kOp == ReduceOp::max) return static_cast<T>(a) > static_cast<T>(b) ? a : b;
    if constexpr (kOp == ReduceOp::band) return static_cast<A>(a & b);
    if constexpr (kOp == ReduceOp::bor) return static_cast<A>(a | b);
    return static_cast<A>(a ^ b);
  }
}

// Elements per block. The carried blocks of 8 ranks together fit into the L1 cache.
constexpr int64_t kBlock = 512;

// The current value of a rank's block: its source, or the partial sum that replaced it.
template <typename T>
struct Value {
  const T* source;
  const Carried<T>* carried;  // used instead of the source unless null
};

// The loops are members of a type, so they can be compiled again for wider vectors. Pointers may be
// equal (in place). That is no dependence between iterations: hence ivdep.
template <typename T, ReduceOp kOp>
struct Loops {
  using A = Carried<T>;

  template <typename Out, typename L, typename R>
  [[gnu::always_inline]] static inline void add(Out* out, const L* a, const R* b, int64_t n) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i)
      out[i] = static_cast<Out>(combine<T, kOp>(static_cast<A>(a[i]), static_cast<A>(b[i])));
  }
  template <typename Out>
  [[gnu::always_inline]] static inline void add(Out* out, const Value<T>& a, const Value<T>& b,
                                                int64_t n) {
    if (a.carried)
      b.carried ? add(out, a.carried, b.carried, n) : add(out, a.carried, b.source, n);
    else
      b.carried ? add(out, a.source, b.carried, n) : add(out, a.source, b.source, n);
  }
};

struct Job {
  std::span<const ReduceTree::Step> steps;
  std::span<const void* const> sources;
  std::span<void* const> outs;
  int64_t count;
};

// Nothing is copied on the way: the first sum reads the sources, and the last one writes to the
// output.
template <typename T, ReduceOp kOp>
[[gnu::always_inline]] inline void run_blocks(const Job& job) {
  using L = Loops<T, kOp>;
  using A = Carried<T>;
  std::vector<A> scratch(job.steps.size() > 1 ? job.sources.size() * kBlock : 0);
  std::vector<Value<T>> values(job.sources.size());
  T* const first = static_cast<T*>(job.outs[0]);
  for (int64_t at = 0; at < job.count; at += kBlock) {
    const int64_t n = std::min(kBlock, job.count - at);
    const size_t bytes = static_cast<size_t>(n) * sizeof(T);
    for (size_t rank = 0; rank < values.size(); ++rank)
      values[rank] = {static_cast<const T*>(job.sources[rank]) + at, nullptr};
    const auto value = [&](int rank) -> Value<T>& { return values[static_cast<size_t>(rank)]; };
    if (job.steps.empty()) std::memmove(first + at, values[0].source, bytes);
    for (size_t i = 0; i < job.steps.size(); ++i) {
      const auto [left, right] = job.steps[i];
      if (i + 1 == job.steps.size()) {
        L::add(first + at, value(left), value(right), n);
      } else {
        A* const sum = scratch.data() + left * kBlock;
        L::add(sum, value(left), value(right), n);
        value(left).carried = sum;
      }
    }
    for (size_t i = 1; i < job.outs.size(); ++i)
      std::memcpy(static_cast<T*>(job.outs[i]) + at, first + at, bytes);
  }
}

template <typename T, ReduceOp kOp>
void run_portable(const Job& job) {
  run_blocks<T, kOp>(job);
}

#if defined(__x86_64__)
// The same loops with wider vectors. The bits are the same, since every element has its own chain
// of operations.
template <typename T>
[[gnu::target("avx2,f16c")]] void sum_avx2(const Job& job) {
  run_blocks<T, ReduceOp::sum>(job);
}

// Whether __builtin_cpu_supports() knows F16C depends on the compiler.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2") && has_f16c();
  return has;
}
#endif

template <typename T, ReduceOp kOp>
void run(const Job& job) {
#if defined(__x86_64__)
  // Only sums of floats, that is of gradients, are worth compiling twice.
  if constexpr (kOp == ReduceOp::sum && std::is_floating_point_v<Carried<T>>) {
    if (has_avx2()) return sum_avx2<T>(job);
  }
#endif
  run_portable<T, kOp>(job);
}

template <typename T>
void run_op(ReduceOp op, const Job& job) {
  switch (op) {
    case ReduceOp::sum: return run<T, ReduceOp::sum>(job);
    case ReduceOp::product: return run<T, ReduceOp::product>(job);
    case ReduceOp::min: return run<T, ReduceOp::min>(job);
    case ReduceOp::max: return run<T, ReduceOp::max>(job);
    default: break;
  }
  if constexpr (std::is_integral_v<T>) {
    switch (op) {
      case ReduceOp::band: return run<T, ReduceOp::band>(job);
      case ReduceOp::bor: return run<T, ReduceOp::bor>(job);
      case ReduceOp::bxor: return run<T, ReduceOp::bxor>(job);
      default: break;
    }
  }
}

}  // namespace

std::string_view name_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return "sum";
    case ReduceOp::product: return "product";
    case ReduceOp::min: return "min";
    case ReduceOp::max: return "max";
    case ReduceOp::band: return "band";
    case ReduceOp::bor: return "bor";
    case ReduceOp::bxor: return "bxor";
  }
  return "?";
}

void check_reducible(DType dtype, ReduceOp op) {
  const bool bits = op == ReduceOp::band || op == ReduceOp::bor || op == ReduceOp::bxor;
  check(!bits || !is_floating(dtype), "[comm] ", name_of(op), " needs integers or bool, got ",
        dtype);
}

void reduce_in_order(DType dtype, ReduceOp op, std::span<const ReduceTree::Step> steps,
                     std::span<const void* const> sources, std::span<void* const> outs,
                     int64_t count) {
  check(!sources.empty() && !outs.empty() && steps.size() + 1 == sources.size(), "[reduce] ",
        sources.size(), " sources need ", sources.size() - 1, " steps, got ", steps.size());
  if (count == 0) return;
  dispatch(dtype, [&](auto zero) { run_op<decltype(zero)>(op, {steps, sources, outs, count}); });
}

Range part_of(int64_t count, int parts, int i) {
  constexpr int64_t kGrain = 64;
  const int64_t grains = (count + kGrain - 1) / kGrain;
  const auto start = [&](int part) { return std::min(count, grains * part / parts * kGrain); };
  return {start(i), start(i + 1)};
}

}  // namespace lockstep::comm
