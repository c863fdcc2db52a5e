#include "launcher/trust/trust.h"

#include <cstdlib>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

Trust trust_from_environment() {
  const std::string file = variable("LOCKSTEP_JOB_TOKEN_FILE");
  const std::string text = variable("LOCKSTEP_JOB_TOKEN");
  const std::string plaintext = variable("LOCKSTEP_PLAINTEXT");
  check(file.empty() || text.empty(),
        "[token] LOCKSTEP_JOB_TOKEN_FILE and LOCKSTEP_JOB_TOKEN are both set: unset one of them");
  check(plaintext.empty() || plaintext == "0" || plaintext == "1",
        "[token] environment variable LOCKSTEP_PLAINTEXT must be 0 or 1, got '", plaintext, "'");
  Trust trust;
  if (!file.empty()) trust.token = JobToken::read(file);
  if (!text.empty())
    trust.token = JobToken::parse(text, "the environment variable LOCKSTEP_JOB_TOKEN");
  trust.plaintext = plaintext == "1";
  return trust;
}

std::string how_to_trust() {
  return "make a token with `lockstep token FILE`, copy FILE to every host, and set "
         "LOCKSTEP_JOB_TOKEN_FILE=FILE there; or, in a network whose users you all trust, set "
         "LOCKSTEP_PLAINTEXT=1";
}

}  // namespace lockstep::launcher
