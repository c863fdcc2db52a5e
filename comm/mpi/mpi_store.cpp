#include "comm/mpi/mpi_store.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "comm/mpi/backoff.h"
#include "comm/mpi/pending.h"
#include "comm/peer_failure.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/thread.h"

namespace lockstep::comm::mpi {
namespace {

constexpr int kRequestTag = kStoreContext * kTagsPerContext;
constexpr int kAnswerTag = kRequestTag + 1;
constexpr auto kAnswerLimit = std::chrono::seconds(30);
// Limit for the rest of a message that has begun to arrive.
constexpr auto kArrivalLimit = std::chrono::seconds(10);
constexpr auto kIdleNap = std::chrono::milliseconds(5);
constexpr auto kLongestRetry = std::chrono::milliseconds(10);

class Writer {
 public:
  template <typename T>
  Writer& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Writer& text(const std::string& value) {
    number<uint64_t>(value.size());
    bytes_ += value;
    return *this;
  }
  Writer& texts(const std::vector<std::string>& values) {
    number<uint64_t>(values.size());
    for (const auto& value : values) text(value);
    return *this;
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(const std::string& bytes) : bytes_(bytes) {}
  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, bytes_.data() + advance(sizeof value), sizeof value);
    return value;
  }
  std::string text() {
    const auto size = static_cast<size_t>(number<uint64_t>());
    return bytes_.substr(advance(size), size);
  }
  std::vector<std::string> texts() {
    std::vector<std::string> values;
    for (auto left = number<uint64_t>(); left > 0; --left) values.push_back(text());
    return values;
  }

