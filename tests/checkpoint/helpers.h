// What the tests of checkpoints share.
#pragma once

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
