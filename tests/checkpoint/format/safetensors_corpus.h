// Small safetensors files, for each rule of the format some that keep it and some that break it,
// with what our reader says of them and where the format's first reader, Hugging Face's Rust crate,
// says otherwise. scripts/compare_safetensors asks that one.
#pragma once

#include <string>
#include <vector>

namespace lockstep::checkpoint {

struct CorpusFile {
  std::string name;
  std::string bytes;
  std::string said;  // a part of the error, with the tensor's name where it concerns one; empty:
                     // the file is good
  // Why the crate's verdict is the other one; empty: it is the same.
  std::string differs = {};
};

std::vector<CorpusFile> safetensors_corpus();

}  // namespace lockstep::checkpoint
