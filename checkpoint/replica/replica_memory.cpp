#include "checkpoint/replica/replica_memory.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/format/chunks.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

// "LSPRPL01". Another layout gets another number.
constexpr uint64_t kMagic = 0x3130'4c50'5250'534c;
constexpr int64_t kPage = 4096;

// The file's first page.
struct Header {
  uint64_t magic = kMagic;
  int64_t copies = 0;
  int64_t capacity = 0;
  uint64_t sum = 0;  // checksum of the fields above
};
// The first page of a copy. Its chunk sums follow, and then, from a new page on, its bytes.
struct Record {
  uint64_t seal = 0;  // 0 means broken
  CopyLabel label;
};
static_assert(sizeof(Header) <= kPage && sizeof(Record) <= kPage &&
              std::atomic_ref<uint64_t>::is_always_lock_free);

constexpr int64_t pages(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }
constexpr int64_t sums_bytes(int64_t capacity) {
  return chunk_count(capacity) * static_cast<int64_t>(sizeof(uint64_t));
}
constexpr int64_t copy_bytes(int64_t capacity) {
  return kPage + pages(sums_bytes(capacity)) + pages(capacity);
}
constexpr int64_t file_bytes(int64_t copies, int64_t capacity) {
  return kPage + copies * copy_bytes(capacity);
}
// This limit keeps products of untrusted numbers from overflowing.
constexpr int64_t kMostBytes = std::numeric_limits<int64_t>::max() / 16;

uint64_t sum_of(const Header& header) { return xxh3(&header, offsetof(Header, sum)); }
uint64_t seal_of(const Record& record, const char* sums) {
  const uint64_t parts[] = {xxh3(&record.label, sizeof record.label),
                            xxh3(sums, sums_bytes(record.label.bytes))};
  const uint64_t seal = xxh3(parts, sizeof parts);
  return seal == 0 ? 1 : seal;
}

}  // namespace

