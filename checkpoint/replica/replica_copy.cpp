#include "checkpoint/replica/replica_copy.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>

#include "checkpoint/format/chunks.h"
#include "core/base/parallel.h"
#include "core/tensor/device_copies.h"

namespace lockstep::checkpoint {
namespace {

constexpr int64_t kMessageBytes = 4 * kChunkBytes;
constexpr size_t kMessagesInFlight = 4;
constexpr int64_t kAlignment = 64;

const char* chunk_at(const StateCopy& copy, int64_t chunk) {
  return static_cast<const char*>(copy.data.raw()) + chunk * kChunkBytes;
}
int64_t chunk_bytes(const StateCopy& copy, int64_t chunk) {
  return std::min(kChunkBytes, copy.data.bytes() - chunk * kChunkBytes);
}

}  // namespace

CopyLayout lay_out_copy(const Plan& plan, int rank, std::string_view identity) {
  CopyLayout layout;
  const std::vector<Part> parts = plan.parts_of(rank);
  for (const Part& part : parts) {
    layout.parts.push_back({part, layout.bytes});
    layout.bytes += (layout.parts.back().bytes() + kAlignment - 1) / kAlignment * kAlignment;
  }
  layout.digest =
      xxh3(str("rank ", rank, " of ", plan.ranks, "\n", parts_text(parts), "\n", identity));
  return layout;
}

std::span<const CopyLayout::Placed> CopyLayout::within(int64_t begin, int64_t bytes) const {
  const auto first = std::partition_point(
      parts.begin(), parts.end(), [&](const Placed& p) { return p.begin + p.bytes() <= begin; });
  const auto last = std::partition_point(first, parts.end(),
                                         [&](const Placed& p) { return p.begin < begin + bytes; });
  return {first, last};
}

void StateCopy::fill(const std::vector<Tensor>& slices, const CopyLayout& layout) const {
  std::vector<Tensor> hosts = slices;
  DeviceCopies copies;
  for (Tensor& slice : hosts) {
    if (slice.device() == kCpu) continue;
    const Tensor host = host_memory_like(slice);
    copies.start(host, slice);
    slice = host;
  }
  copies.wait();
  auto* out = sums.data<int64_t>();
  parallel_for(sums.numel(), [&](int64_t i) {
    char* chunk = static_cast<char*>(data.raw()) + i * kChunkBytes;
    const int64_t begin = i * kChunkBytes, end = begin + chunk_bytes(*this, i);
    for (const CopyLayout::Placed& placed : layout.within(begin, end - begin)) {
      const auto& slice = hosts[static_cast<size_t>(&placed - layout.parts.data())];
      const int64_t from = std::max(begin, placed.begin),
                    until = std::min(end, placed.begin + placed.bytes());
      std::memcpy(chunk + (from - begin),
                  static_cast<const char*>(slice.raw()) + (from - placed.begin),
                  static_cast<size_t>(until - from));
    }
    out[i] = static_cast<int64_t>(xxh3(chunk, end - begin));  // covers the gaps between parts, too
  });
}

int64_t StateCopy::first_damaged_chunk() const {
  std::atomic<int64_t> first = sums.numel();
  const auto* expected = sums.data<int64_t>();
  parallel_for(sums.numel(), [&](int64_t i) {
    if (static_cast<int64_t>(xxh3(chunk_at(*this, i), chunk_bytes(*this, i))) == expected[i])
      return;
    for (int64_t seen = first; i < seen && !first.compare_exchange_weak(seen, i);) {
    }
  });
  return first < sums.numel() ? first.load() : -1;
}

std::vector<Tensor> slices_of(const std::vector<Entry>& entries, const CopyLayout& layout) {
  std::unordered_map<std::string, const Entry*> by_name;
  for (const Entry& entry : entries) by_name[entry.name] = &entry;
  std::vector<Tensor> slices;
  for (const auto& [part, begin] : layout.parts) {
    const Entry& entry = *by_name.at(part.name);
    slices.push_back(entry.tensor.flatten().narrow(0, entry.shard.position(part.shard.offset()),
                                                   part.shard.length()));
  }
  return slices;
}

void exchange_bytes(comm::ProcessGroup& group, const Tensor& out, int to, const Tensor& in,
                    int from) {
  std::deque<comm::Work> under_way;
  const auto piece = [](const Tensor& all, int64_t at) {
    return all.narrow(0, at, std::min(kMessageBytes, all.numel() - at));
  };
  for (int64_t at = 0; at < std::max(out.numel(), in.numel()); at += kMessageBytes) {
    if (at < out.numel()) under_way.push_back(group.send(piece(out, at), to));
    if (at < in.numel()) under_way.push_back(group.recv(piece(in, at), from));
    for (; under_way.size() > kMessagesInFlight; under_way.pop_front()) under_way.front().wait();
  }
  for (const comm::Work& work : under_way) work.wait();
}

void send_copy(comm::ProcessGroup& group, const StateCopy& copy, int to) {
  group.send(copy.sums, to).wait();
  exchange_bytes(group, copy.data, to, Tensor::empty({0}, DType::u8), to);
}

int64_t receive_copy(comm::ProcessGroup& group, const CopyLayout& layout, int from,
                     CopyReader& reader) {
  const Tensor sums = Tensor::empty({chunk_count(layout.bytes)}, DType::i64);
  group.recv(sums, from).wait();
  int64_t first_damaged = -1;
  const Tensor message = Tensor::empty({std::min(kMessageBytes, layout.bytes)}, DType::u8);
  for (int64_t at = 0; at < layout.bytes; at += kMessageBytes) {
    const Tensor piece = message.narrow(0, 0, std::min(kMessageBytes, layout.bytes - at));
    group.recv(piece, from).wait();
    for (int64_t begin = 0; begin < piece.numel(); begin += kChunkBytes) {
      const int64_t bytes = std::min(kChunkBytes, piece.numel() - begin),
                    chunk = (at + begin) / kChunkBytes;
      const char* data = static_cast<const char*>(piece.raw()) + begin;
      if (first_damaged < 0 &&
          static_cast<int64_t>(xxh3(data, bytes)) != sums.data<int64_t>()[chunk])
        first_damaged = chunk;
      if (first_damaged < 0)
        reader.take(layout, at + begin, data, bytes);  // otherwise it only receives the rest
    }
  }
  return first_damaged;
}

CopyReader::CopyReader(const std::vector<Entry>& entries) {
  for (const Entry& entry : entries) {
    const bool direct = entry.tensor.device() == kCpu && entry.tensor.is_contiguous();
    targets_[entry.name] = {entry.tensor, direct ? entry.tensor : host_memory_like(entry.tensor),
                            entry.shard};
  }
}

void CopyReader::take(const CopyLayout& layout, int64_t begin, const void* data, int64_t bytes) {
  for (const CopyLayout::Placed& placed : layout.within(begin, bytes)) {
    const auto target = targets_.find(placed.part.name);
    if (target == targets_.end()) continue;
    const int64_t element = size_of(placed.part.dtype);
    const int64_t came = std::max(begin, placed.begin),
                  until = std::min(begin + bytes, placed.begin + placed.bytes());
    const int64_t first = (came - placed.begin) / element;
    bool changed = false;
    for_each_common_run(
        placed.part.shard, first, (until - placed.begin) / element, target->second.shard,
        [&](const CommonRun& run) {
          std::memcpy(
              static_cast<char*>(target->second.host.raw()) + run.in_b * element,
              static_cast<const char*>(data) + (came - begin) + (run.in_a - first) * element,
              static_cast<size_t>(run.length * element));
          changed = true;
        });
    if (changed) target->second.tensor.mark_changed("restoring a replica");
  }
}

void CopyReader::finish() {
  DeviceCopies copies;
  for (const auto& [name, target] : targets_)
    if (target.host.raw() != target.tensor.raw()) copies.start(target.tensor, target.host);
  copies.wait();
}

}  // namespace lockstep::checkpoint
