#include "train/run/stop_budget.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "core/base/error.h"

namespace lockstep::train {
namespace {

// The lead time that the warning recommends, in whole seconds, with a margin for slower steps and
// saves.
int64_t advised_lead(Duration needed) { return std::llround(std::ceil(seconds(needed) * 1.5)); }

}  // namespace

void StopBudget::stepped(Duration step, Duration looked_again) {
  if (!std::exchange(warm_, true)) return;
  longest_step_ = std::max(longest_step_, step);
  longest_look_ = std::max(longest_look_, looked_again);
}

std::string StopBudget::warning() {
  // A request just after a check waits for the next one. The step after that ends the run.
  const Duration steps = longest_look_ + longest_step_,
                 needed = steps + save_.value_or(Duration::zero());
  if (said_ || budget_ <= Duration::zero() || needed <= budget_) return {};
  said_ = true;
  const std::string save = save_ ? str(stop_time_text(*save_), " for the save") : "plus the save";
  return str("when it is asked to stop, this run may need ", stop_time_text(needed), " (",
             stop_time_text(steps), " until a step ends it, ", save,
             "), but checkpoint.stop_budget_s allows ", stop_time_text(budget_),
             ": a scheduler may kill it before it has saved. Ask earlier (Slurm: --signal=USR1@",
             advised_lead(needed), ", or --signal=B:USR1@", advised_lead(needed),
             " where the batch script starts the run), or have more time granted (Slurm's "
             "KillWait, Kubernetes' "
             "terminationGracePeriodSeconds, systemd's TimeoutStopSec), and set the key to that. "
             "More saves "
             "(checkpoint.every_minutes, with checkpoint.async) leave less to lose");
}

std::string stop_time_text(Duration time) {
  char text[32];
  const double value = seconds(time);
  std::snprintf(text, sizeof text,
                value < 10    ? "%.2f s"
                : value < 100 ? "%.1f s"
                              : "%.0f s",
                value);
  return text;
}

}  // namespace lockstep::train
