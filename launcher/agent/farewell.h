// Farewell: how an agent waits after its ranks have ended, for other nodes and for the reader of
// its output. It still reacts to signals.
#pragma once

#include <functional>

#include "launcher/process/stop_signals.h"

namespace lockstep::launcher {

class Farewell {
 public:
  // `wish`: what the signals have asked for so far. `usr1_asks`: whether SIGUSR1 asks to stop. If
  // not, it is meant for the ranks, which have ended, and is ignored.
  Farewell(StopSignals& signals, StopWish wish, bool usr1_asks)
      : signals_(signals), wish_(wish), usr1_asks_(usr1_asks) {}

  // Waits in short steps until `ready` returns true. Returns false at the limit, or as soon as
  // somebody insists on an end. Copies of an earlier request do not shorten the wait.
  bool wait_until(const std::function<bool()>& ready, Duration limit);
  bool asked() const { return wish_.asked(); }  // whether anybody asked to stop, at any time

 private:
  bool somebody_insists();

  StopSignals& signals_;
  StopWish wish_;
  bool usr1_asks_;
};

}  // namespace lockstep::launcher
