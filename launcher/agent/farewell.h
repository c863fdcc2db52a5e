// Farewell: how an agent waits once its ranks have ended, for other nodes and for who reads its
// output. It still heeds signals.
#pragma once

#include <functional>

#include "launcher/process/stop_signals.h"

namespace lockstep::launcher {

class Farewell {
 public:
  // `wish`: what the signals so far add up to. `usr1_asks`: SIGUSR1 asks to stop as well; else it
  // is the ranks', which are gone.
  Farewell(StopSignals& signals, StopWish wish, bool usr1_asks)
      : signals_(signals), wish_(wish), usr1_asks_(usr1_asks) {}

  // Waits in short steps until `ready`. False: at the limit, or as soon as somebody insists on an
  // end. Copies of a wish cut nothing.
  bool wait_until(const std::function<bool()>& ready, Duration limit);
  bool asked() const { return wish_.asked(); }  // to stop, at any time

 private:
  bool somebody_insists();

  StopSignals& signals_;
  StopWish wish_;
  bool usr1_asks_;
};

}  // namespace lockstep::launcher
