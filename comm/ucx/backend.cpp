#include <algorithm>
#include <cstring>

#include "comm/engine/roll_call.h"
#include "comm/engine/transport.h"
#include "comm/local/factory.h"
#include "comm/local/hash_store.h"
#include "comm/ucx/factory.h"
#include "comm/ucx/library.h"
#include "comm/ucx/proof.h"
#include "comm/ucx/transport.h"
#include "core/base/error.h"
#include "core/tensor/storage.h"

namespace lockstep::comm {
namespace ucx {
namespace {

constexpr size_t kLongestIntroduction = size_t{32} << 10;

// What a rank says at the roll call.
struct Introduction {
  std::string key;     // rank 0's is the group's; nothing where the key does not travel
  std::string number;  // of this rank; rank 0's names the group
  std::string address;
};

std::string introduction(const UcxTransport& transport, bool with_key) {
  return (with_key ? random_bytes(kKeyBytes) : "") + random_bytes(kNumberBytes) +
         transport.address();
}

// Leaves only its address of what each member says. Returns who forms the group.
GroupSecret take_secrets(std::vector<Attendant>& members, bool with_key) {
  const size_t head = (with_key ? kKeyBytes : 0) + kNumberBytes;
  GroupSecret secret;
  for (Attendant& m : members) {
    if (m.says.size() <= head) throw EnvironmentError(str("[ucx] ", m.who(), " gave no address"));
    if (secret.numbers.empty() && with_key) secret.key = m.says.substr(0, kKeyBytes);
    secret.numbers.push_back(m.says.substr(head - kNumberBytes, kNumberBytes));
    m.says.erase(0, head);
  }
  std::memcpy(&secret.group, secret.numbers.front().data(), sizeof secret.group);
  secret.group >>= 22;  // as many bits as a message's tag has room for
  return secret;
}

class UcxBackend final : public Backend {
 public:
  explicit UcxBackend(std::unique_ptr<UcxTransport> transport) : transport_(std::move(transport)) {}

  std::string name() const override { return "ucx"; }
  int rank() const override { return transport_->rank(); }
  int size() const override { return transport_->size(); }
  Device device() const override { return kCpu; }

  Event execute(const Call& call) override {
    execute_over(*transport_, call);
    return {};
  }
  void check_running() override { transport_->check_running(); }

  std::unique_ptr<Backend> split(const SplitPlan& plan) override;

  std::shared_ptr<Storage> allocate(size_t bytes) override {
    auto storage = std::make_shared<Storage>(bytes, kCpu);
    std::fill_n(static_cast<std::byte*>(storage->data()), bytes, std::byte{0});
    return storage;
  }

  void abort(const std::string& reason) noexcept override { transport_->abort(reason); }

 private:
  const std::unique_ptr<UcxTransport> transport_;
};

// Every member's introduction, over the group that they are in already.
std::vector<std::string> introduce(UcxTransport& parent, const SplitPlan& plan,
                                   const std::string& mine) {
  const size_t size = plan.ranks.size();
  std::vector<uint64_t> lengths(size, mine.size());
  std::vector<std::string> all(size, mine);
  const auto exchange = [&](auto bytes_of_mine, auto place_of) {
    std::vector<Transport::Send> sends;
    std::vector<Transport::Receive> receives;
    for (size_t i = 0; i < size; ++i) {
      if (static_cast<int>(i) == plan.rank) continue;
      const auto [data, bytes] = bytes_of_mine;
      sends.push_back({plan.ranks[i], data, bytes});
      receives.push_back(place_of(i));
    }
    parent.exchange(Transport::Channel::collective, sends, receives, plan.limit);
  };
  const uint64_t length = mine.size();
  exchange(std::pair<const void*, size_t>(&length, sizeof length), [&](size_t i) {
    return Transport::Receive{plan.ranks[i], &lengths[i], sizeof(uint64_t)};
  });
  for (size_t i = 0; i < size; ++i) {
    if (lengths[i] > kLongestIntroduction)
      throw EnvironmentError(str("[ucx] rank ", plan.ranks[i], " announces an address of ",
                                 lengths[i], " bytes, more than ", kLongestIntroduction));
    all[i].resize(lengths[i]);
  }
  exchange(std::pair<const void*, size_t>(mine.data(), mine.size()), [&](size_t i) {
    return Transport::Receive{plan.ranks[i], all[i].data(), all[i].size()};
  });
  return all;
}

std::unique_ptr<Backend> UcxBackend::split(const SplitPlan& plan) {
  if (plan.color < 0) return nullptr;
  const int size = static_cast<int>(plan.ranks.size());
  if (size == 1) return make_local(std::make_shared<HashStore>(), 0, 1, {.name = plan.name});
  auto transport = std::make_unique<UcxTransport>(plan.rank, size, plan.name);
  const auto introductions =
      introduce(*transport_, plan, introduction(*transport, /*with_key=*/false));
  std::vector<Attendant> members;
  for (size_t i = 0; i < plan.ranks.size(); ++i) {
    members.push_back(transport_->members()[static_cast<size_t>(plan.ranks[i])]);
    members.back().says = introductions[i];
  }
  GroupSecret secret = take_secrets(members, /*with_key=*/false);
  secret.key = split_key(transport_->key(), secret.group);
  transport->connect(std::move(secret), std::move(members), plan.limit);
  return std::make_unique<UcxBackend>(std::move(transport));
}

}  // namespace
}  // namespace ucx

bool has_ucx() { return true; }

std::string ucx_version() {
  try {
    const std::string text = ucx::library().get_version_string();
    return text.substr(0, text.find(' '));
  } catch (const EnvironmentError&) {
    return "";
  }
}

std::unique_ptr<Backend> make_ucx(std::shared_ptr<Store> store, int rank, int size,
                                  const GroupOptions& options) {
  if (size == 1) return make_local(std::make_shared<HashStore>(), rank, size, options);
  const Limit limit(patience_of(options.timeout));
  auto transport = std::make_unique<ucx::UcxTransport>(rank, size, options.name);
  auto members =
      call_roll(*store, rank, size, ucx::introduction(*transport, /*with_key=*/true), limit, "ucx");
  ucx::GroupSecret secret = ucx::take_secrets(members, /*with_key=*/true);
  transport->connect(std::move(secret), std::move(members), limit);
  return std::make_unique<ucx::UcxBackend>(std::move(transport));
}

}  // namespace lockstep::comm
