#include "comm/nccl/sim/communicator.h"

#include <algorithm>

#include <sys/mman.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/device/cuda/sim/launch.h"

namespace lockstep::comm::nccl::sim {
namespace {

constexpr int kSystemError = 2, kInvalidUsage = 5;

struct Planted {
  Mutex mutex;
  Fault fault LOCKSTEP_GUARDED_BY(mutex) = Fault::none;
  int rank LOCKSTEP_GUARDED_BY(mutex) = -1;
  uint64_t operation LOCKSTEP_GUARDED_BY(mutex) = 0;
};
Planted& the_planted() {
  static Planted& planted = *new Planted;
  return planted;
}

bool write_all(int fd, const void* data, size_t bytes, size_t at) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::pwrite(fd, from, bytes, static_cast<off_t>(at));
    if (written <= 0) return false;
    from += written;
    at += static_cast<size_t>(written);
    bytes -= static_cast<size_t>(written);
  }
  return true;
}

bool read_all(int fd, void* data, size_t bytes, size_t at) {
  auto* to = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd, to, bytes, static_cast<off_t>(at));
    if (got <= 0) return false;
    to += got;
    at += static_cast<size_t>(got);
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

}  // namespace

void plant(Fault fault, int rank, uint64_t operation) {
  Planted& planted = the_planted();
  const MutexLock lock(planted.mutex);
  planted.fault = fault;
  planted.rank = rank;
  planted.operation = operation;
}

Fault planted(int rank, uint64_t operation) {
  Planted& planted = the_planted();
  const MutexLock lock(planted.mutex);
  return planted.rank == rank && planted.operation == operation ? planted.fault : Fault::none;
}

// An operation whose messages are on their way.
struct SimCommunicator::Running {
  Operation operation;
  std::vector<uint64_t> sends = {}, receives = {};  // the messages' numbers in their channels
  bool hangs = false;
  std::vector<int> files = {};  // of the messages to take; -1: not there yet

  ~Running() {
    for (const int fd : files)
      if (fd >= 0) ::close(fd);
  }
};

SimCommunicator::SimCommunicator(const UniqueId& id, int rank, int size)
    : segment_(id),
      rank_(rank),
      size_(size),
      sent_(static_cast<size_t>(size)),
      received_(static_cast<size_t>(size)) {
  if (size > kMostRanks || rank < 0 || rank >= size)
    throw EnvironmentError(
        str("rank ", rank, " of ", size, "; the simulation takes at most ", kMostRanks, " ranks"));
  const Fault fault = planted(rank, 0);
  if (fault == Fault::error_in_init) fail(kSystemError);
  if (fault != Fault::hang_in_init && fault != Fault::error_in_init)
    segment_.joined(rank).store(1, std::memory_order_release);
}

SimCommunicator::~SimCommunicator() {
  const MutexLock lock(mutex_);
  for (const File& file : files_) ::close(file.fd);
}

bool SimCommunicator::everybody_joined() {
  for (int r = 0; r < size_; ++r)
    if (!segment_.joined(r).load(std::memory_order_acquire)) return false;
  segment_.forget_name();
  return true;
}

int SimCommunicator::state() {
  if (const int error = error_.load()) return error;
  if (!everybody_joined()) return kInProgress;
  if (slow_answers_.load() > 0 && slow_answers_.fetch_sub(1) > 0) return kInProgress;
  return finalizing_.load() && !close_taken() ? kInProgress : kSuccess;
}

void SimCommunicator::fail(int error) {
  int none = kSuccess;
  error_.compare_exchange_strong(none, error);
}

void SimCommunicator::abort() {
  aborted_.store(true);
  cuda::sim::wake();
}

void SimCommunicator::enqueue(Operation operation, StreamHandle stream) {
  auto running = std::make_shared<Running>();
  running->operation = std::move(operation);
  const Operation& o = running->operation;
  for (const auto& send : o.sends) running->sends.push_back(sent_[static_cast<size_t>(send.to)]++);
  for (const auto& receive : o.receives)
    running->receives.push_back(received_[static_cast<size_t>(receive.from)]++);
  running->files.assign(o.receives.size(), -1);
  const Fault fault = planted(rank_, operations_++);
  running->hangs = fault == Fault::hang || fault == Fault::error;
  if (fault == Fault::error) fail(kSystemError);
  const auto self = shared_from_this();
  cuda::sim::enqueue(
      o.name, stream, [self, running] { return self->aborted_ || self->may_post(*running); },
      [self, running] {
        if (!self->aborted_) self->post(*running);
      });
  cuda::sim::enqueue(
      o.name, stream, [self, running] { return self->aborted_ || self->may_take(*running); },
      [self, running] {
        if (!self->aborted_) self->take(*running);
      });
  slow_answers_ = 1;
}

