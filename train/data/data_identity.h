// DataIdentity: what a run's data are, as a line that later runs compare with. It is that of the
// data at the start of the run.
#pragma once

#include <atomic>
#include <future>
#include <memory>
#include <string>

#include "comm/process_group.h"
#include "core/base/clock.h"
#include "train/data/dataset.h"

namespace lockstep::train {

// What is noted of a run's data, in its checkpoints and for its job.
struct NotedData {
  std::string identity;
  std::string stamp;    // of the files that were so; empty where a change could leave it as it is
  bool unread = false;  // `identity` is of samples alone: not all was read yet
};

enum class SameData : uint8_t {
  yes,
  no,
  // As far as samples tell. All was never read of the noted ones, and the files are others, or were
  // written since.
  by_samples
};
struct DataComparison {
  SameData same = SameData::yes;
  std::string now;  // rank 0's data
};

// Used by one thread on each rank.
class DataIdentity {
 public:
  // Collective. Compares samples of the ranks' data: UsageError that names two ranks where they
  // differ.
  DataIdentity(Dataset& data, std::shared_ptr<comm::ProcessGroup> group);
  ~DataIdentity();
  DataIdentity(const DataIdentity&) = delete;
  DataIdentity& operator=(const DataIdentity&) = delete;

  // Begins to read all data in the background, where nothing has begun yet: one rank for all that
  // have the very same files.
  void begin();
  // Collective. Whether rank 0's data are those that were noted, by this version or an earlier one;
  // `noted` is rank 0's, and where other ranks have it too, their files are recognized as well.
  // Waits until all is read where the files do not have the stamp any more, with signs of life
  // between the ranks. The data of other ranks are compared with rank 0's by text().
  DataComparison compare(const NotedData& noted);
  // What is known of this rank's by now. On rank 0 and after text() its line is that of text().
  NotedData noted() const;
  // By samples alone, as earlier versions saved it.
  const std::string& sampled() const { return sampled_; }
  // Collective. Whether all is read on all ranks, or is within `limit`.
  bool read_within(Duration limit);

  // Collective. The line; waits until all is read. Throws EnvironmentError where ranks have
  // different data. Where data changed before they were read, it is the samples' line.
  const std::string& text();
  // Collective. After get() failed on some rank: reads all data once more. True: they are what they
  // were, and are taken as they are now; false where they differ on any rank, or cannot be
  // compared.
  bool unchanged();

 private:
  struct Found {
    std::string identity;  // empty: the data changed before they were read
    std::string stamp;
  };
  Found found();  // begins, and waits
  // Where this rank's files have that stamp still, their identity is known without reading.
  void recall(const NotedData& noted);
  bool matches(const std::string& identity, const std::atomic<bool>& stop);
  bool wait_for_reading(const std::atomic<bool>& stop);
  bool is_reader() const { return reader_ == group_->rank(); }

  Dataset& data_;
  std::shared_ptr<comm::ProcessGroup> group_;
  std::string first_stamp_;  // at the start; empty where a change could leave it as it is
  std::string sampled_;
  int reader_ = 0;  // the rank that reads what this rank has
  std::atomic<bool> stop_{false};
  std::string text_;
  std::shared_future<Found> reading_;  // valid once it has begun
};

}  // namespace lockstep::train
