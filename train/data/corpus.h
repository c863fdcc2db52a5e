// Corpus: the bytes of one or several files, mapped into memory and read as one long text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::train {

// Immutable: reads may come from several threads. The files must not shrink while they are in use.
class Corpus {
 public:
  // A file, or a folder whose regular files (hidden ones not) are read in name order. Throws UsageError that names the path.
  explicit Corpus(const std::string& path);

  int64_t bytes() const { return begins_.back(); }
  // Copies [offset, offset + count), which must lie within.
  void copy(int64_t offset, int64_t count, uint8_t* to) const;
  // Hash of the size and of up to 256 evenly spread pieces of 4 KiB: tells other data apart without reading all of it.
  std::string fingerprint() const;

 private:
  class Mapping;
  std::vector<std::shared_ptr<const Mapping>> files_;
  std::vector<int64_t> begins_{0};  // first byte of each file in the corpus, then the end
};

}  // namespace lockstep::train
