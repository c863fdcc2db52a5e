// Corpus: the bytes of one or several files, read as one long text. It does not map files into
// memory. If a mapped file is truncated or its disk fails, SIGBUS ends the process without naming
// the file.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::train {

// What to do about a text that is missing or empty: "run …" for the text that a script fetches,
// "set data.path …" for others.
std::string advice_on_text(const std::string& path);

// Several threads may read. Call accept_files() only while none does.
class Corpus {
 public:
  // A file, or a folder whose regular files (without hidden ones) are read in name order. Throws
  // UsageError that names the path.
  explicit Corpus(const std::string& path);

  int64_t bytes() const { return begins_.back(); }
  // Copies [offset, offset + count), which must lie within. Throws EnvironmentError that names the
  // file if it cannot be read, or if its size, its time of change or the file itself differs from
  // when the corpus was made.
  void copy(int64_t offset, int64_t count, uint8_t* to) const;
  // For messages: "byte 17 of 'a.txt'". `offset` must lie within.
  std::string place_of(int64_t offset) const;
  // XXH3 of 128 bits over all bytes, as hex. Reads all of them. Stops early with an error once
  // `stop` is true. Throws EnvironmentError as copy() does.
  std::string hash(const std::atomic<bool>& stop) const;
  // Hash of the size and of up to 256 evenly spread pieces of 4 KiB. Cheap, but does not see
  // changes between the pieces.
  std::string sampled_hash() const;

  // A hash of the files' inodes, sizes and times. If it is equal, the files are the same and
  // unchanged.
  std::string stamp() const;
  // Whether the stamp will show every later change. A file that was written a moment ago may be
  // written again within the same tick of the file system's clock.
  bool settled() const;
  // Accepts the files as they are now, with the same sizes, as unchanged. Call it after comparing
  // their bytes. Throws EnvironmentError if a size differs or a file cannot be read.
  void accept_files();

 private:
  struct File {
    std::string path;
    int64_t bytes = 0;
    uint64_t inode = 0;
    int64_t modified_ns = 0;  // time of the last change of the contents
    int64_t changed_ns = 0;   // time of the last change of anything, also name and permissions
  };
  size_t file_of(int64_t offset) const;
  static File look_at(const std::string& path);
  // Copies from one file, or throws.
  static void copy_from(const File& file, int64_t offset, int64_t count, uint8_t* to);

  std::vector<File> files_;
  std::vector<int64_t> begins_{0};  // first byte of each file in the corpus, then the end
};

}  // namespace lockstep::train
