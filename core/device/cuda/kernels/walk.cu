#include <limits>

#include "core/device/cuda/kernels/walk.h"

namespace lockstep::cuda {
namespace {

struct Dimension {
  int64_t size;
  int64_t strides[Walk::kViews];
};

// Stride of `view` along dimension d of `shape`. 0 if the view repeats.
int64_t stride_along(const StridedView& view, const Shape& shape, int d) {
  const int own = d - (shape.size() - view.shape.size());
  if (own < 0 || (view.shape[own] == 1 && shape[d] != 1)) return 0;
  return view.strides[own];
}

// Whether one step of `outer` passes over exactly all of `inner` in every view.
bool steps_over(const Dimension& outer, const Dimension& inner) {
  for (int v = 0; v < Walk::kViews; ++v)
    if (outer.strides[v] != inner.strides[v] * inner.size) return false;
  return true;
}

}  // namespace

Walk Walk::of(std::initializer_list<const StridedView*> views) {
  const Shape& shape = (*views.begin())->shape;
  Dimension dimensions[Shape::kMaxDims];
  int count = 0;
  Walk walk;
  for (int d = 0; d < shape.size(); ++d) {
    if (shape[d] == 0) walk.rows = 0;
    if (shape[d] == 1) continue;
    Dimension next{shape[d], {}};
    int v = 0;
    for (const StridedView* view : views) next.strides[v++] = stride_along(*view, shape, d);
    int at = count++;
    for (; at > 0 && dimensions[at - 1].strides[0] < next.strides[0]; --at)
      dimensions[at] = dimensions[at - 1];
    dimensions[at] = next;
  }
  if (walk.rows == 0) return walk;
  int merged = 0;
  for (int d = 0; d < count; ++d) {
    if (merged > 0 && steps_over(dimensions[merged - 1], dimensions[d])) {
      const int64_t size = dimensions[merged - 1].size * dimensions[d].size;
      dimensions[merged - 1] = dimensions[d];
      dimensions[merged - 1].size = size;
    } else {
      dimensions[merged++] = dimensions[d];
    }
  }
  for (int d = 0; d < merged; ++d) {
    const bool last = d == merged - 1;
    if (last)
      walk.row = dimensions[d].size;
    else
      walk.rows *= dimensions[d].size;
    walk.sizes[d] = Divider(dimensions[d].size);
    for (int v = 0; v < kViews; ++v)
      (last ? walk.row_strides[v] : walk.strides[v][d]) = dimensions[d].strides[v];
  }
  walk.dims = std::max(0, merged - 1);
  walk.small = walk.rows * walk.row <= std::numeric_limits<uint32_t>::max();
  return walk;
}

}  // namespace lockstep::cuda
