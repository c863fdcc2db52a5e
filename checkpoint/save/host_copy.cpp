#include "checkpoint/save/host_copy.h"

#include <algorithm>
#include <cstring>

#include "core/base/parallel.h"

namespace lockstep::checkpoint {

void copy_to_host(const std::vector<Tensor>& from, const std::vector<Tensor>& to,
                  DeviceCopies& copies) {
  constexpr int64_t kPiece = 4 << 20;
  struct Piece {
    const char* from;
    char* to;
    int64_t bytes;
  };
  std::vector<Piece> pieces;
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i].device() != kCpu) {
      copies.start(to[i], from[i]);
      continue;
    }
    for (int64_t at = 0; at < from[i].bytes(); at += kPiece)
      pieces.push_back({static_cast<const char*>(from[i].raw()) + at,
                        static_cast<char*>(to[i].raw()) + at,
                        std::min(kPiece, from[i].bytes() - at)});
  }
  parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    std::memcpy(piece.to, piece.from, static_cast<size_t>(piece.bytes));
  });
}

}  // namespace lockstep::checkpoint
