// A file system in memory that knows what a power cut leaves: contents that were synced, and of a
// folder's changes since its last sync the first few, in their order (as a journal keeps them). Not
// thread-safe.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/files/file_system.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {

class MemoryFiles final : public FileSystem {
 public:
  struct Node {
    using Entries = std::map<std::string, std::shared_ptr<Node>>;
    bool folder = false;
    std::string data, synced;                // of a file
    Entries entries;                         // of a folder
    std::vector<Entries> unsynced_versions;  // the first is on disk; each change adds the entries
                                             // as they were before it
  };

  // The operation that fails, counting from 0 on, and all later ones with it: the machine is gone.
  // Negative: none.
  int64_t crash_at = -1;
  int64_t operations = 0;

  // Contents of a file, to look at and to damage.
  std::string& contents(const std::string& path) { return find(path, "open")->data; }
  bool exists(const std::string& path) const { return look_up(path) != nullptr; }
  void remove(const std::string& path) { change(parent(path)).erase(last(path)); }
  void link(const std::string& from, const std::string& to) {
    change(parent(to))[last(to)] = find(from, "link");
  }
  // Puts a real folder's files here.
  void add_file(const std::string& path, std::string data) {
    make_directories(path.substr(0, path.rfind('/')));
    auto node = std::make_shared<Node>();
    node->data = node->synced = std::move(data);
    change(parent(path))[last(path)] = std::move(node);
  }

  void power_cut(std::mt19937& random) {
    cut(*root_, random);
    crash_at = -1;
  }

  std::unique_ptr<WritableFile> create(const std::string& path) override {
    operation("create", path);
    if (exists(path)) fail("create", path, "File exists");
    auto node = std::make_shared<Node>();
    change(parent(path))[last(path)] = node;
    return std::make_unique<Writer>(*this, path, node);
  }
  void make_directories(const std::string& path) override {
    if (exists(path)) return;
    const std::string above = path.substr(0, path.rfind('/'));
    if (!above.empty()) make_directories(above);
    make_directory(path);
    sync_directory(above);
  }
  void make_directory(const std::string& path) override {
    operation("make folder", path);
    if (exists(path)) fail("make folder", path, "File exists");
    auto node = std::make_shared<Node>();
    node->folder = true;
    change(parent(path))[last(path)] = std::move(node);
  }
  void sync_directory(const std::string& path) override {
    operation("sync folder", path);
    (path.empty() ? root_ : find(path, "sync folder"))->unsynced_versions.clear();
  }
  void rename_directory(const std::string& from, const std::string& to) override {
    operation("rename", from);
    const auto moved = find(from, "rename"), other = look_up(to);
    auto& entries = change(parent(from));  // both names are in one folder
    entries.erase(last(from));
    if (other) entries[last(from)] = other;
    entries[last(to)] = moved;
  }
  void remove_all(const std::string& path) override {
    operation("remove", path);
    if (exists(path)) remove(path);
  }
  std::vector<std::string> list(const std::string& path) override {
    std::vector<std::string> names;
    if (const auto node = look_up(path))
      for (const auto& [name, child] : node->entries) names.push_back(name);
    return names;
  }
  std::unique_ptr<ReadableFile> open(const std::string& path) override {
    const auto node = find(path, "open");
    if (node->folder) fail("open", path, "not a regular file");
    return std::make_unique<Reader>(path, node);
  }
  std::optional<int64_t> free_bytes(const std::string&) override { return int64_t{1} << 40; }

 private:
  class Writer final : public WritableFile {
   public:
    Writer(MemoryFiles& files, std::string path, std::shared_ptr<Node> node)
        : files_(files), path_(std::move(path)), node_(std::move(node)) {}
    void write(const void* data, size_t bytes) override {
      files_.operation("write", path_);
      node_->data.append(static_cast<const char*>(data), bytes);
    }
    void sync() override {
      files_.operation("sync", path_);
      node_->synced = node_->data;
    }

   private:
    MemoryFiles& files_;
    std::string path_;
    std::shared_ptr<Node> node_;
  };

  class Reader final : public ReadableFile {
   public:
    Reader(std::string path, std::shared_ptr<Node> node)
        : path_(std::move(path)), node_(std::move(node)) {}
    const std::string& path() const override { return path_; }
    int64_t bytes() const override { return static_cast<int64_t>(node_->data.size()); }
    void read(int64_t offset, void* data, int64_t bytes) const override {
      if (offset + bytes > this->bytes())
        throw EnvironmentError(str("read '", path_, "': ends at byte ", this->bytes()));
      node_->data.copy(static_cast<char*>(data), static_cast<size_t>(bytes),
                       static_cast<size_t>(offset));
    }

   private:
    std::string path_;
    std::shared_ptr<Node> node_;
  };

  [[noreturn]] static void fail(const std::string& operation, const std::string& path,
                                const std::string& reason) {
    throw EnvironmentError(operation + " '" + path + "': " + reason);
  }
  void operation(const std::string& name, const std::string& path) {
    if (crash_at >= 0 && operations++ >= crash_at) fail(name, path, "Input/output error (errno 5)");
  }

  static std::string last(const std::string& path) { return path.substr(path.rfind('/') + 1); }
  std::shared_ptr<Node> look_up(const std::string& path) const {
    std::shared_ptr<Node> node = root_;
    for (size_t at = 1; node && at < path.size();) {
      const size_t end = std::min(path.find('/', at), path.size());
      const auto found = node->entries.find(path.substr(at, end - at));
      node = found == node->entries.end() ? nullptr : found->second;
      at = end + 1;
    }
    return node;
  }
  std::shared_ptr<Node> find(const std::string& path, const std::string& operation) const {
    auto node = look_up(path);
    if (!node) fail(operation, path, "No such file or directory (errno 2)");
    return node;
  }
  Node& parent(const std::string& path) const {
    return *find(path.substr(0, path.rfind('/')), "open folder");
  }
  // The folder's entries, which the caller is about to change.
  static Node::Entries& change(Node& folder) {
    folder.unsynced_versions.push_back(folder.entries);
    return folder.entries;
  }

  static void cut(Node& node, std::mt19937& random) {
    if (!node.folder) {
      // Of what was not synced, anything may be there: all, a part, or room that was never filled.
      const size_t extra = node.data.size() - std::min(node.data.size(), node.synced.size());
      switch (random() % 3) {
        case 0: node.data = node.synced; break;
        case 1: node.data.resize(node.synced.size() + random() % (extra + 1)); break;
        default:
          std::fill(node.data.begin() + static_cast<std::ptrdiff_t>(node.data.size() - extra),
                    node.data.end(), '\0');
      }
      node.synced = node.data;
      return;
    }
    const size_t kept = random() % (node.unsynced_versions.size() + 1);
    if (kept < node.unsynced_versions.size()) node.entries = node.unsynced_versions[kept];
    node.unsynced_versions.clear();
    for (auto& [name, child] : node.entries) cut(*child, random);
  }

  std::shared_ptr<Node> root_ = [] {
    auto node = std::make_shared<Node>();
    node->folder = true;
    return node;
  }();
};

}  // namespace lockstep::checkpoint
