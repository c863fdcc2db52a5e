// model.safetensors.index.json, as Hugging Face writes it beside a model's files: it tells which
// file holds which tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::checkpoint {

// Stored compactly, like a header's tensors: an index may list millions.
class SafetensorsIndex {
 public:
  static constexpr const char* kFileName = "model.safetensors.index.json";

  // `path` is for messages. Throws EnvironmentError if the text is not such an index, if it lists
  // a tensor twice, or if a file is not a plain name: an index must not point outside of its
  // folder.
  SafetensorsIndex(std::string_view text, const std::string& path);
  static SafetensorsIndex read(const std::string& path);

  const std::vector<std::string>& files() const { return files_; }  // each file once

  // The tensors in ascending order of their names.
  size_t size() const { return tensors_.size(); }
  std::string_view name(size_t tensor) const { return name_of(tensors_[tensor]); }
  uint32_t file(size_t tensor) const { return tensors_[tensor].file; }  // index into files()

 private:
  class Reader;
  struct Tensor {
    uint32_t begin, bytes;  // of the name, in names_
    uint32_t file;
  };
  std::string_view name_of(const Tensor& tensor) const {
    return std::string_view(names_).substr(tensor.begin, tensor.bytes);
  }

  std::vector<std::string> files_;
  std::vector<Tensor> tensors_;
  std::string names_;
};

}  // namespace lockstep::checkpoint
