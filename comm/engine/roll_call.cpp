#include "comm/engine/roll_call.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include <sys/stat.h>
#include <unistd.h>

#include "comm/engine/process_look.h"
#include "comm/peer_failure.h"
#include "comm/ranks_text.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::comm {
namespace {

// How long to wait before the first look at the ranks that have not come, and how long at most
// between two.
constexpr Duration kFirstLook = std::chrono::milliseconds(50);
constexpr Duration kLook = std::chrono::milliseconds(400);
// How many ranks a look asks the store for, in turn.
constexpr int kAskedAtOnce = 8;
constexpr size_t kMostToSay = size_t{32} << 10;

constexpr const char* kRoll = "roll";  // all that the ranks say, or why they do not
constexpr const char* kRead = "read";  // how many have read it
constexpr char kWell = '+', kBadly = '-';

std::string to_hex(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    text += kDigits[static_cast<unsigned char>(c) >> 4];
    text += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return text;
}

std::optional<std::string> from_hex(std::string_view text) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  if (text.size() % 2 != 0 || text.size() / 2 > kMostToSay) return std::nullopt;
  std::string bytes;
  for (size_t i = 0; i < text.size(); i += 2) {
    const int high = digit(text[i]), low = digit(text[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    bytes += static_cast<char>(16 * high + low);
  }
  return bytes;
}

// One line a rank. What is said comes last, for it may be empty.
std::string line_of(int rank, const Attendant& a) {
  return str(rank, ' ', a.pid, ' ', a.processes, ' ', a.network, ' ', a.host, ' ', to_hex(a.says),
             '\n');
}

uint64_t inode_of(const char* path) {
  struct stat file {};
  return ::stat(path, &file) == 0 ? file.st_ino : 0;
}

class RollCall {
 public:
  RollCall(Store& place, int rank, int size, const Limit& limit, std::string_view what)
      : place_(place), rank_(rank), size_(size), limit_(limit), what_(what) {}

  std::vector<Attendant> run(const Attendant& mine) {
    try {
      own_processes_ = mine.processes;
      // First of all: from here on the others can see whether this process lives.
      place_.set(here(rank_), line_of(rank_, mine));
      const auto all = parse(exchange(line_of(rank_, mine)));
      leave();
      return all;
    } catch (const std::exception& e) {
      tell_others(e.what());
      throw;
    }
  }

 private:
  static std::string here(int r) { return str("here-", r); }
  static std::string part(int r) { return str("part-", r); }

  // What all say, a line each, in any order.
  std::string exchange(std::string said) {
    for (int child = 2 * rank_ + 1; child <= 2 * rank_ + 2 && child < size_; ++child) {
      said += await(part(child));
      place_.remove({part(child)});
    }
    if (rank_ == 0) {
      parse(said);  // throws before the others believe it
      place_.set(kRoll, kWell + said);
      return said;
    }
    place_.set(part(rank_), said);
    return await(kRoll).substr(1);
  }

  std::string await(const std::string& key) {
    for (Duration wait = kFirstLook;; wait = std::min(2 * wait, kLook)) {
      try {
        std::string value = place_.get(key, std::min(wait, limit_.remaining()));
        throw_if_bad(key == kRoll ? value : "");
        return value;
      } catch (const TimeoutError&) {
        look();
      }
    }
  }

  void throw_if_bad(const std::string& roll) const {
    if (!roll.empty() && roll.front() == kBadly) {
      told_ = true;
      throw FromPeer<EnvironmentError>(roll.substr(1));
    }
  }

  // Nothing where the key does not exist.
  std::optional<std::string> peek(const std::string& key) {
    try {
      return place_.get(key, Duration::zero());
    } catch (const TimeoutError&) {
      return std::nullopt;
    }
  }

  void look() {
    if (const auto roll = peek(kRoll)) return throw_if_bad(*roll);
    std::string dead;
    bool stopped_too_long = false;
    const auto now = Clock::now();
    for (int i = 0; i < std::min(kAskedAtOnce, size_ - 1); ++i) {
      const int r = (rank_ + 1 + (asked_++ % (size_ - 1))) % size_;
      const int pid = pid_of(r);
      const auto process = pid != 0 ? look_at_process(pid) : std::nullopt;
      if (pid != 0 && !process)
        dead += str(dead.empty() ? "" : ", ", "rank ", r, " (pid ", pid, ")");
      if (process && process->stopped())
        stopped_too_long |=
            limit_.passed_for_stopped(now - stopped_since_.try_emplace(r, now).first->second);
      else
        stopped_since_.erase(r);
    }
    // It may have come, read what all say, and ended, while this thread looked.
    if (!dead.empty() && !peek(kRoll))
      throw FromPeer<EnvironmentError>(
          str("[comm] ", what_, ": ", dead, " of ", size_, " died while the group formed"));
    if (limit_.passed() || stopped_too_long)
      throw FromPeer<TimeoutError>(
          str("[comm] ", what_, ": ", missing(), " in time (", limit_.reached(), ")"));
    if (rank_ != 0 || now - start_ < say_after(said_)) return;
    log::warn("[comm] ", what_, ": a group has been forming for ", seconds(say_after(said_++)),
              " s: ", missing());
  }

  // "ranks 2 and 3 of 4 did not join; rank 1 (pid 71) is stopped".
  std::string missing() {
    std::vector<int> absent, seen, pids;
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      if (!peek(here(r))) absent.push_back(r);
      if (const int pid = pid_of(r)) {
        seen.push_back(r);
        pids.push_back(pid);
      }
    }
    std::string text = absent.empty()
                           ? str("not all of the ", size_, " ranks passed on who they are")
                           : str(ranks_text(absent), " of ", size_, " did not join");
    const auto doing = doings(pids);
    for (size_t i = 0; i < pids.size(); ++i)
      if (doing[i] == "is stopped" || doing[i] == "has ended")
        text += str("; rank ", seen[i], " (pid ", pids[i], ") ", doing[i]);
    return text;
  }

  // 0 where the process cannot be seen from here, or has not come.
  int pid_of(int r) {
    if (const auto known = pids_.find(r); known != pids_.end()) return known->second;
    const auto line = peek(here(r));
    if (!line) return 0;
    Attendant a;
    int rank = -1;
    std::istringstream(*line) >> rank >> a.pid >> a.processes;
    return pids_[r] = a.processes == own_processes_ ? a.pid : 0;
  }

  std::vector<Attendant> parse(const std::string& said) const {
    std::vector<Attendant> all(static_cast<size_t>(size_));
    std::istringstream lines(said);
    int found = 0;
    for (std::string line; std::getline(lines, line); ++found) {
      std::istringstream fields(line);
      int r = -1;
      Attendant a;
      std::string hex;
      fields >> r >> a.pid >> a.processes >> a.network >> a.host;
      const bool well = static_cast<bool>(fields) && r >= 0 && r < size_ && found < size_;
      fields >> hex;
      const auto says = from_hex(hex);
      if (!well || !says || all[static_cast<size_t>(r)].pid != 0)
        throw EnvironmentError(str("[comm] ", what_,
                                   ": what a rank left in the store is damaged: '",
                                   line.substr(0, 60), "'"));
      a.says = *says;
      all[static_cast<size_t>(r)] = std::move(a);
    }
    if (found != size_)
      throw EnvironmentError(str("[comm] ", what_, ": the store has ", found, " of ", size_,
                                 " ranks, so somebody else uses this place"));
    return all;
  }

  // The last rank that has read removes all keys.
  void leave() {
    if (place_.add(kRead, 1) < size_) return;
    std::vector<std::string> keys{kRoll, kRead};
    for (int r = 0; r < size_; ++r) keys.push_back(here(r));
    place_.remove(keys);
  }

  void tell_others(const std::string& reason) noexcept {
    if (told_) return;
    try {
      place_.compare_and_set(kRoll, "", kBadly + str("rank ", rank_, ": ", reason));
    } catch (const std::exception& e) {
      log::debug("[comm] ", what_, ": the others cannot be told: ", e.what());
    }
  }

  Store& place_;
  const int rank_;
  const int size_;
  const Limit limit_;
  const std::string_view what_;
  const Clock::time_point start_ = Clock::now();
  std::string own_processes_;
  std::map<int, int> pids_;                         // by rank
  std::map<int, Clock::time_point> stopped_since_;  // by rank
  uint32_t said_ = 0;
  int asked_ = 0;
  mutable bool told_ = false;  // the others know that the roll call has failed
};

}  // namespace

std::string Attendant::who() const { return str("pid ", pid, " on ", host); }

Attendant this_process(std::string says) {
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  char name[64] = {};
  ::gethostname(name, sizeof name - 1);
  Attendant a;
  a.pid = static_cast<int>(::getpid());
  a.processes = str(boot, '/', inode_of("/proc/self/ns/pid"));
  a.network = str(boot, '/', inode_of("/proc/self/ns/net"));
  a.host = name[0] ? name : "?";
  a.says = std::move(says);
  return a;
}

std::vector<Attendant> call_roll(Store& place, int rank, int size, const std::string& says,
                                 const Limit& limit, std::string_view what) {
  check(says.size() <= kMostToSay, "[comm] ", what, ": a rank may say at most ", kMostToSay,
        " bytes, got ", says.size());
  return RollCall(place, rank, size, limit, what).run(this_process(says));
}

}  // namespace lockstep::comm
