// write_safetensors_corpus DIR [MOST_BYTES]: the corpus's files of so many bytes, into DIR/files,
// and DIR/corpus.tsv: name, verdict, why the Rust crate's may differ, and what we read of a good
// one (tests/checkpoint/format/compare_with_crate.py).
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "checkpoint/format/safetensors.h"
#include "tests/checkpoint/format/safetensors_corpus.h"

namespace lockstep::checkpoint {
namespace {

std::string contents(const std::string& path) {
  const SafetensorsHeader header = read_safetensors_header(path);
  nlohmann::json metadata = nlohmann::json::object();
  header.metadata.each(
      [&](std::string_view key, std::string_view value) { metadata[std::string(key)] = value; });
  std::vector<nlohmann::json> tensors;
  for (const SafetensorsInfo info : header.tensors)
    tensors.push_back({info.name, info.dtype, std::vector(info.shape.begin(), info.shape.end()),
                       info.begin, info.bytes});
  std::sort(tensors.begin(), tensors.end());
  return nlohmann::json{{"metadata", metadata}, {"tensors", tensors}}.dump();
}

void write(const std::filesystem::path& dir, size_t most_bytes) {
  std::filesystem::create_directories(dir / "files");
  std::ofstream list(dir / "corpus.tsv");
  for (const CorpusFile& file : safetensors_corpus()) {
    if (file.bytes.size() > most_bytes) continue;
    const std::string path = dir / "files" / file.name;
    std::ofstream(path, std::ios::binary) << file.bytes;
    const bool good = file.said.empty();
    list << file.name << '\t' << (good ? "good" : "bad") << '\t' << file.differs << '\t'
         << (good ? contents(path) : "") << '\n';
  }
  if (!list.flush()) throw EnvironmentError("cannot write below " + dir.string());
}

}  // namespace
}  // namespace lockstep::checkpoint

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s DIR [MOST_BYTES]\n", argv[0]);
    return 2;
  }
  try {
    lockstep::checkpoint::write(argv[1], argc > 2 ? std::strtoul(argv[2], nullptr, 10) : SIZE_MAX);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", argv[0], e.what());
    return 1;
  }
}
