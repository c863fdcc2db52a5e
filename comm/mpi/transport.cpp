#include "comm/mpi/transport.h"

#include <algorithm>

#include "comm/engine/failure_note.h"
#include "comm/engine/fingerprint.h"
#include "comm/engine/process_look.h"
#include "comm/mpi/backoff.h"
#include "comm/peer_failure.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::comm::mpi {
namespace {

// Notes travel beside the data. A rank that reads a note continues for this long, to receive data
// that was sent before the note. So all ranks see a mismatch, and a rank may leave after the last
// collective while others still read.
constexpr auto kGrace = std::chrono::milliseconds(300);
constexpr int kPollsPerNote = 16;
// Small enough that MPI sends it at once, on any network.
constexpr size_t kLongestNote = 1000;
constexpr char kAborted = 'A';
constexpr char kLeft = 'L';

}  // namespace

MpiTransport::MpiTransport(Runtime& runtime, int context, std::vector<int> members)
    : runtime_(runtime), context_(context), members_(std::move(members)) {
  rank_ = static_cast<int>(std::find(members_.begin(), members_.end(), runtime_.rank()) -
                           members_.begin());
}

MpiTransport::~MpiTransport() {
  if (ended_) return;
  try {
    tell_others(kLeft, "");
  } catch (const std::exception&) {
    // MPI is no longer usable, so nobody can be told.
  }
}

void MpiTransport::exchange(Channel channel, std::span<const Send> sends,
                            std::span<const Receive> receives, const Limit& limit) {
  throw_if_aborted();
  // Refuse data once a rank has given up: it receives nothing more, and MPI would become unusable
  // here, too. Fingerprints still move, so all ranks see a mismatch.
  const auto is_data = [](const auto& message) { return message.bytes > sizeof(Fingerprint); };
  if (std::any_of(sends.begin(), sends.end(), is_data) ||
      std::any_of(receives.begin(), receives.end(), is_data))
    throw_if_ended_by_peer();
  Pending pending(runtime_);
  runtime_.locked([&] {
    for (const auto& r : receives)
      pending.receive(world_rank(r.from), tag(channel), r.data, r.bytes);
    for (const auto& s : sends) pending.send(world_rank(s.to), tag(channel), s.data, s.bytes);
  });
  complete(pending, limit);
}

void MpiTransport::complete(Pending& pending, const Limit& limit) {
  Backoff backoff(pending.has_large() ? Backoff::Expect::data : Backoff::Expect::message);
  std::optional<Deadline> grace;
  Watch watch;
  try {
    for (int polls = 0;; ++polls) {
      const bool done = runtime_.locked([&] {
        if (polls % kPollsPerNote == 0) read_notes();
        const bool all = pending.poll();
        if (all && pending.has_shared()) read_notes();
        return all;
      });
      // A sender that gave up may have changed its memory before we read it.
      if (done) return pending.has_shared() ? throw_if_ended_by_peer() : void();
      if (ended_) {
        throw_if_aborted();
        if (!grace) grace = Deadline::after(kGrace);
        const MutexLock lock(state_mutex_);
        const std::string why = grace->passed() ? ended_by_peer(pending) : "";
        if (!why.empty()) throw FromPeer<EnvironmentError>(why);
      }
      if (limit.passed())
        throw FromPeer<TimeoutError>(str(limit.reached(), ": ", missing(pending)));
      if (watch.next.passed()) look(watch, pending, limit);
      backoff.pause();
    }
  } catch (const Error& error) {
    if (limit.withdrawn()) throw;
    note_failure();
    abort(error.what());  // before the requests are destroyed: that may make MPI
                          // unusable in this process
    throw;
  }
}

void MpiTransport::abort(const std::string& reason) noexcept {
  try {
    {
      const MutexLock lock(state_mutex_);
      if (!aborted_.empty()) return;
      aborted_ = reason.empty() ? "the group was aborted" : reason;
      ended_ = true;
      if (!aborted_by_peer_.empty()) return;  // that peer has already told all ranks
    }
    tell_others(kAborted, reason.substr(0, kLongestNote));
  } catch (const std::exception&) {
    // MPI is no longer usable, so nobody can be told.
  }
}

void MpiTransport::tell_others(char kind, const std::string& text) {
  for (const int member : members_)
    if (member != runtime_.rank()) runtime_.post(member, note_tag(), kind + text);
}

void MpiTransport::read_notes() {
  for (;;) {
    int found = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, note_tag(), runtime_.world(), &found, &status),
              "MPI_Iprobe");
    if (!found) return;
    int bytes = 0;
    check_mpi(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
    std::string note(static_cast<size_t>(bytes), '\0');
    check_mpi(MPI_Recv(note.data(), bytes, MPI_BYTE, status.MPI_SOURCE, note_tag(),
                       runtime_.world(), MPI_STATUS_IGNORE),
              "MPI_Recv");
    const MutexLock lock(state_mutex_);
    if (note.front() == kLeft)
      left_.push_back(status.MPI_SOURCE);
    else if (aborted_by_peer_.empty())
      aborted_by_peer_ = str(who({status.MPI_SOURCE}), " ended the group: ", note.substr(1));
    ended_ = true;
  }
}

void MpiTransport::check_running() {
  runtime_.locked([&] { read_notes(); });
  throw_if_aborted();
  throw_if_ended_by_peer();
}

