// Drives a fuzz target without libFuzzer: TARGET [ROUNDS [SEED]] CORPUS… runs every file of the
// corpora as it is, then ROUNDS inputs that are mutations of them, by libFuzzer's custom mutator
// too where the target has one. Equal arguments try equal inputs. The input that brought the target
// down is left in ./crash-input.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

extern "C" [[gnu::weak]] size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most,
                                                        unsigned seed);
// What a custom mutator calls for changes that know nothing of structure: this driver makes those
// itself.
extern "C" size_t LLVMFuzzerMutate(uint8_t*, size_t size, size_t) { return size; }

namespace {

using Bytes = std::vector<uint8_t>;

const Bytes* current = nullptr;

extern "C" void keep_input(int signal) {
  const int fd = ::open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd >= 0 && current && ::write(fd, current->data(), current->size()) >= 0) ::close(fd);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const Bytes& input) {
  current = &input;
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

std::vector<Bytes> read_corpus(char** begin, char** end) {
  std::vector<std::filesystem::path> paths;
  for (char** arg = begin; arg != end; ++arg)
    for (const auto& entry : std::filesystem::directory_iterator(*arg))
      paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> corpus;
  for (const auto& path : paths) {
    std::ifstream in(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  return corpus;
}

// One to eight small changes, of the kinds that formats of lengths, offsets and text are sensitive
// to.
class Mutator {
 public:
  Mutator(const std::vector<Bytes>& corpus, uint64_t seed) : corpus_(corpus), random_(seed) {}

  Bytes next() {
    Bytes bytes = corpus_[below(corpus_.size())];
    if (LLVMFuzzerCustomMutator && below(2) == 0) {
      for (size_t changes = 1 + below(3); changes > 0; --changes) change_structure(bytes);
      if (below(2) == 0) return bytes;
    }
    const bool has_length = starts_with_length(bytes);
    for (size_t changes = 1 + below(8); changes > 0; --changes) {
      change(bytes);
      // A length that fits again lets a change further in be looked at.
      if (has_length && below(2) == 0) mend_length(bytes);
    }
    return bytes;
  }

 private:
  size_t below(size_t count) { return count == 0 ? 0 : random_() % count; }

  void change_structure(Bytes& bytes) {
    const size_t size = bytes.size();
    bytes.resize(size + 8192);
    bytes.resize(LLVMFuzzerCustomMutator(bytes.data(), size, bytes.size(),
                                         static_cast<unsigned>(random_()) | 1));
  }

  void change(Bytes& bytes) {
    static constexpr uint8_t kTelling[] = {0,   0xff, 0x7f, 0x80, '"', '{', '}',  '[', ']',
                                           ',', ':',  '-',  '.',  '0', '9', '\\', ' '};
    const size_t at = below(bytes.size());
    const size_t length = std::min(below(33), bytes.size() - at);
    const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(7)) {
      case 0:
        if (!bytes.empty()) *place ^= static_cast<uint8_t>(1u << below(8));
        break;
      case 1:
        if (!bytes.empty()) *place = kTelling[below(std::size(kTelling))];
        break;
      case 2: bytes.insert(place, kTelling[below(std::size(kTelling))]); break;
      case 3: bytes.erase(place, place + static_cast<std::ptrdiff_t>(length)); break;
      case 4: {  // repeats a piece
        const Bytes piece(place, place + static_cast<std::ptrdiff_t>(length));
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(below(bytes.size() + 1)),
                     piece.begin(), piece.end());
        break;
      }
      case 5: {  // a piece of another input
        const Bytes& other = corpus_[below(corpus_.size())];
        const size_t from = below(other.size());
        const size_t count = std::min(below(65), other.size() - from);
        bytes.insert(place, other.begin() + static_cast<std::ptrdiff_t>(from),
                     other.begin() + static_cast<std::ptrdiff_t>(from + count));
        break;
      }
      default: bytes.resize(at); break;
    }
  }

  // Of a part of what follows, in eight bytes.
  static bool starts_with_length(const Bytes& bytes) {
    uint64_t length = 0;
    if (bytes.size() < sizeof length) return false;
    std::memcpy(&length, bytes.data(), sizeof length);
    return length <= bytes.size() - sizeof length;
  }
  void mend_length(Bytes& bytes) {
    if (bytes.size() < 8) return;
    const size_t length = bytes.size() - 8 - below(2) * below(bytes.size() - 7);
    for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(length >> (8 * i));
  }

  const std::vector<Bytes>& corpus_;
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s ROUNDS SEED CORPUS…\n", argv[0]);
    return 2;
  }
  for (const int signal : {SIGABRT, SIGSEGV, SIGFPE, SIGBUS, SIGILL})
    std::signal(signal, keep_input);
  const long rounds = std::strtol(argv[1], nullptr, 10);
  const std::vector<Bytes> corpus = read_corpus(argv + 3, argv + argc);
  if (corpus.empty()) {
    std::fprintf(stderr, "the corpus is empty\n");
    return 2;
  }
  for (const Bytes& input : corpus) run(input);
  Mutator mutator(corpus, std::strtoull(argv[2], nullptr, 10));
  for (long i = 0; i < rounds; ++i) run(mutator.next());
  std::printf("%zu files of the corpus and %ld mutations: nothing found\n", corpus.size(), rounds);
}
