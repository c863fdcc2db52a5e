#include "comm/ucx/library.h"

#include <array>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include <dlfcn.h>
#include <ucs/debug/log_def.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/mutex.h"

namespace lockstep::comm::ucx {
namespace {

constexpr const char* kFile = "libucp.so.0";

// The handlers of all signals: saved when made, set again when destroyed.
class SignalHandlers {
 public:
  SignalHandlers() {
    for (size_t s = 1; s < saved_.size(); ++s)
      ::sigaction(static_cast<int>(s), nullptr, &saved_[s]);
  }
  ~SignalHandlers() {
    for (size_t s = 1; s < saved_.size(); ++s)
      ::sigaction(static_cast<int>(s), &saved_[s], nullptr);
  }
  SignalHandlers(const SignalHandlers&) = delete;
  SignalHandlers& operator=(const SignalHandlers&) = delete;

 private:
  std::array<struct sigaction, SIGSYS + 1> saved_{};
};

// UCX would print to standard output. A peer's failure is reported by whoever waits for it, so
// what UCX says of it is for developers.
ucs_log_func_rc_t to_our_log(const char*, unsigned, const char* function, ucs_log_level_t level,
                             const ucs_log_component_config_t*, const char* format, va_list args) {
  if (level == UCS_LOG_LEVEL_FATAL) return UCS_LOG_FUNC_RC_CONTINUE;
  std::array<char, 512> text{};
  std::vsnprintf(text.data(), text.size(), format, args);
  log::debug("ucx: ", function, ": ", text.data());
  return UCS_LOG_FUNC_RC_STOP;
}

template <typename F>
void find(void* file, const char* name, F& function) {
  function = reinterpret_cast<F>(::dlsym(file, name));
  if (!function) throw EnvironmentError(str("[ucx] ", kFile, " has no function ", name));
}

Library load() {
  const SignalHandlers handlers;
  void* file = ::dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (!file)
    throw EnvironmentError(
        str("[ucx] cannot load UCX: ", ::dlerror(), "; install libucx0, or use another backend"));
  Library l{};
  find(file, "ucp_init_version", l.init_version);
  find(file, "ucp_get_version_string", l.get_version_string);
  find(file, "ucp_config_read", l.config_read);
  find(file, "ucp_config_modify", l.config_modify);
  find(file, "ucp_config_release", l.config_release);
  find(file, "ucp_worker_create", l.worker_create);
  find(file, "ucp_worker_destroy", l.worker_destroy);
  find(file, "ucp_worker_get_address", l.worker_get_address);
  find(file, "ucp_worker_release_address", l.worker_release_address);
  find(file, "ucp_worker_get_efd", l.worker_get_efd);
  find(file, "ucp_worker_arm", l.worker_arm);
  find(file, "ucp_worker_signal", l.worker_signal);
  find(file, "ucp_worker_progress", l.worker_progress);
  find(file, "ucp_worker_set_am_recv_handler", l.worker_set_am_recv_handler);
  find(file, "ucp_ep_create", l.ep_create);
  find(file, "ucp_ep_close_nbx", l.ep_close_nbx);
  find(file, "ucp_ep_flush_nbx", l.ep_flush_nbx);
  find(file, "ucp_tag_send_nbx", l.tag_send_nbx);
  find(file, "ucp_tag_recv_nbx", l.tag_recv_nbx);
  find(file, "ucp_am_send_nbx", l.am_send_nbx);
  find(file, "ucp_request_cancel", l.request_cancel);
  find(file, "ucp_request_free", l.request_free);
  find(file, "ucs_status_string", l.status_string);
  decltype(&::ucs_log_push_handler) push_log_handler = nullptr;
  find(file, "ucs_log_push_handler", push_log_handler);
  // Whoever asks UCX for its log gets it where UCX writes it.
  if (!std::getenv("UCX_LOG_LEVEL")) push_log_handler(to_our_log);
  return l;
}

// What UCX shall do unless its environment variable says otherwise.
void set_unless_given(ucp_config_t* config, const char* name, const char* value) {
  if (!std::getenv(str("UCX_", name).c_str())) library().config_modify(config, name, value);
}

ucp_context_h make_context() {
  const Library& l = library();
  ucp_config_t* config = nullptr;
  check_ucx(l.config_read(nullptr, nullptr, &config), "ucp_config_read");
  // How soon UCX notices by itself that an idle peer's host has gone.
  set_unless_given(config, "KEEPALIVE_INTERVAL", "1s");
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  params.features = UCP_FEATURE_TAG | UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.name = "lockstep";
  ucp_context_h made = nullptr;
  const ucs_status_t status = l.init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &made);
  l.config_release(config);
  check_ucx(status, "ucp_init");
  return made;
}

}  // namespace

const Library& library() {
  static const Library loaded = load();
  return loaded;
}

// Never destroyed: groups may outlive static objects.
ucp_context_h context() {
  struct Made {
    Mutex mutex;
    ucp_context_h context LOCKSTEP_GUARDED_BY(mutex) = nullptr;
    pid_t process LOCKSTEP_GUARDED_BY(mutex) = 0;
  };
  static Made& made = *new Made;
  const MutexLock lock(made.mutex);
  // UCX's thread, which accepts connections, is not in a forked child.
  if (made.context && made.process != ::getpid())
    throw EnvironmentError(
        "[ucx] this process was forked from one that uses UCX, and cannot use "
        "it: start a program of its own (exec), or fork before the first group");
  if (!made.context) made.context = make_context();
  made.process = ::getpid();
  return made.context;
}

std::string text_of(ucs_status_t status) { return library().status_string(status); }

void check_ucx(ucs_status_t status, const char* call) {
  if (status == UCS_OK) return;
  throw EnvironmentError(str("[ucx] ", call, " failed: ", text_of(status)));
}

}  // namespace lockstep::comm::ucx
