#include "train/data/data_identity.h"

#include <algorithm>
#include <utility>

#include "checkpoint/long_agreement.h"
#include "comm/text.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/thread.h"

namespace lockstep::train {

DataIdentity::DataIdentity(Dataset& data, std::shared_ptr<comm::ProcessGroup> group)
    : data_(data), group_(std::move(group)), sampled_(data.sampled_identity()) {
  comm::check_same_lines(*group_, sampled_, "[data] the ranks have different data", "data.path must lead to the same bytes on every host");
  const std::vector<std::string> stamps = comm::all_gather_text(*group_, data_.stamp());
  const std::string& mine = stamps[static_cast<size_t>(group_->rank())];
  reader_ = static_cast<int>(std::find(stamps.begin(), stamps.end(), mine) - stamps.begin());
}

DataIdentity::~DataIdentity() { stop_ = true; }  // the future waits

void DataIdentity::begin() {
  if (!is_reader() || reading_.valid()) return;
  const auto read = [this] {
    Found found;
    try {
      const bool settled = data_.settled();
      found.identity = data_.identity(stop_);
      if (settled) found.stamp = data_.stamp();
    } catch (const EnvironmentError&) {  // Dataset::get() says it, if the step needs what changed
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

void DataIdentity::recall(const std::string& stamp, const std::string& identity) {
  if (!is_reader() || reading_.valid() || stamp.empty() || stamp != data_.stamp()) return;
  std::promise<Found> known;
  known.set_value({identity, stamp});
  reading_ = known.get_future().share();
}

bool DataIdentity::matches(const std::string& saved) {
  if (group_->rank() != 0 || saved == sampled_) return true;
  begin();
  if (is_reader() && reading_.wait_for(std::chrono::seconds(1)) != std::future_status::ready)
    log::info("reading all data, to compare them with those of the checkpoint");
  return saved == found().identity;
}

std::string DataIdentity::now() const {
  const bool read = reading_.valid() && reading_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  return read && !reading_.get().identity.empty() ? reading_.get().identity : sampled_;
}

bool DataIdentity::read_within(Duration limit) {
  begin();
  const bool mine = !is_reader() || reading_.wait_for(limit) == std::future_status::ready;
  const Tensor all = Tensor::full({1}, mine ? 1 : 0, DType::i32);
  group_->all_reduce(all, {.op = comm::ReduceOp::min}).wait();
  return all.item() != 0;
}

const std::string& DataIdentity::text() {
  if (!text_.empty()) return text_;
  // Signs of life go between the ranks meanwhile: the data may be large.
  const auto texts = checkpoint::agree_on_long_work(group_.get(), [&](const std::atomic<bool>&) {
    if (!is_reader()) return std::string();
    const Found all = found();
    return all.identity + "\n" + all.stamp;
  });
  bool known = true;
  std::string differing;
  const std::string first = texts[0].substr(0, texts[0].find('\n'));
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    if (texts[rank].empty()) continue;
    const std::string identity = texts[rank].substr(0, texts[rank].find('\n'));
    known = known && !identity.empty();
    if (differing.empty() && identity != first) differing = str("rank 0 has '", first, "', rank ", rank, " has '", identity, "'");
  }
  if (known && !differing.empty())
    throw EnvironmentError(str("[data] the ranks have trained on different data: ", differing,
                               "; data.path must lead to the same bytes on every host. Nothing was saved of this run's steps"));
  text_ = known ? first : sampled_;
  if (known) stamp_ = texts[0].substr(first.size() + 1);
  return text_;
}

bool DataIdentity::unchanged() {
  const std::string before = text();
  const auto texts = checkpoint::agree_on_long_work(group_.get(), [&](const std::atomic<bool>& stop) -> std::string {
    try {
      data_.accept_files();
      return before != sampled_ && data_.identity(stop) == before ? "" : "changed";
    } catch (const std::exception& e) {
      return e.what();
    }
  });
  return std::all_of(texts.begin(), texts.end(), [](const std::string& text) { return text.empty(); });
}

}  // namespace lockstep::train
