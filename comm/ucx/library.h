// UCX's functions, and the one context of this process. libucp is loaded at the first use, so
// programs that use no ucx group run without it, and keep their signal handlers: libucs installs
// its own when it is loaded.
#pragma once

#include <string>

#include <ucp/api/ucp.h>

namespace lockstep::comm::ucx {

// The functions that this folder uses, under their names without "ucp_".
struct Library {
  decltype(&::ucp_init_version) init_version;
  decltype(&::ucp_get_version_string) get_version_string;
  decltype(&::ucp_config_read) config_read;
  decltype(&::ucp_config_modify) config_modify;
  decltype(&::ucp_config_release) config_release;
  decltype(&::ucp_worker_create) worker_create;
  decltype(&::ucp_worker_destroy) worker_destroy;
  decltype(&::ucp_worker_get_address) worker_get_address;
  decltype(&::ucp_worker_release_address) worker_release_address;
  decltype(&::ucp_worker_get_efd) worker_get_efd;
  decltype(&::ucp_worker_arm) worker_arm;
  decltype(&::ucp_worker_signal) worker_signal;
  decltype(&::ucp_worker_progress) worker_progress;
  decltype(&::ucp_worker_set_am_recv_handler) worker_set_am_recv_handler;
  decltype(&::ucp_ep_create) ep_create;
  decltype(&::ucp_ep_close_nbx) ep_close_nbx;
  decltype(&::ucp_ep_flush_nbx) ep_flush_nbx;
  decltype(&::ucp_tag_send_nbx) tag_send_nbx;
  decltype(&::ucp_tag_recv_nbx) tag_recv_nbx;
  decltype(&::ucp_am_send_nbx) am_send_nbx;
  decltype(&::ucp_request_cancel) request_cancel;
  decltype(&::ucp_request_free) request_free;
  decltype(&::ucs_status_string) status_string;
};

// Loads it once. Throws EnvironmentError where it cannot be loaded. Thread-safe.
const Library& library();

// Of this process, made at the first use. Throws EnvironmentError, also in a process that was
// forked after the first use. Thread-safe.
ucp_context_h context();

// "Connection reset by remote peer".
std::string text_of(ucs_status_t status);

// Throws EnvironmentError with UCX's text unless `status` is UCS_OK.
void check_ucx(ucs_status_t status, const char* call);

}  // namespace lockstep::comm::ucx
