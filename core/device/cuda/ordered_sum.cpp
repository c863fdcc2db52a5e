#include "core/device/cuda/ordered_sum.h"

#include <algorithm>

#include "core/base/error.h"

namespace lockstep::cuda {

SliceOrder::SliceOrder(int slices, const std::vector<std::pair<int, int>>& steps) {
  check(slices >= 1 && slices <= kMostSlices, "[combine_slices] expected 1 to ", kMostSlices,
        " slices, got ", slices);
  std::vector<int> waiting;  // the first slice of each value
  size_t next = 0;
  for (int slice = 0; slice < slices; ++slice) {
    waiting.push_back(slice);
    depth_ = std::max(depth_, static_cast<int>(waiting.size()));
    int adds = 0;
    while (next < steps.size() && waiting.size() > 1 && steps[next].second == waiting.back() &&
           steps[next].first == waiting[waiting.size() - 2]) {
      waiting.pop_back();
      ++next;
      ++adds;
    }
    adds_.push_back(static_cast<uint8_t>(std::min(adds, 255)));
  }
  check(waiting.size() == 1 && next == steps.size(),
        "[combine_slices] expected the steps of a tree over ", slices, " slices");
}

}  // namespace lockstep::cuda
