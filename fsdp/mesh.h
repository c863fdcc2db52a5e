// The groups among which a model is spread, as ranks of a grid: `replicate` rows of `shard` neighbours.
#pragma once

#include <memory>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::fsdp {

// Rank r of the world is at row r / S, column r % S. A row holds the whole model, a slice a rank; rows hold equal slices.
struct Mesh {
  std::shared_ptr<comm::ProcessGroup> world;      // all ranks
  std::shared_ptr<comm::ProcessGroup> shard;      // this row's S ranks
  std::shared_ptr<comm::ProcessGroup> replicate;  // this column's R ranks
  // The ranks among which a unit is gathered again for backward: a part of the row. Null: the row.
  std::shared_ptr<comm::ProcessGroup> nearby;

  int rows() const { return replicate->size(); }
  int columns() const { return shard->size(); }

  // Collective. `columns` = S must divide the number of ranks, `nearby` (0: none) S.
  static Mesh make(std::shared_ptr<comm::ProcessGroup> world, int columns, int nearby = 0);
};

// Which rank computes which of a step's micro-batches, so that all sums between and inside ranks are nodes of one tree over the V
// micro-batches: rows take whole nodes; inside of a row either each round of S neighbouring micro-batches is one a rank, or
// each rank takes a whole node.
struct Assignment {
  std::vector<int64_t> leaves;  // of this rank, in the order of computation
  int64_t rounds = 0;           // backward passes of a step: what the rank of the row with most leaves needs
  // Each round's gradients can be summed over the row at once (S a power of two that divides the row's leaves); otherwise a
  // rank must sum all its leaves first.
  bool by_round = false;
  comm::ReduceTree row_tree;      // over a row's ranks, of one round or of all
  comm::ReduceTree replica_tree;  // over the rows
};

// `interleave`: take rounds where they are possible.
Assignment assign(int64_t micro_batches, const Mesh& mesh, bool interleave);

}  // namespace lockstep::fsdp
