// FlatLayout: where the parameters of a unit lie in one flat buffer that ranks own in equal,
// contiguous slices.
//
// A slice boundary cuts a parameter only at a multiple of kSquareBlock elements from its start, so
// that each block of the gradient norm has one owner and the norm has the bits of the unsharded
// one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lockstep::fsdp {

// The part of one parameter that one rank owns.
struct Piece {
  size_t parameter;          // index into the layout
  int64_t parameter_offset;  // of its first element in the flattened parameter
  int64_t slice_offset;      // and in the rank's slice
  int64_t length;            // at least 1
};

class FlatLayout {
 public:
  // numels: elements of each parameter, in order; 0 is allowed. Takes the smallest slice that holds
  // them.
  FlatLayout(std::vector<int64_t> numels, int ranks);

  int ranks() const { return ranks_; }
  int64_t slice() const { return slice_; }  // elements that each rank owns; padding included
  int64_t total() const { return slice_ * ranks_; }  // of the whole buffer
  int64_t offset(size_t parameter) const { return offsets_[parameter]; }
  // What `rank` owns, in order; empty where it owns padding alone.
  std::vector<Piece> pieces(int rank) const;

 private:
  bool place(int64_t slice);

  std::vector<int64_t> numels_;
  std::vector<int64_t> offsets_;
  int ranks_;
  int64_t slice_ = 0;
};

}  // namespace lockstep::fsdp
