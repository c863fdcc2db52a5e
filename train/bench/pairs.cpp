#include "train/bench/pairs.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <sstream>

#include "comm/text.h"
#include "core/base/clock.h"
#include "core/base/error.h"

namespace lockstep::train {
namespace {

constexpr int kSmall = 50, kLarge = 6;
constexpr int64_t kLargeBytes = 4 << 20;
// What is worth a word.
constexpr double kClockMs = 100, kSlowLink = 0.3;

int64_t wall_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

void exchange(comm::ProcessGroup& group, const Tensor& tensor, int peer, bool first) {
  if (first) {
    group.send(tensor, peer).wait();
    group.recv(tensor, peer).wait();
  } else {
    group.recv(tensor, peer).wait();
    group.send(tensor, peer).wait();
  }
}

// The side that asks. The other one answers with its clock.
PairFigures ask(comm::ProcessGroup& group, int peer) {
  PairFigures figures{.a = group.rank(), .b = peer};
  const Tensor clock = Tensor::zeros({1}, DType::i64);
  double shortest = INFINITY;
  for (int i = 0; i < kSmall; ++i) {
    const int64_t before = wall_us();
    const auto start = Clock::now();
    exchange(group, clock, peer, /*first=*/true);
    const double took = milliseconds(Clock::now() - start);
    if (took >= shortest) continue;
    shortest = took;
    figures.clock_ahead_ms =
        static_cast<double>(clock.span<int64_t>()[0] - before) / 1e3 - took / 2;
  }
  figures.latency_us = shortest / 2 * 1e3;
  const Tensor large = Tensor::zeros({kLargeBytes}, DType::u8);
  shortest = INFINITY;
  for (int i = 0; i < kLarge; ++i) {
    const auto start = Clock::now();
    exchange(group, large, peer, /*first=*/true);
    shortest = std::min(shortest, milliseconds(Clock::now() - start));
  }
  figures.gb_per_s = static_cast<double>(kLargeBytes) / (shortest / 2 * 1e6);
  return figures;
}

void answer(comm::ProcessGroup& group, int peer) {
  const Tensor clock = Tensor::zeros({1}, DType::i64);
  for (int i = 0; i < kSmall; ++i) {
    group.recv(clock, peer).wait();
    clock.span<int64_t>()[0] = wall_us();
    group.send(clock, peer).wait();
  }
  const Tensor large = Tensor::zeros({kLargeBytes}, DType::u8);
  for (int i = 0; i < kLarge; ++i) exchange(group, large, peer, /*first=*/false);
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

}  // namespace

std::vector<PairFigures> measure_pairs(comm::ProcessGroup& all) {
  comm::ProcessGroup& group = all.host();
  std::ostringstream mine;
  for (int a = 0; a < group.size(); ++a) {
    for (int b = a + 1; b < group.size(); ++b) {
      group.barrier().wait();
      if (group.rank() == b) answer(group, a);
      if (group.rank() != a) continue;
      const PairFigures f = ask(group, b);
      mine << f.a << " " << f.b << " " << f.latency_us << " " << f.gb_per_s << " "
           << f.clock_ahead_ms << "\n";
    }
  }
  std::vector<PairFigures> pairs;
  for (const std::string& text : comm::all_gather_text(group, mine.str())) {
    std::istringstream lines(text);
    for (PairFigures f; lines >> f.a >> f.b >> f.latency_us >> f.gb_per_s >> f.clock_ahead_ms;)
      pairs.push_back(f);
  }
  return pairs;
}

std::vector<std::string> findings(const std::vector<PairFigures>& pairs,
                                  const std::vector<std::string>& hosts) {
  std::vector<std::string> found;
  const auto at = [&](int rank) { return hosts[static_cast<size_t>(rank)]; };
  double best = 0;  // between hosts
  for (const PairFigures& pair : pairs)
    if (at(pair.a) != at(pair.b)) best = std::max(best, pair.gb_per_s);
  for (const PairFigures& pair : pairs) {
    if (at(pair.a) == at(pair.b)) continue;
    if (std::abs(pair.clock_ahead_ms) > kClockMs)
      found.push_back(str("the clock of ", at(pair.b), " is ",
                          number(std::abs(pair.clock_ahead_ms)), " ms ",
                          pair.clock_ahead_ms > 0 ? "ahead of" : "behind", " that of ", at(pair.a),
                          ", so their logs do not line up: apt-get install chrony"));
    if (pair.gb_per_s < kSlowLink * best)
      found.push_back(str("between ", at(pair.a), " and ", at(pair.b), " there are ",
                          number(pair.gb_per_s), " GB/s, and ", number(best),
                          " between the best pair: compare `ethtool` and `ip link` (speed, mtu) "
                          "there, or choose a network with UCX_NET_DEVICES"));
  }
  return found;
}

}  // namespace lockstep::train