void MpiTransport::throw_if_aborted() const {
  if (!ended_) return;
  const MutexLock lock(state_mutex_);
  if (!aborted_.empty()) throw FromPeer<EnvironmentError>(aborted_);
}

void MpiTransport::throw_if_ended_by_peer() const {
  if (!ended_) return;
  const MutexLock lock(state_mutex_);
  if (!aborted_by_peer_.empty()) throw FromPeer<EnvironmentError>(aborted_by_peer_);
}

std::string MpiTransport::ended_by_peer(const Pending& pending) const {
  if (!aborted_by_peer_.empty()) return aborted_by_peer_;
  std::vector<int> gone;
  for (const auto& unfinished : {pending.unfinished_from(), pending.unfinished_to()})
    for (const int peer : unfinished)
      if (std::count(left_.begin(), left_.end(), peer) > 0 &&
          std::count(gone.begin(), gone.end(), peer) == 0)
        gone.push_back(peer);
  return gone.empty() ? "" : str(who(gone), " left the group");
}

std::string MpiTransport::who(const std::vector<int>& world_ranks) const {
  std::string text;
  for (const int world : world_ranks) {
    text += str(text.empty() ? "" : ", ", "rank ", place_of(world), " (", runtime_.describe(world),
                ")");
  }
  return text;
}

int MpiTransport::place_of(int world_rank) const {
  return static_cast<int>(std::find(members_.begin(), members_.end(), world_rank) -
                          members_.begin());
}

void MpiTransport::look(Watch& watch, const Pending& pending, const Limit& limit) {
  watch.next = Deadline::after(std::chrono::seconds(1));
  const auto now = Clock::now();
  auto late = pending.unfinished_from();
  if (late.empty()) late = pending.unfinished_to();
  for (const int rank : late) {
    const int pid = runtime_.local_pid(rank);
    const auto process = pid != 0 ? look_at_process(pid) : std::nullopt;
    if (!process || !process->stopped())
      watch.stopped_since.erase(rank);
    else if (limit.passed_for_stopped(now -
                                      watch.stopped_since.try_emplace(rank, now).first->second))
      throw FromPeer<TimeoutError>(str(limit.reached(), ": ", missing(pending)));
  }
  const uint32_t said = said_missing_;
  if (late.empty() || now - watch.start < say_after(said)) return;
  ++said_missing_;
  // If all ranks wait for the same peers, only the first waiting rank logs it.
  const bool all_wait = pending.peers() + 1 == members_.size();
  int first_here = 0;
  while (std::count(late.begin(), late.end(), members_[static_cast<size_t>(first_here)]) > 0)
    ++first_here;
  if (all_wait && first_here != rank_) return;
  log::warn("[comm] ", limit.what().empty() ? "a group that forms" : limit.what(),
            " is held up for ", seconds(say_after(said)), " s: ", missing(pending));
}

// "rank 2 (pid 71 on node5, stopped) has not arrived". Adds what ranks on this host are doing.
std::string MpiTransport::missing(const Pending& pending) const {
  const auto from = pending.unfinished_from(), to = pending.unfinished_to();
  if (from.empty() && to.empty()) return "all ranks have arrived, but MPI's collective did not end";
  const auto& late = from.empty() ? to : from;
  std::vector<int> pids;
  for (const int rank : late) pids.push_back(runtime_.local_pid(rank));
  const auto doing = doings(pids);
  std::string text;
  for (size_t i = 0; i < late.size(); ++i) {
    const std::string known = runtime_.describe(late[i]);
    const bool running = pids[i] != 0 && (doing[i] == "is computing" || doing[i] == "is idle" ||
                                          doing[i] == "waits for a device");
    text += str(i == 0 ? "" : ", ", "rank ", place_of(late[i]), " (", known,
                running ? ", " + doing[i] : "", ")");
  }
  if (from.empty()) return text + " did not receive what was sent to it";
  return text + (from.size() == 1 ? " has not arrived" : " have not arrived");
}

int agree_on_context(MpiTransport& parent, const std::string& name, const Limit& limit) {
  struct Hello {
    int64_t context;
    uint64_t name;
  };
  const auto size = static_cast<size_t>(parent.size());
  const auto rank = static_cast<size_t>(parent.rank());
  std::vector<Hello> hellos(size);
  // The first rank's proposal counts. It never proposes a context twice, nor one that another rank
  // could propose.
  hellos[rank] = {parent.rank() == 0 ? parent.runtime().take_context() : 0, hash_name(name)};
  std::vector<Transport::Send> sends;
  std::vector<Transport::Receive> receives;
  for (size_t i = 0; i < size; ++i) {
    if (i == rank) continue;
    sends.push_back({static_cast<int>(i), &hellos[rank], sizeof(Hello)});
    receives.push_back({static_cast<int>(i), &hellos[i], sizeof(Hello)});
  }
  parent.exchange(Transport::Channel::collective, sends, receives, limit);
  for (size_t i = 0; i < size; ++i)
    check(hellos[i].name == hellos[0].name, "[mpi] ranks create groups in different order: rank ",
          rank, " creates '", name, "', but rank ", hellos[i].name == hellos[rank].name ? 0 : i,
          " another one");
  return static_cast<int>(hellos[0].context);
}

}  // namespace lockstep::comm::mpi
