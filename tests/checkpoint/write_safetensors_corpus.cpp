// write_safetensors_corpus DIR [MOST_BYTES]: the corpus as files, with corpus.tsv: file, verdict, and why the Rust crate's may differ.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/checkpoint/safetensors_corpus.h"

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s DIR [MOST_BYTES]\n", argv[0]);
    return 2;
  }
  const std::filesystem::path dir = argv[1];
  const size_t most = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : SIZE_MAX;
  std::filesystem::create_directories(dir / "files");
  std::ofstream list(dir / "corpus.tsv");
  for (const auto& file : lockstep::checkpoint::safetensors_corpus()) {
    if (file.bytes.size() > most) continue;
    std::ofstream(dir / "files" / file.name, std::ios::binary) << file.bytes;
    list << file.name << '\t' << (file.said.empty() ? "good" : "bad") << '\t' << file.differs << '\n';
  }
  return list.flush() ? 0 : 1;
}
