// DataIdentity: identifies a run's data by a line that later runs compare. The line describes the
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

// What checkpoints and job notes record of a run's data.
struct NotedData {
  std::string identity;
  // Stamp of the files with this identity. Empty if a change could leave the stamp unchanged.
  std::string stamp;
  // `identity` covers samples only: not all data were read yet.
  bool unread = false;
};

enum class SameData : uint8_t {
  yes,
  no,
  // Equal in the samples. The noted data were never read completely, and the files are others or
  // were written since.
  by_samples
};
struct DataComparison {
  SameData same = SameData::yes;
  std::string now;  // rank 0's data
};

// Used by one thread on each rank.
class DataIdentity {
 public:
  // Collective. Compares samples of the ranks' data. Throws UsageError that names two ranks if they
  // differ.
  DataIdentity(Dataset& data, std::shared_ptr<comm::ProcessGroup> group);
  ~DataIdentity();
  DataIdentity(const DataIdentity&) = delete;
  DataIdentity& operator=(const DataIdentity&) = delete;

  // Starts to read all data in the background, unless that has started. One rank reads for all
  // ranks that have exactly the same files.
  void begin();
  // Collective. Whether rank 0's data are the noted ones, noted by this version or an earlier one.
  // `noted` is rank 0's. Other ranks that also have it recognize their files by it. If the files no
  // longer have the stamp, waits until all is read; ranks exchange signs of life meanwhile. text()
  // compares the data of the other ranks with rank 0's.
  DataComparison compare(const NotedData& noted);
  // What is known of this rank's data by now. On rank 0, after text(), its line is that of text().
  NotedData noted() const;
  // The identity by samples alone, as earlier versions saved it.
  const std::string& sampled() const { return sampled_; }
  // Collective. Whether all ranks have read everything, or do so within `limit`.
  bool read_within(Duration limit);

  // Collective. The line. Waits until all is read. Throws EnvironmentError if ranks have different
  // data. If data changed before they were read, the line covers samples only.
  const std::string& text();
  // Collective. Call after get() failed on some rank. Reads all data again. True: the data are what
  // they were, and are accepted as they are now. False: they differ on some rank, or cannot be
  // compared.
  bool unchanged();

 private:
  struct Found {
    std::string identity;  // empty: the data changed before they were read
    std::string stamp;
  };
  Found found();  // starts reading and waits
  // If this rank's files still have that stamp, their identity is known without reading.
  void recall(const NotedData& noted);
  bool matches(const std::string& identity, const std::atomic<bool>& stop);
  bool wait_for_reading(const std::atomic<bool>& stop);
  bool is_reader() const { return reader_ == group_->rank(); }

  Dataset& data_;
  std::shared_ptr<comm::ProcessGroup> group_;
  // Stamp at the start. Empty if a change could leave it unchanged.
  std::string first_stamp_;
  std::string sampled_;
  int reader_ = 0;  // the rank that reads this rank's data
  std::atomic<bool> stop_{false};
  std::string text_;
  std::shared_future<Found> reading_;  // valid once reading has started
};

}  // namespace lockstep::train
