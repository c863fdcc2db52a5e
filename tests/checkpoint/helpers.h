// What the tests of checkpoints share.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/checkpoint.h"
#include "comm/engine/backend.h"
#include "comm/local/factory.h"
#include "comm/local/hash_store.h"
#include "tests/support/error_of.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temp_dir.h"

namespace lockstep::checkpoint {

// [0, 1, 2, …] + start, of any dtype.
inline Tensor counting(const Shape& shape, DType dtype = DType::f32, int64_t start = 0) {
  const Tensor tensor = Tensor::empty(shape, dtype);
  dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* data = static_cast<T*>(tensor.raw());
    for (int64_t i = 0; i < tensor.numel(); ++i)
      data[i] = static_cast<T>(static_cast<float>((start + i) % 127));
  });
  return tensor;
}

// A part of counting(global shape, dtype, start), in the part's own shape.
inline Tensor counting_part(const ShardSpec& part, DType dtype = DType::f32, int64_t start = 0) {
  const Tensor whole = counting(part.global_shape(), dtype, start);
  const Tensor values = Tensor::empty(part.shape(), dtype);
  const int64_t element = size_of(dtype);
  for (const CommonRun& run : common_runs(part, ShardSpec::whole(part.global_shape())))
    std::memcpy(static_cast<char*>(values.raw()) + run.in_a * element,
                static_cast<const char*>(whole.raw()) + run.in_b * element,
                static_cast<size_t>(run.length * element));
  return values;
}

// Number `cell` of rows × columns cells of a tensor, row after row: cut along its first and last
// dimension. The first cell has all of a scalar.
inline ShardSpec cell_of(const Shape& shape, int cell, int rows, int columns) {
  const auto share = [](int64_t dim, int part, int of) {
    return std::pair(dim * part / of, dim * (part + 1) / of);
  };
  if (shape.empty()) return {shape, 0, cell == 0 ? 1 : 0};
  Shape offsets = shape, lengths = shape;
  for (int dim = 0; dim < shape.size(); ++dim) offsets[dim] = 0;
  const auto cut = [&](int dim, int part, int of) {
    const auto [begin, end] = share(shape[dim], part, of);
    offsets[dim] = begin;
    lengths[dim] = end - begin;
  };
  if (shape.size() == 1) {
    cut(0, cell, rows * columns);
  } else {
    cut(0, cell / columns, rows);
    cut(shape.size() - 1, cell % columns, columns);
  }
  return ShardSpec::box(shape, offsets, lengths);
}

inline std::vector<uint8_t> bytes_of(const Tensor& tensor) {
  const auto* data = static_cast<const uint8_t*>(tensor.raw());
  return {data, data + tensor.bytes()};
}

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}
inline void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

inline std::vector<std::string> names_in(const std::string& dir) {
  return posix_file_system().list(dir);
}

// Runs body on `ranks` threads, each with a group of the local backend.
inline void with_ranks(int ranks, const std::function<void(comm::ProcessGroup&)>& body) {
  const auto store = std::make_shared<comm::HashStore>();
  test::run_threads(ranks, [&](int rank) {
    const comm::GroupOptions options;
    comm::ProcessGroup group(comm::make_local(store, rank, ranks, options), options);
    body(group);
  });
}

using test::error_of;

}  // namespace lockstep::checkpoint
