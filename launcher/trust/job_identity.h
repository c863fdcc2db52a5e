// The key and the certificate with which the processes of a job prove to each other over TLS that
// they have its token. They follow from the token alone, so every process makes the same ones, and
// no file travels between hosts.
#pragma once

#include <string>

#include "launcher/trust/job_token.h"

namespace lockstep::launcher {

// The name in the certificate. Peers expect it whatever host they connect to.
inline constexpr const char* kJobName = "job.lockstep";

// PEM. The certificate signs itself, and is the only one that a process of the job trusts.
struct JobIdentity {
  std::string key;
  std::string certificate;
};
// Throws EnvironmentError.
JobIdentity identity_of(const JobToken& token);

}  // namespace lockstep::launcher
