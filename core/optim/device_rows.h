// DeviceRows: the table of a kernel over many tensors (core/device/kernels.h) in memory of the
// device. It is sent again only when it changed. Not thread-safe.
#pragma once

#include <cstring>
#include <utility>
#include <vector>

#include "core/tensor/tensor.h"

namespace lockstep::optim {

template <class Row>
class DeviceRows {
 public:
  // Takes the rows of the next launch, without their first_piece. `piece`: elements of a piece.
  // Never waits.
  void set(std::vector<Row> rows, int64_t piece, Device device) {
    pieces_ = 0;
    for (Row& row : rows) {
      row.first_piece = pieces_;
      pieces_ += (row.n + piece - 1) / piece;
    }
    if (rows == rows_) return;
    rows_ = std::move(rows);
    if (device != kCpu) send(device);
  }

  const Row* rows() const {
    return there_.defined() ? static_cast<Row*>(there_.raw()) : rows_.data();
  }
  int64_t count() const { return static_cast<int64_t>(rows_.size()); }
  int64_t pieces() const { return pieces_; }

 private:
  static_assert(sizeof(Row) % sizeof(int64_t) == 0);
  void send(Device device) {
    const MemoryScope scope(MemoryCategory::buffers);
    const Shape shape{count() * static_cast<int64_t>(sizeof(Row) / sizeof(int64_t))};
    const Tensor from = Tensor::pinned(shape, DType::i64, device);
    if (count() > 0) std::memcpy(from.raw(), rows_.data(), rows_.size() * sizeof(Row));
    // Launches that are queued still read the table before.
    there_ = Tensor::empty(shape, DType::i64, device);
    there_.copy_later(from);
  }

  std::vector<Row> rows_;
  int64_t pieces_ = 0;
  Tensor there_;  // undefined on a CPU, where the kernels read rows_
};

}  // namespace lockstep::optim
