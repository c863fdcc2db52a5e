// NumPy's .npy files (format 1.0, little-endian, C order), f32 and i32: how the tests exchange
// tensors with Python.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "core/tensor/tensor.h"

namespace lockstep::testing {

inline void write_npy(const std::filesystem::path& path, const Tensor& t) {
  std::string shape;
  for (int64_t d : t.shape()) shape += std::to_string(d) + ",";
  std::string header = "{'descr': '" + std::string(t.dtype() == DType::i32 ? "<i4" : "<f4") +
                       "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.resize((header.size() + 10 + 1 + 63) / 64 * 64 - 10 - 1, ' ');
  header += '\n';
  std::ofstream out(path, std::ios::binary);
  out.write("\x93NUMPY\x01\x00", 8);
  out.put(static_cast<char>(header.size() % 256)).put(static_cast<char>(header.size() / 256));
  out << header;
  const Tensor dense = t.contiguous();
  out.write(static_cast<const char*>(dense.raw()), dense.bytes());
  if (!out) throw EnvironmentError(str("cannot write ", path));
}

inline Tensor read_npy(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  const size_t data = bytes.find('\n') + 1;
  const size_t open = bytes.find("'shape': (");
  if (!in || open == std::string::npos || bytes.find("'<f4'") > data)
    throw EnvironmentError(str("no f32 array in ", path));
  Shape shape;
  for (const char* at = bytes.data() + open + 10; *at != ')';) {
    if (*at >= '0' && *at <= '9') {
      char* end = nullptr;
      shape.push_back(std::strtoll(at, &end, 10));
      at = end;
    } else {
      ++at;
    }
  }
  Tensor t = Tensor::empty(shape);
  if (bytes.size() - data != static_cast<size_t>(t.bytes()))
    throw EnvironmentError(str("wrong size: ", path));
  std::memcpy(t.raw(), bytes.data() + data, static_cast<size_t>(t.bytes()));
  return t;
}

}  // namespace lockstep::testing
