// cuDNN recognises attention by the operations and their order, so both are those that its
// documentation lists for fused attention.
#include "core/device/cuda/toolkit/cudnn/attention_graph.h"

#include "core/base/error.h"

namespace lockstep::cuda::cudnn {
namespace {

cudnnDataType_t type_of(DType dtype) {
  check(dtype == DType::bf16 || dtype == DType::f16,
        "[attention] expected bf16 or f16 for cuDNN, got ", dtype);
  return dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
}

Dims swapped(const Dims& dims) { return {dims[0], dims[1], dims[3], dims[2]}; }

// The tensors of both passes, and the parts that they share.
class Builder {
 public:
  explicit Builder(const AttentionShape& shape) : s_(shape), type_(type_of(shape.dtype)) {}

  // [B, H, T, D] in a row of heads with the shape's strides.
  Node heads(int64_t id, int64_t count) {
    return graph->memory(id, type_, {s_.batch, count, s_.time, s_.head_dim}, strides());
  }
  // k or v as [B, H_kv, D, T].
  Node across(int64_t id) {
    return graph->memory(id, type_, swapped({s_.batch, s_.kv_heads, s_.time, s_.head_dim}),
                         swapped(strides()));
  }
  // `out` and its gradient, which are [B, T, H, D] in memory.
  Node result(int64_t id) {
    const int64_t width = s_.heads * s_.head_dim;
    return graph->memory(id, type_, {s_.batch, s_.heads, s_.time, s_.head_dim},
                         {s_.time * width, s_.head_dim, width, 1});
  }
  // f32 for each row of scores.
  Node row_memory(int64_t id) {
    return graph->memory(id, CUDNN_DATA_FLOAT, row_dims(), dense(row_dims()));
  }
  Node row_value() { return graph->value(CUDNN_DATA_FLOAT, row_dims(), dense(row_dims())); }
  // For each query and key.
  Node score_value(cudnnDataType_t type = CUDNN_DATA_FLOAT) {
    return graph->value(type, score_dims(), dense(score_dims()));
  }
  // The scores with queries and keys swapped, rounded for a product. Rows stay as they are in
  // memory.
  Node transposed(Node scores) {
    const Node y = graph->value(type_, swapped(score_dims()), swapped(dense(score_dims())));
    graph->reshape(scores, y);
    return y;
  }

  Node then(cudnnPointwiseMode_t mode, Node x) {
    const Node y = score_value();
    graph->pointwise(mode, x, y);
    return y;
  }
  Node then(cudnnPointwiseMode_t mode, Node x, Node b) {
    const Node y = score_value();
    graph->pointwise(mode, x, b, y);
    return y;
  }
  // q · kᵀ · scale, without what a query does not see.
  Node scores(Node q, Node k_across, Node scale) {
    const Node raw = score_value();
    graph->matmul(q, k_across, raw);
    return then(CUDNN_POINTWISE_MUL, raw, scale);
  }
  Node hide_future(Node x) {
    if (!s_.causal) return x;
    const Node row = score_value(CUDNN_DATA_INT32), column = score_value(CUDNN_DATA_INT32),
               sees = score_value(CUDNN_DATA_BOOLEAN), y = score_value();
    graph->index(x, 2, row);
    graph->index(x, 3, column);
    graph->pointwise(CUDNN_POINTWISE_CMP_GE, row, column, sees);
    graph->select(sees, x, graph->number(kHidden), y);
    return y;
  }
  // dk or dv: the product's sum over the query heads of each group.
  void gradient_of_keys(Node scores, Node rows, int64_t id) {
    const Node y = heads(id, s_.kv_heads);
    if (s_.heads == s_.kv_heads) return graph->matmul(transposed(scores), rows, y);
    const Dims dims{s_.batch, s_.heads, s_.time, s_.head_dim};
    const Node each = graph->value(type_, dims, dense(dims));
    graph->matmul(transposed(scores), rows, each);
    graph->reduce(CUDNN_REDUCE_TENSOR_ADD, each, y);
  }

  const AttentionShape& shape() const { return s_; }
  cudnnDataType_t type() const { return type_; }
  Dims strides() const { return {s_.stride_batch, s_.stride_head, s_.stride_time, 1}; }
  Dims row_dims() const { return {s_.batch, s_.heads, s_.time, 1}; }
  Dims score_dims() const { return {s_.batch, s_.heads, s_.time, s_.time}; }

