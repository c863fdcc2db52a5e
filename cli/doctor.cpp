// lockstep doctor: shows what this machine has, and how to get what it lacks.
#include <cmath>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include <CLI/App.hpp>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/version.h"
#include "comm/mpi/factory.h"
#include "comm/nccl/factory.h"
#include "comm/text.h"
#include "comm/ucx/factory.h"
#include "core/base/cores.h"
#include "core/base/number_text.h"
#include "core/base/parallel.h"
#include "core/device/cuda_device.h"
#include "core/device/kernels.h"
#include "core/device/probe.h"
#include "launcher/rank/rank_env.h"
#include "launcher/trust/grpc_facts.h"
#include "train/bench/pairs.h"
#include "train/parallel/groups.h"

namespace lockstep::cli {
namespace {

constexpr int kMostRanks = 32;

class Report {
 public:
  void line(bool good, const std::string& what, const std::string& advice = {}) {
    std::printf("%s %s\n", good ? "ok  " : "look", what.c_str());
    if (!good && !advice.empty()) std::printf("       %s\n", advice.c_str());
    healthy_ = healthy_ && good;
  }
  bool healthy() const { return healthy_; }

 private:
  bool healthy_ = true;
};

void report_threads(Report& report) {
  const double quota = cpu_quota();
  const std::string cores =
      str("cores: ", std::thread::hardware_concurrency(),
          std::isfinite(quota) ? str(" (a CPU quota grants the time of ", quota, ")") : "",
          ", compute threads of a single process: ");
  try {
    report.line(true, str(cores, num_threads()));
  } catch (const UsageError& error) {
    report.line(false, cores + "none", error.what());
  }
}

// Open MPI's ranks on one host use /dev/shm. Our own shm backend has no file there.
void report_shared_memory(Report& report) {
  struct statvfs shm {};
  if (statvfs("/dev/shm", &shm) != 0)
    return report.line(false, "/dev/shm is not there",
                       "mount a tmpfs on it: Open MPI's ranks on one host need it");
  const double free_bytes = static_cast<double>(shm.f_bavail) * static_cast<double>(shm.f_frsize);
  report.line(free_bytes >= 256.0 * (1 << 20),
              "/dev/shm, for Open MPI: " + size_text(free_bytes) + " free",
              "enlarge it: mount -o remount,size=2G /dev/shm (containers: --shm-size)");
}

// Without devices, nobody misses it.
void report_nccl(Report& report) {
  try {
    report.line(true, "NCCL: " + comm::nccl_version());
  } catch (const EnvironmentError& error) {
    report.line(cuda::device_count() < 2, "NCCL: none: " + std::string(error.what()),
                "ranks on several cards exchange data through the host without it");
  }
}

// A machine without a device is no fault.
void report_devices(Report& report) {
  const int count = cuda::device_count();
  if (count == 0) return report.line(true, "CUDA devices: none: " + cuda::why_none());
  report.line(true, str("CUDA devices: ", count, ", driver for CUDA ", cuda::driver_version()));
  for (int i = 0; i < count; ++i) {
    const cuda::DeviceInfo info = cuda::info(i);
    report.line(true, str("  cuda:", i, ": ", info.model, ", compute capability ", info.major, ".",
                          info.minor, ", ", size_text(static_cast<double>(info.memory_bytes))));
  }
  // As a rank does at its start: it loads what computes matrix products.
  try {
    cuda::bind(0);
    report.line(true, "  cuda:0 can be used, with its library of matrix products");
  } catch (const EnvironmentError& error) {
    report.line(false, str("  cuda:0 cannot be used: ", error.what()),
                "training on CUDA devices fails without it");
  }
}

// What carries collectives between hosts.
void report_ucx(Report& report) {
  if (!comm::has_ucx())
    return report.line(false, "UCX backend: not built in", "install libucx-dev, then build again");
  const std::string version = comm::ucx_version();
  report.line(
      !version.empty(),
      "UCX backend: built in, " + (version.empty() ? "but UCX cannot be loaded" : "UCX " + version),
      "install libucx0");
}

// Processes without the job's token do not reach them, so they are no fault of this machine.
void report_grpc(Report& report) {
  const std::string version = launcher::grpc_version();
  const auto weaknesses = launcher::weaknesses_of_grpc(version);
  report.line(true, "gRPC: " + version +
                        (weaknesses.empty() ? ""
                                            : ", with known weaknesses; only processes with the "
                                              "job's token, or of its user, reach them:"));
  for (const std::string& each : weaknesses) report.line(true, "  " + each);
}

std::string this_host() {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  return host;
}

// Under a launcher: what the ranks' hosts have between them. Rank 0 prints it.
void report_pairs(Report& report, const launcher::RankEnv& rank) {
  check(rank.size <= kMostRanks, "[doctor] at most ", kMostRanks,
        " ranks measure their pairs, got ", rank.size, ": start one on each host (-n 1)");
  const auto group = train::make_group(train::with_backend("auto"), rank);
  const std::vector<std::string> hosts = comm::all_gather_text(*group, this_host());
  const std::vector<train::PairFigures> pairs = train::measure_pairs(*group);
  if (rank.rank != 0) return;
  report.line(true, str("between ", rank.size, " ranks, over ", group->backend_name(), ":"));
  for (const train::PairFigures& pair : pairs) {
    char text[160];
    std::snprintf(text, sizeof text, "  %8.1f us  %6.2f GB/s  clocks %.1f ms apart",
                  pair.latency_us, pair.gb_per_s, std::abs(pair.clock_ahead_ms));
    report.line(true, str(text, "  ranks ", pair.a, " (", hosts[static_cast<size_t>(pair.a)],
                          ") and ", pair.b, " (", hosts[static_cast<size_t>(pair.b)], ")"));
  }
  for (const std::string& finding : train::findings(pairs, hosts)) report.line(false, finding);
}

int doctor() {
  std::printf("%s\n", version_text().c_str());
  Report report;
  report_threads(report);
  report.line(std::string(cpu_instruction_set()) != "generic",
              str("instruction set of the kernels: ", cpu_instruction_set()),
              "this processor lacks AVX2: training works, slowly");
  report.line(true, str("peak of one core: ", static_cast<int>(probe_peak_gflops(DType::f32)),
                        " GFLOP/s in f32, ", static_cast<int>(probe_peak_gflops(DType::bf16)),
                        " in bf16 (probed)"));
  if (comm::has_mpi()) report_shared_memory(report);
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  report.line(files.rlim_cur >= 1024, str("open files: ", files.rlim_cur, " of ", files.rlim_max),
              "raise it: ulimit -n 4096");
  report.line(comm::has_mpi(),
              str("Open MPI backend: ", comm::has_mpi() ? "built in" : "not built in"),
              "install libopenmpi-dev and openmpi-bin, then build again");
  report_ucx(report);
  report_grpc(report);
  report_devices(report);
  report_nccl(report);
  report.line(!this_host().empty(), str("host name: ", this_host()));
  const launcher::RankEnv rank = launcher::detect_rank();
  if (rank.size > 1) report_pairs(report, rank);
  return report.healthy() ? 0 : 1;
}

}  // namespace

void add_doctor_command(CLI::App& app, int& exit_code) {
  app.add_subcommand("doctor", "check this machine, and say how to get what it lacks")
      ->callback([&exit_code] { exit_code = doctor(); });
}

}  // namespace lockstep::cli
