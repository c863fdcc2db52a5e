// DataIdentity: what a run's data are, as a line that later runs compare with. It is that of the data at the start of the run.
#pragma once

#include <atomic>
#include <future>
#include <memory>
#include <string>

#include "comm/process_group.h"
#include "core/base/clock.h"
#include "train/data/dataset.h"

namespace lockstep::train {

// Used by one thread on each rank, but for matches().
class DataIdentity {
 public:
  // Collective. Compares samples of the ranks' data: UsageError that names two ranks where they differ.
  DataIdentity(Dataset& data, std::shared_ptr<comm::ProcessGroup> group);
  ~DataIdentity();
  DataIdentity(const DataIdentity&) = delete;
  DataIdentity& operator=(const DataIdentity&) = delete;

  // Begins to read all data in the background, where nothing has begun yet: one rank for all that have the very same files.
  void begin();
  // What is known of before: data whose files had this stamp are `identity`. Where this rank's files have it still, nothing needs to
  // be read.
  void recall(const std::string& stamp, const std::string& identity);
  // Whether rank 0's data are those of a saved identity, of this version or an earlier one. May wait until all is read. True on other
  // ranks, whose data text() compares with rank 0's.
  bool matches(const std::string& saved);
  // This rank's, as far as it is known by now.
  std::string now() const;
  // By samples alone, as earlier versions saved it.
  const std::string& sampled() const { return sampled_; }
  // Collective. Whether all is read on all ranks, or is within `limit`.
  bool read_within(Duration limit);

  // Collective. The line; waits until all is read. Throws EnvironmentError where ranks have different data. Where data changed before
  // they were read, it is the samples' line.
  const std::string& text();
  // Of rank 0's files when all was read; empty where a change could leave it as it is, or nothing was read. After text().
  const std::string& stamp() const { return stamp_; }

  // Collective. After get() failed on some rank: reads all data once more. True: they are what they were, and are taken as they are
  // now; false where they differ on any rank, or cannot be compared.
  bool unchanged();

 private:
  struct Found {
    std::string identity;  // empty: the data changed before they were read
    std::string stamp;
  };
  Found found();  // begins, and waits
  bool is_reader() const { return reader_ == group_->rank(); }

  Dataset& data_;
  std::shared_ptr<comm::ProcessGroup> group_;
  std::string sampled_;
  int reader_ = 0;  // the rank that reads what this rank has
  std::atomic<bool> stop_{false};
  std::string text_, stamp_;
  std::shared_future<Found> reading_;  // valid once it has begun
};

}  // namespace lockstep::train