  std::unique_ptr<Graph> graph = std::make_unique<Graph>();

 private:
  AttentionShape s_;
  cudnnDataType_t type_;
};

}  // namespace

std::unique_ptr<Graph> forward_graph(const AttentionShape& shape) {
  Builder b(shape);
  Graph& graph = *b.graph;
  const Node q = b.heads(kQ, shape.heads), k = b.across(kK), v = b.heads(kV, shape.kv_heads);
  const Node scores = b.hide_future(b.scores(q, k, graph.number(kScale)));
  const Node largest = b.row_value(), sum = b.row_value(), log_sum = b.row_value();
  graph.reduce(CUDNN_REDUCE_TENSOR_MAX, scores, largest);
  const Node weights = b.then(CUDNN_POINTWISE_EXP, b.then(CUDNN_POINTWISE_SUB, scores, largest));
  graph.reduce(CUDNN_REDUCE_TENSOR_ADD, weights, sum);
  graph.pointwise(CUDNN_POINTWISE_LOG, sum, log_sum);
  graph.pointwise(CUDNN_POINTWISE_ADD, largest, log_sum, b.row_memory(kLse));
  const Node shares = b.score_value(b.type());
  graph.pointwise(CUDNN_POINTWISE_DIV, weights, sum, shares);
  graph.matmul(shares, v, b.result(kOut));
  return std::move(b.graph);
}

// The product for dq is one of its own, over the gradients of all scores in cuDNN's workspace. The
// form that adds up dq beside dk and dv is not deterministic.
std::unique_ptr<Graph> backward_graph(const AttentionShape& shape) {
  Builder b(shape);
  Graph& graph = *b.graph;
  const Node q = b.heads(kQ, shape.heads), k = b.across(kK), v = b.across(kV),
             dout = b.result(kDout), scale = graph.number(kScale);
  // delta = Σ out·dout over each row.
  const Dims dims{shape.batch, shape.heads, shape.time, shape.head_dim};
  const Node products = graph.value(CUDNN_DATA_FLOAT, dims, dense(dims)),
             delta = b.row_memory(kDelta);
  graph.pointwise(CUDNN_POINTWISE_MUL, dout, b.result(kOut), products);
  graph.reduce(CUDNN_REDUCE_TENSOR_ADD, products, delta);
  // weights = exp(score − lse)
  const Node shifted = b.then(CUDNN_POINTWISE_SUB, b.scores(q, k, scale), b.row_memory(kLse));
  const Node weights = b.then(CUDNN_POINTWISE_EXP, b.hide_future(shifted));
  b.gradient_of_keys(weights, dout, kDv);
  // dscores = weights · (dout·vᵀ − delta) · scale
  const Node dweights = b.score_value();
  graph.matmul(dout, v, dweights);
  const Node dscores = b.score_value(b.type());
  graph.pointwise(
      CUDNN_POINTWISE_MUL,
      b.then(CUDNN_POINTWISE_MUL, b.then(CUDNN_POINTWISE_SUB, dweights, delta), weights), scale,
      dscores);
  b.gradient_of_keys(dscores, q, kDk);
  const Node keys =
      graph.value(b.type(), {shape.batch, shape.kv_heads, shape.time, shape.head_dim}, b.strides());
  graph.reshape(k, keys);
  graph.matmul(dscores, keys, b.heads(kDq, shape.heads));
  return std::move(b.graph);
}

namespace {

// Compute capability 10 has a deterministic engine of its own that cuDNN 9 does not suggest before
// those for 8.0. NVIDIA's cudnn-frontend names its settings for these versions.
std::optional<EngineChoice> backward_engine(const DeviceDescription& device) {
  constexpr size_t kFrom = 91800, kTo = 92300;
  const size_t version = api().version();
  if (version < kFrom || version >= kTo || device.compute_capability() / 10 != 10)
    return std::nullopt;
  return EngineChoice{.engine = 5,
                      .knobs = {{CUDNN_KNOB_TYPE_KERNEL_CFG, 31}, {CUDNN_KNOB_TYPE_STAGES, 2}}};
}

}  // namespace

Plan attention_plan(AttentionPass pass, const AttentionShape& shape,
                    const DeviceDescription& device) {
  if (pass == AttentionPass::forward) return Plan::build(forward_graph(shape)->finish(), device);
  return Plan::build(backward_graph(shape)->finish(), device, backward_engine(device));
}

}  // namespace lockstep::cuda::cudnn
