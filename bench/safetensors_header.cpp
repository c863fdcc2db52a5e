// Reads the worst safetensors headers of nearly 100 MB (tests/support/large_headers.h) from a file
// in the page cache, each in its own process: bench_safetensors_header [DIR].
//
// Prints two Markdown tables. The first has the time, the process's additional peak memory, and how
// long nlohmann's parser takes to tell whether the text, in memory, is JSON at all. The second has
// the cost of comparing each file with itself.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/exchange/diff.h"
#include "checkpoint/files/readable_file.h"
#include "checkpoint/format/safetensors.h"
#include "core/base/clock.h"
#include "core/base/error.h"
#include "tests/support/large_headers.h"

namespace lockstep {
namespace {

double peak_mb() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / 1e6;
}

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void write_file(const std::string& path, const test::LargeHeader& header) {
  const uint64_t length = header.text.size();
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(&length), sizeof length);
  out << header.text << std::string(static_cast<size_t>(header.data_bytes), '\0');
  if (!out.flush()) throw EnvironmentError("cannot write " + path);
}

double time_nlohmann(const std::string& path) {
  const auto file = checkpoint::open_file(path);
  std::string text(static_cast<size_t>(file->bytes() - 8), '\0');
  file->read(8, text.data(), file->bytes() - 8);
  const auto start = Clock::now();
  [[maybe_unused]] volatile const bool good = nlohmann::json::accept(text);
  return milliseconds_since(start);
}

void measure_reading(const char* name, const std::string& path) {
  const double before = peak_mb();
  const auto start = Clock::now();
  std::string said = "good";
  try {
    checkpoint::read_safetensors_header(path);
  } catch (const EnvironmentError&) {
    said = "refused";
  }
  const double ms = milliseconds_since(start), peak = peak_mb() - before;
  std::printf("| %s | %s | %.0f | %.0f | %.0f |\n", name, said.c_str(), ms, peak,
              time_nlohmann(path));
}

// Opens the file twice, as `lockstep checkpoint diff` does.
void measure_comparing(const char* name, const std::string& path) {
  const double before = peak_mb();
  const auto start = Clock::now();
  const auto a = checkpoint::open_tensors(path), b = checkpoint::open_tensors(path);
  const double opened = milliseconds_since(start);
  const checkpoint::Compared result =
      checkpoint::diff(*a, *b, {}, [](const checkpoint::TensorDifference&) {});
  const double ms = milliseconds_since(start), peak = peak_mb() - before;
  std::printf("| %s | %.0f | %.0f | %.0f | %.0f |\n", name, opened, ms, peak,
              peak * 1e6 / static_cast<double>(2 * result.tensors));
}

// Its own process, to measure its peak memory. Returns whether the body succeeded.
bool in_process_of_its_own(const std::function<void()>& body) {
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    std::fflush(stdout);
    ::_exit(0);
  }
  int status = 0;
  return child >= 0 && ::waitpid(child, &status, 0) >= 0 && status == 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  using namespace lockstep;
  const std::string path =
      (argc > 1 ? std::string(argv[1]) : std::filesystem::temp_directory_path().string()) +
      "/lockstep-header-" + std::to_string(::getpid()) + ".safetensors";
  bool good = true;
  std::printf("| header | | ms | peak MB | nlohmann::json::accept, ms |\n|---|---|---|---|---|\n");
  for (const auto& [name, make] : test::large_headers()) {
    write_file(path, make());
    good = in_process_of_its_own([&, &which = name] { measure_reading(which, path); }) && good;
  }
  std::printf(
      "\n| compared with itself | opened after ms | compared after ms | peak MB | bytes a tensor "
      "|\n|---|---|---|---|---|\n");
  for (const auto& [name, make] : test::large_headers()) {
    if (std::string_view(name).find("million tensors") == std::string_view::npos) continue;
    write_file(path, make());
    good = in_process_of_its_own([&, &which = name] { measure_comparing(which, path); }) && good;
  }
  std::filesystem::remove(path);
  return good ? 0 : 1;
}
