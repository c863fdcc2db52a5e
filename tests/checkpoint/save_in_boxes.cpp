// save_in_boxes FROM DIR ROWS COLUMNS: saves a checkpoint again, below DIR, from as many ranks as
// there are cells. Each rank holds one cell of every tensor. The checkpoint of version 4 in
// restore/testdata was made with 1 row and 2 columns of the one of version 3.
#include <cstdio>
#include <cstdlib>

#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

void save_in_boxes(const std::string& from, const std::string& dir, int rows, int columns) {
  const Checkpoint saved = Checkpoint::open(from);
  with_ranks(rows * columns, [&](comm::ProcessGroup& group) {
    std::vector<Entry> entries;
    for (const auto& [name, stored] : saved.manifest().entries) {
      const ShardSpec cell = cell_of(stored.shape, group.rank(), rows, columns);
      entries.emplace_back(name, Tensor::empty(cell.shape(), stored.dtype), cell);
    }
    saved.read(entries);
    save({.dir = dir,
          .step = saved.step(),
          .entries = entries,
          .metadata = saved.metadata(),
          .group = &group});
  });
}

}  // namespace
}  // namespace lockstep::checkpoint

int main(int argc, char** argv) try {
  if (argc != 5) {
    std::fprintf(stderr, "usage: save_in_boxes FROM DIR ROWS COLUMNS\n");
    return 2;
  }
  lockstep::checkpoint::save_in_boxes(argv[1], argv[2], std::atoi(argv[3]), std::atoi(argv[4]));
} catch (const std::exception& e) {
  std::fprintf(stderr, "save_in_boxes: %s\n", e.what());
  return 1;
}
