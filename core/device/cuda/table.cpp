#include "core/device/cuda/entries.h"

namespace lockstep::cuda {

const Kernels& kernel_table() {
  static const Kernels table{
      .copy = copy,
      .fill = fill,
      .copy_bytes = copy_bytes,
      .unary = unary,
      .unary_backward = unary_backward,
      .binary = binary,
      .axpby = axpby,
      .reduce = reduce,
      .argmax = argmax,
      .square_sums = square_sums,
      .square_sums_many = square_sums_many,
      .gemm = gemm,
      .sum_rows = sum_rows,
      .linear_gradients = linear_gradients,
      .attention = attention,
      .attention_backward = attention_backward,
      .softmax = softmax,
      .softmax_backward = softmax_backward,
      .layer_norm = layer_norm,
      .layer_norm_backward = layer_norm_backward,
      .rms_norm = rms_norm,
      .rms_norm_backward = rms_norm_backward,
      .cross_entropy = cross_entropy,
      .cross_entropy_backward = cross_entropy_backward,
      .embedding = embedding,
      .embedding_backward = embedding_backward,
      .uniform = uniform,
      .normal = normal,
      .dropout = dropout,
      .adamw = adamw,
      .sgd = sgd,
      .adamw_many = adamw_many,
      .sgd_many = sgd_many,
      .close_step = close_step,
  };
  return table;
}

}  // namespace lockstep::cuda
