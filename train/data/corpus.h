// Corpus: the bytes of one or several files, read as one long text. They are not mapped into memory: a mapping of a file that is cut
// short, or whose disk fails, ends the process by SIGBUS, without a word about the file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::train {

// What to do about a text that is missing or empty: "run …" for the one that a script fetches, "set data.path …".
std::string advice_on_text(const std::string& path);

// Immutable: reads may come from several threads.
class Corpus {
 public:
  // A file, or a folder whose regular files (hidden ones not) are read in name order. Throws UsageError that names the path.
  explicit Corpus(const std::string& path);

  int64_t bytes() const { return begins_.back(); }
  // Copies [offset, offset + count), which must lie within. Throws EnvironmentError that names the file where its size has changed
  // since the corpus was made, or where it cannot be read.
  void copy(int64_t offset, int64_t count, uint8_t* to) const;
  // Hash of the size and of up to 256 evenly spread pieces of 4 KiB: tells other data apart without reading all of it.
  std::string fingerprint() const;

 private:
  struct File {
    std::string path;
    int64_t bytes = 0;
  };
  std::vector<File> files_;
  std::vector<int64_t> begins_{0};  // first byte of each file in the corpus, then the end
};

}  // namespace lockstep::train
