#include "core/device/cuda/toolkit/cudnn/graph.h"

namespace lockstep::cuda::cudnn {
namespace {

constexpr int64_t kAlignment = 16;
constexpr int64_t kNoAxis = -1;

// Comparisons compute truth values; all else computes in f32.
bool compares(cudnnPointwiseMode_t mode) {
  return mode >= CUDNN_POINTWISE_CMP_EQ && mode <= CUDNN_POINTWISE_CMP_LE;
}

}  // namespace

Dims dense(const Dims& dims) {
  return {dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1};
}

Node Graph::add(int64_t id, cudnnDataType_t type, const Dims& dims, const Dims& strides,
                bool is_virtual, bool by_value) {
  Descriptor& tensor = tensors_.emplace_back(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  tensor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
  tensor.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
  tensor.set(CUDNN_ATTR_TENSOR_DIMENSIONS, dims.data(), dims.size());
  tensor.set(CUDNN_ATTR_TENSOR_STRIDES, strides.data(), strides.size());
  tensor.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignment);
  tensor.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, is_virtual);
  tensor.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, by_value);
  tensor.finalize("describing a tensor");
  return {tensors_.size() - 1};
}

Node Graph::memory(int64_t id, cudnnDataType_t type, const Dims& dims, const Dims& strides) {
  return add(id, type, dims, strides, false, false);
}
Node Graph::number(int64_t id) {
  return add(id, CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}, false, true);
}
Node Graph::value(cudnnDataType_t type, const Dims& dims, const Dims& strides) {
  return add(next_value_++, type, dims, strides, true, false);
}

Descriptor& Graph::operation(cudnnBackendDescriptorType_t type) {
  return operations_.emplace_back(type);
}

void Graph::matmul(Node a, Node b, Node c) {
  Descriptor& settings = settings_.emplace_back(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  settings.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  settings.finalize("describing a product");
  Descriptor& op = operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, settings);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, at(a));
  op.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, at(b));
  op.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, at(c));
  op.finalize("adding a product to a graph");
}

Descriptor& Graph::pointwise_operation(cudnnPointwiseMode_t mode, cudnnDataType_t compute,
                                       int64_t axis) {
  Descriptor& settings = settings_.emplace_back(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  settings.set(CUDNN_ATTR_POINTWISE_MODE, mode);
  settings.set(CUDNN_ATTR_POINTWISE_MATH_PREC, compute);
  if (axis != kNoAxis) settings.set(CUDNN_ATTR_POINTWISE_AXIS, axis);
  settings.finalize("describing an operation by element");
  Descriptor& op = operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, settings);
  return op;
}

void Graph::pointwise(cudnnPointwiseMode_t mode, Node x, Node y) {
  Descriptor& op = pointwise_operation(mode, CUDNN_DATA_FLOAT, kNoAxis);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, at(x));
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at(y));
  op.finalize("adding an operation by element to a graph");
}

void Graph::pointwise(cudnnPointwiseMode_t mode, Node x, Node b, Node y) {
  Descriptor& op =
      pointwise_operation(mode, compares(mode) ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT, kNoAxis);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, at(x));
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, at(b));
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at(y));
  op.finalize("adding an operation by element to a graph");
}

void Graph::select(Node where, Node x, Node otherwise, Node y) {
  Descriptor& op = pointwise_operation(CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, kNoAxis);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, at(x));
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, at(otherwise));
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, at(where));
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at(y));
  op.finalize("adding a choice to a graph");
}

void Graph::index(Node x, int64_t axis, Node y) {
  Descriptor& op = pointwise_operation(CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, axis);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, at(x));
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at(y));
  op.finalize("adding an index to a graph");
}

void Graph::reduce(cudnnReduceTensorOp_t reduction, Node x, Node y) {
  Descriptor& settings = settings_.emplace_back(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  settings.set(CUDNN_ATTR_REDUCTION_OPERATOR, reduction);
  settings.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  settings.finalize("describing a reduction");
  Descriptor& op = operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, settings);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, at(x));
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, at(y));
  op.finalize("adding a reduction to a graph");
}

void Graph::reshape(Node x, Node y) {
  Descriptor& op = operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, at(x));
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, at(y));
  op.finalize("adding a change of shape to a graph");
}

const Descriptor& Graph::finish() {
  std::vector<cudnnBackendDescriptor_t> operations;
  for (const Descriptor& op : operations_) operations.push_back(op.handle());
  Descriptor& graph = graph_.emplace_back(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations.data(), operations.size());
  graph.finalize("building a graph");
  return graph;
}

}  // namespace lockstep::cuda::cudnn
