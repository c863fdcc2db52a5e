// Config values with a fixed set of words: the enums, and their words as a file spells them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <ostream>
#include <string_view>
#include <type_traits>

#include "core/base/dtype.h"

namespace lockstep::train {

enum class DeviceKind : uint8_t { automatic, cpu, cuda };
enum class DataKind : uint8_t { text, random };
enum class TokenizerKind : uint8_t { bytes };
enum class ModelKind : uint8_t { gpt, llama, mlp };
enum class Activation : uint8_t { gelu, gelu_tanh, relu, silu };
enum class Precision : uint8_t { fp32, bf16, fp16 };
enum class Recompute : uint8_t { none, blocks };
enum class CaptureKind : uint8_t { automatic, off };
enum class OptimKind : uint8_t { sgd, adam, adamw };
enum class ScheduleKind : uint8_t { constant, linear, cosine };
enum class StrategyKind : uint8_t { single, ddp, fsdp };
enum class BackendKind : uint8_t { automatic, local, shm, ucx, mpi, nccl };
enum class ReductionKind : uint8_t { tree, fast };

// The words of an enum, in the order of its values.
template <typename E>
inline constexpr std::nullptr_t kWords = nullptr;
#define LOCKSTEP_WORDS(E, ...) \
  template <>                  \
  inline constexpr auto kWords<E> = std::to_array<std::string_view>({__VA_ARGS__})
LOCKSTEP_WORDS(DeviceKind, "auto", "cpu", "cuda");
LOCKSTEP_WORDS(DataKind, "text", "random");
LOCKSTEP_WORDS(TokenizerKind, "bytes");
LOCKSTEP_WORDS(ModelKind, "gpt", "llama", "mlp");
LOCKSTEP_WORDS(Activation, "gelu", "gelu_tanh", "relu", "silu");
LOCKSTEP_WORDS(Precision, "fp32", "bf16", "fp16");
LOCKSTEP_WORDS(Recompute, "none", "blocks");
LOCKSTEP_WORDS(CaptureKind, "auto", "off");
LOCKSTEP_WORDS(OptimKind, "sgd", "adam", "adamw");
LOCKSTEP_WORDS(ScheduleKind, "constant", "linear", "cosine");
LOCKSTEP_WORDS(StrategyKind, "single", "ddp", "fsdp");
LOCKSTEP_WORDS(BackendKind, "auto", "local", "shm", "ucx", "mpi", "nccl");
LOCKSTEP_WORDS(ReductionKind, "tree", "fast");
#undef LOCKSTEP_WORDS

template <typename E>
concept Word = std::is_enum_v<E> && requires {
  kWords<E>.size();
};

template <Word E>
constexpr std::string_view word_of(E value) {
  return kWords<E>.at(static_cast<size_t>(value));
}
template <Word E>
constexpr std::optional<E> from_word(std::string_view word) {
  for (size_t i = 0; i < kWords<E>.size(); ++i)
    if (kWords<E>[i] == word) return static_cast<E>(i);
  return std::nullopt;
}
template <Word E>
std::ostream& operator<<(std::ostream& out, E value) {
  return out << word_of(value);
}

// The dtype of matrix products and their inputs.
constexpr DType dtype_of(Precision precision) {
  return precision == Precision::bf16   ? DType::bf16
         : precision == Precision::fp16 ? DType::f16
                                        : DType::f32;
}

// parallel.shard: one of four words, or a number of ranks.
struct ShardMode {
  enum class Kind : uint8_t { full, grad, optim, hybrid, nearby };
  Kind kind = Kind::full;
  // nearby: number of ranks among which a unit is gathered for backward.
  int64_t ranks = 0;

  bool operator==(const ShardMode&) const = default;
};
std::ostream& operator<<(std::ostream& out, const ShardMode& mode);

}  // namespace lockstep::train
