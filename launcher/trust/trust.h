// Trust: how the processes of a job recognize each other on the way to the rendezvous.
//
// - With a token, both sides prove over TLS that they have it.
// - Without one, only processes of the same user on the same machine are let in.
// - `plaintext` lets in everybody who reaches the port.
#pragma once

#include <optional>

#include "launcher/trust/job_token.h"

namespace lockstep::launcher {

struct Trust {
  std::optional<JobToken> token = {};
  // Without a token, talk to other machines anyway. A person has asked for that.
  bool plaintext = false;
};

// LOCKSTEP_JOB_TOKEN_FILE, LOCKSTEP_JOB_TOKEN and LOCKSTEP_PLAINTEXT=1. Throws UsageError for a bad
// token or if both variables are set, and EnvironmentError if the file cannot be read.
Trust trust_from_environment();

// How to get what a job on several machines needs, as the end of a message.
std::string how_to_trust();

}  // namespace lockstep::launcher
