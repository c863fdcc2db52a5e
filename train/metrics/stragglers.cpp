#include "train/metrics/stragglers.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "core/base/error.h"

namespace lockstep::train {
namespace {

// A rank is slow if it needs so many times as long as the median rank. Beyond the first factor, two
// windows in a row must agree, since machines are never quiet.
constexpr double kSlow = 1.5, kClearlySlow = 3.0;
// Less than this part of a step is not worth a line.
constexpr double kWorthwhile = 0.1;
constexpr int kLongestQuiet = 64;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value < 100 ? "%.1f" : "%.0f", value);
  return text;
}

// The lower one of an even number: of two ranks, the faster one.
template <typename Part>
double median(std::span<const RankTimes> times, const Part& part) {
  std::vector<double> values;
  for (const RankTimes& each : times) values.push_back(part(each));
  const auto middle = values.begin() + (std::ssize(values) - 1) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double own(const RankTimes& times) { return times.own_ms(); }
double data(const RankTimes& times) { return times.data_ms; }
double compute(const RankTimes& times) { return times.compute_ms; }

bool is_data(std::span<const RankTimes> times, int rank) {
  const RankTimes& slow = times[static_cast<size_t>(rank)];
  return slow.data_ms - median(times, data) > slow.compute_ms - median(times, compute);
}

// The slowest rank and its factor; -1 if nobody waits for it.
std::pair<int, double> slowest(std::span<const RankTimes> times) {
  const auto worst = std::max_element(
      times.begin(), times.end(),
      [](const RankTimes& a, const RankTimes& b) { return a.own_ms() < b.own_ms(); });
  const double usual = median(times, own), excess = worst->own_ms() - usual;
  if (usual <= 0 || excess < kWorthwhile * worst->step_ms()) return {-1, 1.0};
  return {static_cast<int>(worst - times.begin()), worst->own_ms() / usual};
}

}  // namespace

void StepTimes::add(const RankTimes& step) {
  if (std::ssize(steps_) == kWindow) steps_.erase(steps_.begin());
  steps_.push_back(step);
}

RankTimes StepTimes::mean() const {
  if (steps_.size() < 2) return {};
  const auto longest = std::max_element(
      steps_.begin(), steps_.end(),
      [](const RankTimes& a, const RankTimes& b) { return a.own_ms() < b.own_ms(); });
  RankTimes sum;
  for (auto step = steps_.begin(); step != steps_.end(); ++step) {
    if (step == longest) continue;
    sum.data_ms += step->data_ms;
    sum.compute_ms += step->compute_ms;
    sum.wait_ms += step->wait_ms;
  }
  const auto count = static_cast<double>(steps_.size() - 1);
  return {sum.data_ms / count, sum.compute_ms / count, sum.wait_ms / count};
}

Stragglers::Stragglers(std::vector<std::string> hosts) : hosts_(std::move(hosts)) {
  if (std::adjacent_find(hosts_.begin(), hosts_.end(), std::not_equal_to<>()) == hosts_.end())
    hosts_.clear();
}

std::string Stragglers::look(int64_t step, std::span<const RankTimes> times) {
  if (times.size() < 2) return "";
  auto [rank, factor] = slowest(times);
  if (factor < kSlow) rank = -1;
  const int suspected = std::exchange(suspect_, rank);
  if (rank < 0) {
    if (told_ < 0 || ++quiet_ < quiet_needed_) return "";
    quiet_needed_ = std::min(2 * quiet_needed_, kLongestQuiet);
    return str("no rank is slow any more (it was ", rank_text(std::exchange(told_, -1)), ")");
  }
  quiet_ = 0;
  if (factor < kClearlySlow && rank != suspected) return "";
  const bool reads = is_data(times, rank);
  if (rank == told_ && reads == told_data_) return "";
  told_ = rank;
  told_data_ = reads;
  return slow_text(step, times, rank);
}

std::string Stragglers::rank_text(int rank) const {
  return hosts_.empty() ? str("rank ", rank)
                        : str("rank ", rank, " on host ", hosts_[static_cast<size_t>(rank)]);
}

std::string Stragglers::slow_text(int64_t step, std::span<const RankTimes> times, int rank) const {
  const RankTimes& slow = times[static_cast<size_t>(rank)];
  const bool reads = is_data(times, rank);
  const double mine = reads ? slow.data_ms : slow.compute_ms,
               usual = reads ? median(times, data) : median(times, compute),
               excess = slow.own_ms() - median(times, own);
  const std::string factor =
      usual > 0.05 ? str(", ", number(mine / usual), " times as long as others") : "";
  return str("warning: ", rank_text(rank), " is slow: ", reads ? "reading data" : "computing",
             " takes it ", number(mine), " ms of a step", factor, " (", number(usual),
             " ms); the other ranks wait for it, ", number(excess), " ms of ",
             number(slow.step_ms()), " ms (the steps up to ", step, ")");
}

}  // namespace lockstep::train
