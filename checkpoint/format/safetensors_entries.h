// The contents of a safetensors header in compact form. A file may list millions of tensors or
// metadata keys, and each takes less memory here than its text.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/shape.h"

namespace lockstep::checkpoint {

// Returns the bits of an element of a dtype of the format, or 0 for an unknown name.
int safetensors_bits(std::string_view dtype);

struct SafetensorsInfo {
  std::string_view name;   // in an element of a list: valid as long as the list
  std::string_view dtype;  // name in the format, such as "F32"; in an element of a list: static
  Shape shape;
  int64_t begin = 0;  // first byte, in the file
  int64_t bytes = 0;
};

// A list of tensors. It stores a name and 24 bytes for each, plus 8 bytes for each dimension, and
// makes elements on demand.
class SafetensorsTensors {
 public:
  SafetensorsTensors() = default;
  SafetensorsTensors(std::initializer_list<SafetensorsInfo> list) {
    for (const SafetensorsInfo& info : list) push_back(info);
  }

  // Copies the name. `bytes` is computed from dtype and shape; the argument's value is ignored.
  // Throws UsageError for a tensor that no file can hold: an unknown dtype, not a whole number of
  // bytes, or a number beyond 63 bits.
  void push_back(const SafetensorsInfo& info);
  size_t size() const { return records_.size(); }
  bool empty() const { return records_.empty(); }
  SafetensorsInfo operator[](size_t i) const;
  std::string_view name(size_t i) const { return records_[i].name(); }  // without making the rest
  SafetensorsInfo front() const { return (*this)[0]; }
  SafetensorsInfo back() const { return (*this)[size() - 1]; }

  class Iterator {
   public:
    Iterator(const SafetensorsTensors* list, size_t at) : list_(list), at_(at) {}
    SafetensorsInfo operator*() const { return (*list_)[at_]; }
    Iterator& operator++() {
      ++at_;
      return *this;
    }
    bool operator==(const Iterator&) const = default;

   private:
    const SafetensorsTensors* list_;
    size_t at_;
  };
  Iterator begin() const { return {this, 0}; }
  Iterator end() const { return {this, size()}; }

  // Sorts as writers lay tensors out: the widest elements first, then by name.
  void sort_by_width();
  // Sorts by first byte. Tensors without bytes come before one that starts at the same byte;
  // otherwise the order of equal ones stays.
  void sort_by_begin();
  void set_begin(size_t i, int64_t begin) { records_[i].begin = begin; }
  void move_by(int64_t bytes) {
    for (Record& record : records_) record.begin += bytes;
  }
  // Returns a name that two tensors have.
  std::optional<std::string_view> repeated_name() const;

 private:
  struct Record {
    const char* data;  // the name, then the dimensions
    int64_t begin;
    uint32_t name_bytes;
    uint8_t word, dims;
    bool empty;  // the tensor has no bytes
    std::string_view name() const { return {data, name_bytes}; }
  };
  char* room(size_t bytes);

  std::vector<Record> records_;
  std::vector<std::unique_ptr<char[]>> blocks_;  // never moved: records point into them
  size_t used_ = 0, block_bytes_ = 0;            // of the last block
};

// Key-value texts, in the order in which they were added.
class SafetensorsMetadata {
 public:
  // Not a byte of UTF-8. It ends each key and each value in the stored text.
  static constexpr char kEnd = '\xff';

  SafetensorsMetadata() = default;
  SafetensorsMetadata(std::initializer_list<std::pair<std::string_view, std::string_view>> list) {
    for (const auto& [key, value] : list) add(key, value);
  }
  // Makes metadata from such a text, which a reader has assembled.
  static SafetensorsMetadata of_text(std::string text);

  // Throws UsageError unless both are UTF-8.
  void add(std::string_view key, std::string_view value);

  bool empty() const { return text_.empty(); }
  size_t size() const;
  // Searches from the first key on.
  std::optional<std::string_view> find(std::string_view key) const;
  // Returns a key that was added twice.
  std::optional<std::string_view> repeated_key() const;
  bool operator==(const SafetensorsMetadata&) const = default;

  template <typename Body>  // body(key, value)
  void each(const Body& body) const {
    for (size_t at = 0; at < text_.size();) {
      const std::string_view key = part(at), value = part(at + key.size() + 1);
      body(key, value);
      at += key.size() + value.size() + 2;
    }
  }

 private:
  std::string_view part(size_t at) const {
    return std::string_view(text_).substr(at, text_.find(kEnd, at) - at);
  }

  std::string text_;
};

}  // namespace lockstep::checkpoint
