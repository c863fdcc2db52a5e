#include "core/ops/common.h"
#include "core/ops/functions.h"

namespace lockstep::ops {

Variable cross_entropy(const Variable& logits, const Tensor& targets, int32_t ignore_index) {
  check_floating("cross_entropy", logits);
  check(logits.data().dim() >= 1 && logits.data().size(-1) > 0,
        "[cross_entropy] expected logits [..., V] with V > 0, got ", logits.data());
  Shape wanted = logits.shape();
  wanted.erase(wanted.size() - 1);
  check(targets.defined() && targets.shape() == wanted && targets.device() == logits.device(),
        "[cross_entropy] expected targets of shape ", wanted, " on the logits' device, got ",
        targets);
  const Tensor rows = as_rows(logits.data());
  const Tensor classes = checked_ids("cross_entropy", targets, rows.size(1), &ignore_index);
  const Tensor loss = Tensor::empty({}, DType::f32, rows.device()),
               lse = Tensor::empty({rows.size(0)}, DType::f32, rows.device()),
               counted = Tensor::empty({1}, DType::i64, rows.device());
  kernels_of(rows).cross_entropy(queue_of(rows), rows.dtype(), rows.size(0), rows.size(1),
                                 rows.raw(), classes.data<int32_t>(), ignore_index,
                                 loss.data<float>(), lse.data<float>(), counted.data<int64_t>());
  const SavedTensor saved_rows("cross_entropy", logits, rows),
      saved_classes("cross_entropy", "its targets", classes);
  return record(
      "cross_entropy", loss, {logits, Variable(targets)},
      [saved_rows, saved_classes, lse, counted, ignore_index](const Tensor& g, const Node& n) {
        const Tensor &x = saved_rows.get(), &target = saved_classes.get();
        overwrite(n.edge(0), [&](const Tensor& dlogits) {
          kernels_of(x).cross_entropy_backward(queue_of(x), x.dtype(), x.size(0), x.size(1),
                                               x.raw(), target.data<int32_t>(), ignore_index,
                                               lse.data<float>(), counted.data<int64_t>(),
                                               g.data<float>(), dlogits.raw());
        });
      });
}

}  // namespace lockstep::ops
