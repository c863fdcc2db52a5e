#include "python/torch/exchange.h"

#include "core/base/thread.h"

namespace lockstep::pytorch {
namespace {

void check_sizes(const std::vector<int64_t>& all, int ranks) {
  const auto size = [&](int rank, int column) {
    return all[static_cast<size_t>(rank * 2 * ranks + column)];
  };
  for (int from = 0; from < ranks; ++from) {
    for (int to = 0; to < ranks; ++to) {
      const int64_t sent = size(from, to), expected = size(to, ranks + from);
      check(sent == expected, "[torch] all_to_all: rank ", from, " sends ", sent,
            " elements to rank ", to, ", which expects ", expected,
            "; the split sizes of input and output must agree. ", "No data was exchanged");
    }
  }
}

}  // namespace

std::vector<int64_t> sizes_of(const Slices& slices) {
  std::vector<int64_t> sizes;
  for (const Tensor& slice : slices.to) sizes.push_back(slice.numel());
  for (const Tensor& slice : slices.from) sizes.push_back(slice.numel());
  return sizes;
}

Exchange::Exchange(std::unique_ptr<comm::ProcessGroup> group,
                   std::function<void(const std::string&)> failed)
    : group_(std::move(group)), failed_(std::move(failed)) {}

Exchange::~Exchange() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

std::shared_future<void> Exchange::start(comm::Work announced, Tensor sizes, Slices slices,
                                         uint64_t label) {
  std::packaged_task<void()> task([this, announced, sizes, slices = std::move(slices), label] {
    announced.wait();
    check_sizes(sizes.to_vector<int64_t>(), group_->size());
    run(slices, label);
  });
  auto done = task.get_future().share();
  const MutexLock lock(mutex_);
  if (!thread_.joinable()) thread_ = start_thread("to exchange slices", [this] { loop(); });
  queue_.push_back(std::move(task));
  wake_.notify_one();
  return done;
}

void Exchange::run(const Slices& slices, uint64_t label) {
  const int rank = group_->rank(), size = group_->size();
  const auto at = [](const std::vector<Tensor>& tensors, int r) -> const Tensor& {
    return tensors[static_cast<size_t>(r)];
  };
  try {
    std::vector<comm::Work> works;
    for (int i = 1; i < size; ++i) {
      const int to = (rank + i) % size, from = (rank + size - i) % size;
      works.push_back(group_->recv(at(slices.from, from), from, label));
      works.push_back(group_->send(at(slices.to, to), to, label));
    }
    at(slices.from, rank).copy_(at(slices.to, rank));
    for (const comm::Work& work : works) work.wait();
  } catch (const std::exception& e) {
    failed_(e.what());
    throw;
  }
}

void Exchange::loop() {
  const MutexLock lock(mutex_);
  for (;;) {
    wake_.wait(mutex_, [this]() LOCKSTEP_REQUIRES(mutex_) { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    auto task = std::move(queue_.front());
    queue_.pop_front();
    const MutexUnlock unlocked(mutex_);
    task();
    task = {};  // its tensors go before the next one starts
  }
}

}  // namespace lockstep::pytorch
