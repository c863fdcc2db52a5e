// A file system of tests that does what another one does; tests override the operations they are
// about.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/files/file_system.h"

namespace lockstep::checkpoint {

class ForwardingFiles : public FileSystem {
 public:
  explicit ForwardingFiles(FileSystem& real = posix_file_system()) : real_(real) {}
  std::unique_ptr<WritableFile> create(const std::string& path) override {
    return real_.create(path);
  }
  void make_directories(const std::string& path) override { real_.make_directories(path); }
  void make_directory(const std::string& path) override { real_.make_directory(path); }
  void sync_directory(const std::string& path) override { real_.sync_directory(path); }
  void rename_directory(const std::string& from, const std::string& to) override {
    real_.rename_directory(from, to);
  }
  void remove_all(const std::string& path) override { real_.remove_all(path); }
  std::vector<std::string> list(const std::string& path) override { return real_.list(path); }
  std::unique_ptr<ReadableFile> open(const std::string& path) override { return real_.open(path); }
  std::optional<int64_t> free_bytes(const std::string& path) override {
    return real_.free_bytes(path);
  }

 protected:
  FileSystem& real_;
};

class ForwardingFile : public WritableFile {
 public:
  explicit ForwardingFile(std::unique_ptr<WritableFile> real) : real_(std::move(real)) {}
  void write(const void* data, size_t bytes) override { real_->write(data, bytes); }
  void sync() override { real_->sync(); }

 protected:
  std::unique_ptr<WritableFile> real_;
};

}  // namespace lockstep::checkpoint
