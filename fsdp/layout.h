// FlatLayout: places the parameters of a unit in one flat buffer, of which each rank owns one
// contiguous slice. All slices have the same size.
//
// A slice boundary cuts a parameter only at a multiple of kSquareBlock elements from its start.
// So each block of the gradient norm has one owner, and the norm has the bits of the unsharded
// norm.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lockstep::fsdp {

// The part of one parameter that one rank owns.
struct Piece {
  size_t parameter;          // index into the layout
  int64_t parameter_offset;  // offset of its first element in the flattened parameter
  int64_t slice_offset;      // and in the rank's slice
  int64_t length;            // at least 1
};

class FlatLayout {
 public:
  // numels: the number of elements of each parameter, in order; 0 is allowed. Chooses the smallest
  // slice that fits.
  FlatLayout(std::vector<int64_t> numels, int ranks);

  int ranks() const { return ranks_; }
  int64_t slice() const { return slice_; }           // elements that each rank owns, with padding
  int64_t total() const { return slice_ * ranks_; }  // of the whole buffer
  int64_t offset(size_t parameter) const { return offsets_[parameter]; }
  // What `rank` owns, in order. Empty if it owns only padding.
  std::vector<Piece> pieces(int rank) const;

 private:
  bool place(int64_t slice);

  std::vector<int64_t> numels_;
  std::vector<int64_t> offsets_;
  int ranks_;
  int64_t slice_ = 0;
};

}  // namespace lockstep::fsdp
