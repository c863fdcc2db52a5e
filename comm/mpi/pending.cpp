#include "comm/mpi/pending.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::comm::mpi {
namespace {

constexpr size_t kPiece = size_t{1} << 30;  // MPI counts are of type int
// Messages up to this size are sent from a copy, so giving them up needs no cancelling.
// Fingerprints are this small, and data moves only after they were exchanged, so MPI stays usable
// after nearly every failure.
constexpr size_t kSmall = 256;
// Every network copies messages up to this size at once.
constexpr size_t kCopiedAtOnce = 2048;
// How often a cancelled request is polled before it counts as unfinished.
constexpr int kLastPolls = 100;

}  // namespace

Pending::~Pending() {
  try {
    if (std::all_of(requests_.begin(), requests_.end(),
                    [](MPI_Request r) { return r == MPI_REQUEST_NULL; }))
      return;
    runtime_.locked([this]() LOCKSTEP_REQUIRES(runtime_.mutex()) { give_up(); });
  } catch (const std::exception&) {
    // MPI is already retired and will never touch the memory again.
  }
}

void Pending::add(Entry entry, MPI_Request request) {
  entries_.push_back(std::move(entry));
  requests_.push_back(request);
}

void Pending::send(int peer, int tag, const void* data, size_t bytes) {
  std::unique_ptr<std::string> copy;
  if (bytes <= kSmall) {
    copy = std::make_unique<std::string>(static_cast<const char*>(data), bytes);
    data = copy->data();
  }
  large_ |= bytes > kSmall;
  shared_ |= bytes > kCopiedAtOnce;
  const char* at = static_cast<const char*>(data);
  do {
    const size_t piece = std::min(bytes, kPiece);
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(
        MPI_Isend(at, static_cast<int>(piece), MPI_BYTE, peer, tag, runtime_.world(), &request),
        "MPI_Isend");
    add({Kind::send, peer, std::move(copy)}, request);  // a small message is one piece
    at += piece;
    bytes -= piece;
  } while (bytes > 0);
}

void Pending::receive(int peer, int tag, void* data, size_t bytes) {
  large_ |= bytes > kSmall;
  shared_ |= bytes > kCopiedAtOnce;
  char* at = static_cast<char*>(data);
  do {
    const size_t piece = std::min(bytes, kPiece);
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(
        MPI_Irecv(at, static_cast<int>(piece), MPI_BYTE, peer, tag, runtime_.world(), &request),
        "MPI_Irecv");
    add({Kind::receive, peer, nullptr}, request);
    at += piece;
    bytes -= piece;
  } while (bytes > 0);
}

void Pending::adopt(MPI_Request request) {
  large_ = shared_ = true;
  add({Kind::other, -1, nullptr}, request);
}

bool Pending::poll() {
  completed_.resize(requests_.size());
  int done = 0;
  check_mpi(MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &done,
                         completed_.data(), MPI_STATUSES_IGNORE),
            "MPI_Testsome");
  return std::all_of(requests_.begin(), requests_.end(),
                     [](MPI_Request r) { return r == MPI_REQUEST_NULL; });
}

std::vector<int> Pending::unfinished(Kind kind) const {
  std::vector<int> peers;
  for (size_t i = 0; i < requests_.size(); ++i)
    if (requests_[i] != MPI_REQUEST_NULL && entries_[i].kind == kind)
      peers.push_back(entries_[i].peer);
  std::sort(peers.begin(), peers.end());
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  return peers;
}

size_t Pending::peers() const {
  std::vector<int> peers;
  for (const Entry& entry : entries_) peers.push_back(entry.peer);
  std::sort(peers.begin(), peers.end());
  return static_cast<size_t>(std::unique(peers.begin(), peers.end()) - peers.begin());
}

void Pending::give_up() {
  bool finished = true;
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    if (entries_[i].copy) {
      runtime_.keep(requests_[i], std::move(entries_[i].copy));
      continue;
    }
    if (entries_[i].kind == Kind::receive) MPI_Cancel(&requests_[i]);
    int done = 0;
    for (int polls = 0; polls < kLastPolls && !done; ++polls)
      MPI_Test(&requests_[i], &done, MPI_STATUS_IGNORE);
    finished = finished && done;
  }
  if (!finished) runtime_.retire("a transfer was given up half-way");
}

}  // namespace lockstep::comm::mpi
