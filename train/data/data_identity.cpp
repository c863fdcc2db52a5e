#include "train/data/data_identity.h"

#include <algorithm>
#include <utility>

#include "comm/long_agreement.h"
#include "comm/text.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/number_text.h"
#include "core/base/thread.h"

namespace lockstep::train {

DataIdentity::DataIdentity(Dataset& data, std::shared_ptr<comm::ProcessGroup> group)
    : data_(data),
      group_(std::move(group)),
      first_stamp_(data.settled() ? data.stamp() : ""),
      sampled_(data.sampled_identity()) {
  comm::check_same_lines(*group_, sampled_, "[data] the ranks have different data",
                         "data.path must lead to the same bytes on every host");
  const std::string mine = data_.stamp();
  if (comm::is_same_text(*group_, mine)) return;  // usual on one host: rank 0 reads for all
  const std::vector<std::string> stamps = comm::all_gather_text(*group_, mine);
  reader_ = static_cast<int>(std::find(stamps.begin(), stamps.end(), mine) - stamps.begin());
}

DataIdentity::~DataIdentity() { stop_ = true; }  // the future's destructor waits

void DataIdentity::begin() {
  if (!is_reader() || reading_.valid()) return;
  const auto read = [this] {
    Found found;
    try {
      const bool settled = data_.settled();
      found.identity = data_.identity(stop_);
      if (settled) found.stamp = data_.stamp();
    } catch (const EnvironmentError&) {  // Dataset::get() reports it, if a step needs that part
    }
    return found;
  };
  try {
    reading_ = start_async("to read the data in the background", read).share();
  } catch (const EnvironmentError& e) {
    log::warn("training waits until all data are read: ", e.what());
    std::promise<Found> done;
    done.set_value(read());
    reading_ = done.get_future().share();
  }
}

DataIdentity::Found DataIdentity::found() {
  begin();
  return is_reader() ? reading_.get() : Found{};
}

void DataIdentity::recall(const NotedData& noted) {
  if (!is_reader() || reading_.valid() || noted.unread || noted.stamp.empty() ||
      noted.stamp != data_.stamp())
    return;
  std::promise<Found> known;
  known.set_value({noted.identity, noted.stamp});
  reading_ = known.get_future().share();
}

// Rank 0 compares its own data.
bool DataIdentity::matches(const std::string& identity, const std::atomic<bool>& stop) {
  if (identity == sampled_) return true;
  begin();
  if (reading_.wait_for(std::chrono::seconds(1)) != std::future_status::ready)
    log::info("reading ", size_text(static_cast<double>(data_.bytes())),
              " of data, to compare them with the earlier data: files were replaced or "
              "written since");
  return wait_for_reading(stop) && identity == found().identity;
}

// Returns false if `stop` became true first: another rank has failed, so the result is useless.
bool DataIdentity::wait_for_reading(const std::atomic<bool>& stop) {
  constexpr auto kLookAgain = std::chrono::milliseconds(100);
  while (reading_.wait_for(kLookAgain) != std::future_status::ready)
    if (stop) return false;
  return true;
}

DataComparison DataIdentity::compare(const NotedData& noted) {
  recall(noted);
  const std::string text =
      comm::agree_on_long_work(group_.get(), [&](const std::atomic<bool>& stop) -> std::string {
        if (group_->rank() != 0) return "";
        const bool same = noted.unread ? noted.identity == sampled_ : matches(noted.identity, stop);
        const bool proven = !noted.unread || (!noted.stamp.empty() && noted.stamp == data_.stamp());
        return str(!same ? 'n' : proven ? 'y' : 's', this->noted().identity);
      })[0];
  return {.same = text[0] == 'n'   ? SameData::no
                  : text[0] == 's' ? SameData::by_samples
                                   : SameData::yes,
          .now = text.substr(1)};
}

NotedData DataIdentity::noted() const {
  const bool ready =
      reading_.valid() && reading_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  const Found known = ready ? reading_.get() : Found{};
  const bool other_rank_unread = text_ == sampled_ && known.identity != sampled_;
  if (known.identity.empty() || other_rank_unread)
    return {.identity = sampled_, .stamp = first_stamp_, .unread = true};
  return {.identity = known.identity, .stamp = known.stamp, .unread = false};
}

bool DataIdentity::read_within(Duration limit) {
  begin();
  const bool mine = !is_reader() || reading_.wait_for(limit) == std::future_status::ready;
  const Tensor all = Tensor::full({1}, mine ? 1 : 0, DType::i32);
  group_->host().all_reduce(all, {.op = comm::ReduceOp::min}).wait();
  return all.item() != 0;
}

const std::string& DataIdentity::text() {
  if (!text_.empty()) return text_;
  // Ranks exchange signs of life meanwhile, because reading may take long.
  const auto texts = comm::agree_on_long_work(group_.get(), [&](const std::atomic<bool>& stop) {
    if (!is_reader()) return std::string();
    begin();
    // The line feed tells "found nothing" from "did not read".
    return wait_for_reading(stop) ? found().identity + "\n" : "\n";
  });
  bool known = true;
  std::string differing;
  const std::string first = texts[0].substr(0, texts[0].find('\n'));
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    if (texts[rank].empty()) continue;
    const std::string identity = texts[rank].substr(0, texts[rank].find('\n'));
    known = known && !identity.empty();
    if (differing.empty() && identity != first)
      differing = str("rank 0 has '", first, "', rank ", rank, " has '", identity, "'");
  }
  if (known && !differing.empty())
    throw EnvironmentError(str("[data] the ranks have trained on different data: ", differing,
                               "; data.path must lead to the same bytes on every host. Nothing was "
                               "saved of this run's steps"));
  text_ = known ? first : sampled_;
  return text_;
}

bool DataIdentity::unchanged() {
  const std::string before = text();
  const auto texts =
      comm::agree_on_long_work(group_.get(), [&](const std::atomic<bool>& stop) -> std::string {
        try {
          data_.accept_files();
          return before != sampled_ && data_.identity(stop) == before ? "" : "changed";
        } catch (const std::exception& e) {
          return e.what();
        }
      });
  return std::all_of(texts.begin(), texts.end(),
                     [](const std::string& text) { return text.empty(); });
}

}  // namespace lockstep::train
