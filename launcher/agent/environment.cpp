#include "launcher/agent/environment.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <sstream>

#include <unistd.h>

#include "core/base/cores.h"

namespace lockstep::launcher {

namespace {

// The device that a rank takes: that entry of the list, or of all devices.
std::string device_of(const std::map<std::string, std::string>& variables, int local_rank) {
  const auto visible = variables.find("CUDA_VISIBLE_DEVICES");
  if (visible == variables.end()) return str(local_rank);
  std::istringstream list(visible->second);
  std::string device;
  for (int i = 0; i <= local_rank; ++i)
    if (!std::getline(list, device, ',')) return "";
  return device;
}

}  // namespace

int threads_per_rank(int nproc) { return std::max(1, usable_cores() / std::max(1, nproc)); }

std::vector<std::string> rank_environment(const LaunchSpec& spec, const std::string& run_id,
                                          const JobState& job, const Node& node,
                                          const Endpoint& store, const RankPlace& place) {
  std::map<std::string, std::string> variables;
  for (char** each = environ; *each; ++each) {
    const std::string entry = *each;
    const size_t equals = entry.find('=');
    if (equals != std::string::npos) variables[entry.substr(0, equals)] = entry.substr(equals + 1);
  }
  for (const auto& [name, value] : spec.environment) variables[name] = value;

  int world = 0;
  for (const auto& each : job.nodes) world += each.slots;
  const int rank = node.first_rank + place.local_rank;
  const auto put = [&](const char* name, const auto& value) { variables[name] = str(value); };
  put("RANK", rank);
  put("LOCAL_RANK", place.local_rank);
  put("WORLD_SIZE", world);
  put("LOCAL_WORLD_SIZE", node.slots);
  put("GROUP_RANK", node.node_rank);
  put("GROUP_WORLD_SIZE", job.nodes.size());
  put("ROLE_RANK", rank);
  put("ROLE_WORLD_SIZE", world);
  put("ROLE_NAME", spec.role);
  put("MASTER_ADDR", job.nodes.front().master_addr);
  put("MASTER_PORT", job.nodes.front().master_port);
  if (spec.virtual_local_rank) {
    put("LOCAL_RANK", 0);
    put("LOCKSTEP_LOCAL_RANK", place.local_rank);  // among those of the agent
    put("CUDA_VISIBLE_DEVICES", device_of(variables, place.local_rank));
  }
  if (variables["TORCH_NCCL_ASYNC_ERROR_HANDLING"].empty())
    put("TORCH_NCCL_ASYNC_ERROR_HANDLING", 1);
  put("TORCHELASTIC_RUN_ID", run_id);
  put("TORCHELASTIC_RESTART_COUNT", job.restarts);
  put("TORCHELASTIC_MAX_RESTARTS", spec.max_restarts);
  // Rank 0 serves PyTorch's store itself. Our agent has no store of that kind.
  put("TORCHELASTIC_USE_AGENT_STORE", "False");
  put("TORCHELASTIC_ERROR_FILE", place.error_file);
  put("LOCKSTEP_ERROR_FILE", place.error_file);
  put("LOCKSTEP_AGENT_PAGE", place.agent_page);
  put("LOCKSTEP_STORE", store.text());
  put("LOCKSTEP_RUN_ID", run_id);
  put("LOCKSTEP_EPOCH", job.epoch);
  variables.erase("LOCKSTEP_KEPT_MEMORY");  // set by an agent around this one
  if (!place.kept_memory.empty()) put("LOCKSTEP_KEPT_MEMORY", place.kept_memory);
  if (place.terminal_columns > 0) {
    put("LOCKSTEP_TTY", 1);
    put("COLUMNS", place.terminal_columns);
  }
  if (std::string& threads = variables["OMP_NUM_THREADS"]; threads.empty())
    threads = str(threads_per_rank(node.slots));

  std::vector<std::string> environment;
  environment.reserve(variables.size());
  for (const auto& [name, value] : variables) environment.push_back(str(name, "=", value));
  return environment;
}

}  // namespace lockstep::launcher