// A place of the ring is free once its message was taken.
bool SimCommunicator::may_post(const Running& running) {
  if (running.hangs) return false;
  for (size_t i = 0; i < running.sends.size(); ++i) {
    const Channel& channel = segment_.channel(rank_, running.operation.sends[i].to);
    if (channel.taken.load(std::memory_order_acquire) + kRing <= running.sends[i]) return false;
  }
  return true;
}

bool SimCommunicator::close_taken() {
  const MutexLock lock(mutex_);
  std::erase_if(files_, [&](const File& file) {
    for (const auto& [to, number] : file.messages)
      if (segment_.channel(rank_, to).taken.load(std::memory_order_acquire) <= number) return false;
    ::close(file.fd);
    return true;
  });
  return files_.empty();
}

void SimCommunicator::post(const Running& running) {
  const auto& sends = running.operation.sends;
  if (sends.empty()) return;
  close_taken();
  size_t bytes = 0;
  for (const auto& send : sends) bytes += send.bytes;
  File file{make_file(running.operation.name, bytes), {}};
  if (file.fd < 0) return fail(kSystemError);
  const uint64_t inode = inode_of(file.fd);
  std::vector<uint64_t> begins;
  size_t end = 0;
  for (size_t i = 0; i < sends.size(); ++i) {
    // What goes to all is stored once.
    const bool again =
        i > 0 && sends[i].data == sends[i - 1].data && sends[i].bytes == sends[i - 1].bytes;
    if (!again && !write_all(file.fd, sends[i].data, sends[i].bytes, end)) {
      ::close(file.fd);
      return fail(kSystemError);
    }
    begins.push_back(again ? begins.back() : end);
    if (!again) end += sends[i].bytes;
    file.messages.emplace_back(sends[i].to, running.sends[i]);
  }
  const int fd = file.fd;
  {
    const MutexLock lock(mutex_);
    files_.push_back(std::move(file));
  }
  for (size_t i = 0; i < sends.size(); ++i) {
    Channel& channel = segment_.channel(rank_, sends[i].to);
    channel.ring[running.sends[i] % kRing] = {.pid = ::getpid(),
                                              .fd = fd,
                                              .inode = inode,
                                              .begin = begins[i],
                                              .bytes = sends[i].bytes,
                                              .signature = running.operation.signature};
    channel.posted.store(running.sends[i] + 1, std::memory_order_release);
  }
  cuda::sim::wake();
}

// What differs between ranks would be garbage, or a hang; here it ends the communicator. So does a
// peer that has gone with what it posted.
bool SimCommunicator::may_take(Running& running) {
  if (error_.load()) return false;
  for (size_t i = 0; i < running.files.size(); ++i) {
    int& file = running.files[i];
    if (file >= 0) continue;
    const auto& receive = running.operation.receives[i];
    const Channel& channel = segment_.channel(receive.from, rank_);
    if (channel.posted.load(std::memory_order_acquire) <= running.receives[i]) return false;
    const Message& message = channel.ring[running.receives[i] % kRing];
    if (message.signature != running.operation.signature || message.bytes != receive.bytes) {
      fail(kInvalidUsage);
      return false;
    }
    file = open_file(message.pid, message.fd);
    if (file < 0 || inode_of(file) != message.inode) {
      fail(kRemoteError);
      return false;
    }
  }
  return true;
}

void SimCommunicator::take(Running& running) {
  const Operation& operation = running.operation;
  std::vector<std::vector<char>> memory;
  std::vector<const void*> received;
  memory.reserve(operation.receives.size());
  for (size_t i = 0; i < operation.receives.size(); ++i) {
    const auto& receive = operation.receives[i];
    void* to = receive.data;
    if (!to) to = memory.emplace_back(receive.bytes).data();
    Channel& channel = segment_.channel(receive.from, rank_);
    const Message& message = channel.ring[running.receives[i] % kRing];
    if (!read_all(running.files[i], to, receive.bytes, message.begin)) return fail(kSystemError);
    channel.taken.store(running.receives[i] + 1, std::memory_order_release);
    received.push_back(to);
  }
  if (operation.finish) operation.finish(received);
  cuda::sim::wake();
}

}  // namespace lockstep::comm::nccl::sim
