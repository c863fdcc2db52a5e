// Corpus: the bytes of one or several files, read as one long text. They are not mapped into
// memory: a mapping of a file that is cut short, or whose disk fails, ends the process by SIGBUS,
// without a word about the file.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::train {

// What to do about a text that is missing or empty: "run …" for the one that a script fetches, "set
// data.path …".
std::string advice_on_text(const std::string& path);

// Reads may come from several threads; accept_files() only while there are none.
class Corpus {
 public:
  // A file, or a folder whose regular files (hidden ones not) are read in name order. Throws
  // UsageError that names the path.
  explicit Corpus(const std::string& path);

  int64_t bytes() const { return begins_.back(); }
  // Copies [offset, offset + count), which must lie within. Throws EnvironmentError that names the
  // file where it cannot be read, or where its size, its time of change or the file itself is not
  // what it was when the corpus was made.
  void copy(int64_t offset, int64_t count, uint8_t* to) const;
  // XXH3 of 128 bits over all bytes, as hex. Reads them all, and stops early with an error once
  // `stop` is true. Throws EnvironmentError as copy() does.
  std::string hash(const std::atomic<bool>& stop) const;
  // Hash of the size and of up to 256 evenly spread pieces of 4 KiB: cheap, but it does not see
  // what lies between them.
  std::string sampled_hash() const;

  // A hash of what the system says of the files: inode, size and times. Where it is equal, the
  // files are the same and unchanged.
  std::string stamp() const;
  // Whether a change from now on will be seen in the stamp. A file that was written a moment ago
  // may be written again within the same tick of the file system's clock.
  bool settled() const;
  // Takes the files as they are now, in size the same, for unchanged: their bytes were compared.
  // Throws EnvironmentError where a size differs or a file cannot be read.
  void accept_files();

 private:
  struct File {
    std::string path;
    int64_t bytes = 0;
    uint64_t inode = 0;
    int64_t modified_ns = 0;  // what it holds
    int64_t changed_ns = 0;   // anything of it, its name and rights included
  };
  static File look_at(const std::string& path);
  // Copies from one file, or throws.
  static void copy_from(const File& file, int64_t offset, int64_t count, uint8_t* to);

  std::vector<File> files_;
  std::vector<int64_t> begins_{0};  // first byte of each file in the corpus, then the end
};

}  // namespace lockstep::train