ReplicaMemory::ReplicaMemory(std::string file)
    : name_(file.empty() ? "its memory" : std::move(file)) {
  const bool kept = name_.starts_with('/');
  fd_ = kept ? ::open(name_.c_str(), O_RDWR | O_CLOEXEC)
             : ::memfd_create("lockstep-replicas", MFD_CLOEXEC);
  if (fd_ < 0) throw EnvironmentError(str("[replica] open ", name_, ": ", errno_text(errno)));
  try {
    // On a disk, copies would be slow, and would outlive the process that keeps the file.
    if (::fcntl(fd_, F_GET_SEALS) < 0)
      throw EnvironmentError(str("[replica] ", name_, " is not a file in memory"));
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0)
      throw EnvironmentError(
          str("[replica] ", name_, " is in use by another process: ", errno_text(errno)));
    adopt();
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

ReplicaMemory::~ReplicaMemory() { ::close(fd_); }

ReplicaMemory::Mapping::~Mapping() { ::munmap(data, bytes); }

// Takes no memory yet, because the size that was found is not trusted.
void ReplicaMemory::map(int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (data == MAP_FAILED)
    throw EnvironmentError(
        str("[replica] map ", bytes, " bytes of ", name_, ": ", errno_text(errno)));
  mapping_ = std::make_shared<Mapping>(static_cast<char*>(data), size);
}

// Uses existing contents if the file's size matches its header.
void ReplicaMemory::adopt() {
  struct stat info {};
  Header header;
  if (::fstat(fd_, &info) != 0 ||
      ::pread(fd_, &header, sizeof header, 0) != static_cast<ssize_t>(sizeof header))
    return;
  if (header.magic != kMagic || header.sum != sum_of(header)) return;
  if (header.copies < 1 || header.copies > kMostCopies || header.capacity < 0 ||
      header.capacity > kMostBytes)
    return;
  if (info.st_size != file_bytes(header.copies, header.capacity)) return;
  map(info.st_size);
  copies_ = static_cast<int>(header.copies);
  capacity_ = header.capacity;
}

void ReplicaMemory::reserve(int copies, int64_t capacity, int64_t bytes) {
  check(copies >= 1 && copies <= kMostCopies && bytes >= 0 && bytes <= capacity &&
            capacity <= kMostBytes,
        "[replica] cannot hold ", copies, " copies of ", bytes, " bytes where the largest has ",
        capacity);
  const auto failed = [&](const char* what, int error) {
    return EnvironmentError(str("[replica] ", what, " for ", copies, " copies of ", bytes,
                                " bytes: ", errno_text(error)));
  };
  if (copies_ != copies || capacity_ != capacity) {
    copies_ = 0;
    memory_.fill(nullptr);
    mapping_.reset();
    const int64_t total = file_bytes(copies, capacity);
    // Empty the file first: an interruption must not leave copies of another layout.
    if (::ftruncate(fd_, 0) != 0 || ::ftruncate(fd_, total) != 0)
      throw failed("cannot size the memory", errno);
    map(total);
    if (const int error = ::posix_fallocate(fd_, 0, kPage); error != 0)
      throw failed("no memory", error);
    Header header{.copies = copies, .capacity = capacity};
    header.sum = sum_of(header);
    std::memcpy(mapping_->data, &header, sizeof header);
    copies_ = copies;
    capacity_ = capacity;
  }
  const MemoryScope scope(MemoryCategory::buffers);
  for (int copy = 0; copy < copies; ++copy) {
    const auto found = label(copy);
    const int64_t begin = begin_of(copy) - mapping_->data;
    const int64_t size =
        kPage + pages(sums_bytes(capacity)) + pages(std::max(bytes, found ? found->bytes : 0));
    // Reserve the memory now: if a later write found none, the process would be killed.
    if (const int error = ::posix_fallocate(fd_, begin, size); error != 0)
      throw failed("no memory", error);
    // Avoids page faults in the first copies. Older kernels do not support it.
    ::madvise(mapping_->data + begin, static_cast<size_t>(size), MADV_POPULATE_WRITE);
    memory_[static_cast<size_t>(copy)] = std::make_shared<Storage>(
        mapping_->data + begin, static_cast<size_t>(size), kCpu, [mapping = mapping_] {});
  }
}

char* ReplicaMemory::begin_of(int copy) const {
  check(copy >= 0 && copy < copies_, "[replica] there is no copy ", copy, " of ", copies_);
  return mapping_->data + kPage + copy * copy_bytes(capacity_);
}

std::optional<CopyLabel> ReplicaMemory::label(int copy) const {
  const char* begin = begin_of(copy);
  Record record;
  std::memcpy(&record, begin, sizeof record);
  if (record.seal == 0 || record.label.bytes < 0 || record.label.bytes > capacity_)
    return std::nullopt;
  if (record.seal != seal_of(record, begin + kPage)) return std::nullopt;
  return record.label;
}

StateCopy ReplicaMemory::view(int copy, int64_t bytes) const {
  const std::shared_ptr<Storage>& memory = memory_.at(static_cast<size_t>(copy));
  const int64_t data = kPage + pages(sums_bytes(capacity_));
  check(memory && bytes >= 0 && data + bytes <= static_cast<int64_t>(memory->bytes()),
        "[replica] there is no memory for ", bytes, " bytes of copy ", copy);
  return {Tensor::wrap(memory, {bytes}, DType::u8, data),
          Tensor::wrap(memory, {chunk_count(bytes)}, DType::i64, kPage)};
}

void ReplicaMemory::break_seal(int copy) {
  std::atomic_ref(reinterpret_cast<Record*>(begin_of(copy))->seal).store(0);
  // Keeps writes to the copy below this line. A compiler fence is enough: nobody reads it before
  // the process has ended.
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

void ReplicaMemory::seal(int copy, const CopyLabel& label) {
  auto* record = reinterpret_cast<Record*>(begin_of(copy));
  record->label = label;
  std::atomic_ref(record->seal)
      .store(seal_of(*record, begin_of(copy) + kPage), std::memory_order_release);
}

}  // namespace lockstep::checkpoint
