#include "core/ops/common.h"
#include "core/ops/functions.h"

namespace lockstep::ops {

Variable embedding(const Tensor& ids, const Variable& table) {
  check(table.defined() && table.dtype() == DType::f32 && table.data().dim() == 2,
        "[embedding] expected a table f32[vocab, n], got ",
        table.defined() ? table.data() : Tensor());
  check(ids.defined() && ids.device() == table.device(), "[embedding] expected ids on ",
        table.device());
  const int64_t vocab = table.data().size(0), width = table.data().size(1);
  const Tensor rows = checked_ids("embedding", ids, vocab);
  const Tensor values = table.data().contiguous();
  Shape shape = ids.shape();
  shape.push_back(width);
  Tensor y = Tensor::empty(shape, PrecisionScope::current(), table.device());
  kernels_of(y).embedding(queue_of(y), y.dtype(), rows.numel(), width, vocab, values.data<float>(),
                          rows.data<int32_t>(), y.raw());
  return record("embedding", std::move(y), {table, Variable(ids)},
                [saved = SavedTensor("embedding", "its ids", rows), vocab, width](const Tensor& g,
                                                                                  const Node& n) {
                  const Tensor& at = saved.get();
                  n.edge(0).write([&](const Tensor& dtable, bool accumulate) {
                    kernels_of(g).embedding_backward(queue_of(g), g.dtype(), at.numel(), width,
                                                     vocab, at.data<int32_t>(), g.raw(),
                                                     dtable.data<float>(), accumulate);
                  });
                });
}

}  // namespace lockstep::ops