 private:
  size_t advance(size_t by) {
    if (by > bytes_.size() - at_)
      throw EnvironmentError("[store] a message ended before the length that it announces");
    return std::exchange(at_, at_ + by);
  }
  const std::string& bytes_;
  size_t at_ = 0;
};

std::string pack(const StoreRequest& r) {
  return Writer()
      .number(r.id)
      .number(r.kind)
      .number(r.delta)
      .text(r.key)
      .text(r.expected)
      .text(r.value)
      .texts(r.keys)
      .take();
}

std::string pack(const StoreAnswer& a) {
  return Writer().number(a.id).number(a.kind).number(a.number).text(a.value).take();
}

StoreRequest unpack_request(const std::string& bytes) {
  Reader in(bytes);
  StoreRequest r;
  r.id = in.number<uint64_t>();
  r.kind = in.number<StoreRequest::Kind>();
  r.delta = in.number<int64_t>();
  r.key = in.text();
  r.expected = in.text();
  r.value = in.text();
  r.keys = in.texts();
  return r;
}

StoreAnswer unpack_answer(const std::string& bytes) {
  Reader in(bytes);
  StoreAnswer a;
  a.id = in.number<uint64_t>();
  a.kind = in.number<StoreAnswer::Kind>();
  a.number = in.number<int64_t>();
  a.value = in.text();
  return a;
}

struct Letter {
  int from;
  std::string bytes;
};

// Returns the next message with this tag, or nothing if none has arrived.
std::optional<Letter> take_letter(Runtime& runtime, int source, int tag) {
  Letter letter;
  int found = 0;
  Pending pending(runtime);
  runtime.locked([&] {
    MPI_Status status;
    check_mpi(MPI_Iprobe(source, tag, runtime.world(), &found, &status), "MPI_Iprobe");
    if (!found) return;
    int bytes = 0;
    check_mpi(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
    letter = {status.MPI_SOURCE, std::string(static_cast<size_t>(bytes), '\0')};
    pending.receive(letter.from, tag, letter.bytes.data(), letter.bytes.size());
  });
  if (!found) return std::nullopt;
  const Deadline deadline = Deadline::after(kArrivalLimit);
  Backoff backoff(Backoff::Expect::data);
  while (!runtime.locked([&] { return pending.poll(); })) {
    if (deadline.passed())
      throw FromPeer<TimeoutError>(str("[store] incomplete message from rank ", letter.from, " (",
                                       runtime.describe(letter.from), ")"));
    backoff.pause();
  }
  return letter;
}

}  // namespace

StoreServer::StoreServer(Runtime& runtime, std::shared_ptr<Store> map)
    : runtime_(runtime),
      map_(std::move(map)),
      thread_(start_thread("to serve the ranks' store", [this] { serve(); })) {}

void StoreServer::stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void StoreServer::serve() {
  try {
    auto nap = Duration(kIdleNap);
    while (!stop_) {
      const auto letter = take_letter(runtime_, MPI_ANY_SOURCE, kRequestTag);
      if (letter) {
        runtime_.post(letter->from, kAnswerTag, pack(answer(unpack_request(letter->bytes))));
        nap = std::chrono::microseconds(50);
        continue;
      }
      std::this_thread::sleep_for(nap);
      nap = std::min<Duration>(nap * 2, kIdleNap);
    }
  } catch (const Error& error) {
    log::warn("mpi: the store that this rank serves has stopped: ", error.what());
  }
}

StoreAnswer StoreServer::answer(const StoreRequest& request) {
  StoreAnswer answer;
  answer.id = request.id;
  try {
    switch (request.kind) {
      case StoreRequest::Kind::set: map_->set(request.key, request.value); break;
      case StoreRequest::Kind::get: answer.value = map_->get(request.key, Duration::zero()); break;
      case StoreRequest::Kind::add: answer.number = map_->add(request.key, request.delta); break;
      case StoreRequest::Kind::compare_and_set:
        answer.value = map_->compare_and_set(request.key, request.expected, request.value);
        break;
      case StoreRequest::Kind::remove: map_->remove(request.keys); break;
    }
  } catch (const TimeoutError&) {
    answer.kind = StoreAnswer::Kind::no_such_key;
  } catch (const UsageError& error) {
    answer.kind = StoreAnswer::Kind::wrong_use;
    answer.value = error.what();
  }
  return answer;
}

StoreAnswer MpiStore::ask(StoreRequest request) {
  const MutexLock lock(mutex_);
  request.id = ++last_id_;
  runtime_.post(0, kRequestTag, pack(request));
  const Deadline deadline = Deadline::after(kAnswerLimit);
  Backoff backoff;
  for (;;) {
    const auto letter = take_letter(runtime_, 0, kAnswerTag);
    if (!letter) {
      if (deadline.passed())
        throw FromPeer<TimeoutError>(str("[store] rank 0 (", runtime_.describe(0),
                                         "), which holds the store, has not answered within ",
                                         seconds(kAnswerLimit), " s about key '", request.key,
                                         "'"));
      backoff.pause();
      continue;
    }
    StoreAnswer answer = unpack_answer(letter->bytes);
    if (answer.id != request.id) continue;  // answers a request that was given up
    if (answer.kind == StoreAnswer::Kind::wrong_use) throw UsageError(answer.value);
    return answer;
  }
}

void MpiStore::set(const std::string& key, const std::string& value) {
  ask({.kind = StoreRequest::Kind::set, .key = key, .expected = {}, .value = value});
}

std::string MpiStore::get(const std::string& key, Duration timeout) {
  const Deadline deadline = Deadline::after(timeout);
  // The client polls. So the server keeps no list of waiters and need not clean up after them.
  for (auto nap = Duration(std::chrono::microseconds(200));;
       nap = std::min<Duration>(nap * 2, kLongestRetry)) {
    StoreAnswer answer =
        ask({.kind = StoreRequest::Kind::get, .key = key, .expected = {}, .value = {}});
    if (answer.kind == StoreAnswer::Kind::value) return std::move(answer.value);
    if (deadline.passed())
      throw FromPeer<TimeoutError>(
          str("[store] key '", key, "' did not appear within ", seconds(timeout), " s"));
    std::this_thread::sleep_for(std::min(nap, deadline.remaining()));
  }
}

void MpiStore::wait(const std::vector<std::string>& keys, Duration timeout) {
  const Deadline deadline = Deadline::after(timeout);
  for (const auto& key : keys) get(key, deadline.remaining());
}

int64_t MpiStore::add(const std::string& key, int64_t delta) {
  return ask({.kind = StoreRequest::Kind::add,
              .delta = delta,
              .key = key,
              .expected = {},
              .value = {}})
      .number;
}

std::string MpiStore::compare_and_set(const std::string& key, const std::string& expected,
                                      const std::string& desired) {
  return ask({.kind = StoreRequest::Kind::compare_and_set,
              .key = key,
              .expected = expected,
              .value = desired})
      .value;
}

void MpiStore::remove(const std::vector<std::string>& keys) {
  if (keys.empty()) return;
  ask({.kind = StoreRequest::Kind::remove,
       .key = keys.front(),
       .expected = {},
       .value = {},
       .keys = keys});
}

}  // namespace lockstep::comm::mpi
