// Starts threads of the library. If the system grants none, std::thread would only report "Resource
// temporarily unavailable".
#pragma once

#include <future>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

namespace lockstep {

// Advice for that case: "raise the limit of this user's processes and threads (ulimit -u, now 34;
// or the container's) or …".
std::string thread_advice();

// These throw EnvironmentError "the system grants no thread PURPOSE (REASON): raise the limit …" if
// there is no thread; then `body` is not called. `purpose`: "to save in the background".
template <typename Body>
std::thread start_thread(std::string_view purpose, Body&& body);
// std::async(std::launch::async, body): the future's destructor waits for it.
template <typename Body>
auto start_async(std::string_view purpose, Body&& body);

[[noreturn]] void throw_no_thread(std::string_view purpose, std::string_view reason);

template <typename Body>
std::thread start_thread(std::string_view purpose, Body&& body) {
  try {
    return std::thread(std::forward<Body>(body));
  } catch (const std::system_error& e) {
    throw_no_thread(purpose, e.what());
  }
}

template <typename Body>
auto start_async(std::string_view purpose, Body&& body) {
  try {
    return std::async(std::launch::async, std::forward<Body>(body));
  } catch (const std::system_error& e) {
    throw_no_thread(purpose, e.what());
  }
}

}  // namespace lockstep
