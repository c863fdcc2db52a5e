// A graph of operations on tensors of four dimensions, for cuDNN to fuse into few kernels.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "core/device/cuda/toolkit/cudnn/descriptor.h"

namespace lockstep::cuda::cudnn {

using Dims = std::array<int64_t, 4>;

// Strides of a dense row-major tensor.
Dims dense(const Dims& dims);

// A tensor's place in its graph.
struct Node {
  size_t index;
};

// Not thread-safe. Throws EnvironmentError where cuDNN refuses a tensor or an operation.
class Graph {
 public:
  // Memory that the caller names by `id` when the graph runs, aligned to 16 bytes.
  Node memory(int64_t id, cudnnDataType_t type, const Dims& dims, const Dims& strides);
  // An f32 number that the host names by `id` when the graph runs.
  Node number(int64_t id);
  // A value between two operations, which takes no memory.
  Node value(cudnnDataType_t type, const Dims& dims, const Dims& strides);

  // c [.., M, N] = a [.., M, K] · b [.., K, N]. b may have fewer heads than a, which share them.
  void matmul(Node a, Node b, Node c);
  void pointwise(cudnnPointwiseMode_t mode, Node x, Node y);
  void pointwise(cudnnPointwiseMode_t mode, Node x, Node b, Node y);
  // y = where ? x : otherwise
  void select(Node where, Node x, Node otherwise, Node y);
  // y = the index of each element along `axis`.
  void index(Node x, int64_t axis, Node y);
  // Over the axes that have length 1, or fewer heads, in y.
  void reduce(cudnnReduceTensorOp_t op, Node x, Node y);
  // The same memory order under other dims.
  void reshape(Node x, Node y);

  // The finished graph. Call it once.
  const Descriptor& finish();

 private:
  Node add(int64_t id, cudnnDataType_t type, const Dims& dims, const Dims& strides, bool is_virtual,
           bool by_value);
  Descriptor& pointwise_operation(cudnnPointwiseMode_t mode, cudnnDataType_t compute, int64_t axis);
  Descriptor& operation(cudnnBackendDescriptorType_t type);
  const Descriptor& at(Node node) const { return tensors_[node.index]; }

  int64_t next_value_ = 1000;  // ids of values; callers' ids are smaller
  std::deque<Descriptor> tensors_, settings_, operations_;
  std::vector<Descriptor> graph_;
};

}  // namespace lockstep::cuda::cudnn
