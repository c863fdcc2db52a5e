#include "launcher/rendezvous/endpoint.h"

#include <cerrno>
#include <cstring>
#include <memory>

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/number_text.h"

namespace lockstep::launcher {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

AddressList resolve(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0)
    throw EnvironmentError(
        str("[rendezvous] cannot resolve host '", host, "': ", ::gai_strerror(error)));
  return AddressList(found, &::freeaddrinfo);
}

bool same_address(const sockaddr* a, const sockaddr* b) {
  if (a->sa_family != b->sa_family) return false;
  if (a->sa_family == AF_INET)
    return reinterpret_cast<const sockaddr_in*>(a)->sin_addr.s_addr ==
           reinterpret_cast<const sockaddr_in*>(b)->sin_addr.s_addr;
  if (a->sa_family == AF_INET6)
    return IN6_ARE_ADDR_EQUAL(&reinterpret_cast<const sockaddr_in6*>(a)->sin6_addr,
                              &reinterpret_cast<const sockaddr_in6*>(b)->sin6_addr);
  return false;
}

bool is_loopback(const sockaddr* address) {
  if (address->sa_family == AF_INET)
    return (ntohl(reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr) >> 24) == 127;
  if (address->sa_family == AF_INET6)
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
  return false;
}

bool is_numeric(const std::string& host) {
  in6_addr ignored;
  return ::inet_pton(AF_INET, host.c_str(), &ignored) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), &ignored) == 1;
}

}  // namespace

bool Endpoint::is_unix() const { return host.starts_with(kUnixSocket); }

std::string Endpoint::text() const {
  if (is_unix()) return host;
  return host.find(':') == std::string::npos ? str(host, ":", port) : str("[", host, "]:", port);
}

Endpoint Endpoint::parse(const std::string& text, int default_port) {
  if (text.starts_with(kUnixSocket)) return {text, 0};
  std::string host = text;
  std::string port;
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    check(close != std::string::npos, "[rendezvous] endpoint '", text, "': the ']' is missing");
    host = text.substr(1, close - 1);
    if (close + 1 < text.size()) {
      check(text[close + 1] == ':', "[rendezvous] endpoint '", text, "': expected [address]:port");
      port = text.substr(close + 2);
    }
  } else if (const size_t colon = text.rfind(':');
             colon != std::string::npos && text.find(':') == colon) {
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
    check(!port.empty(), "[rendezvous] endpoint '", text, "': expected a port after ':'");
  }
  check(!host.empty(), "[rendezvous] endpoint '", text, "': expected host:port");
  check(text.starts_with('[') || host.find(':') == std::string::npos || is_numeric(host),
        "[rendezvous] endpoint '", text,
        "': an IPv6 address with a port needs brackets: [::1]:29400");
  Endpoint endpoint{host, default_port};
  if (!port.empty()) {
    endpoint.port = parse_number<int>(port).value_or(-1);
    check(endpoint.port >= 0 && endpoint.port <= 65535, "[rendezvous] endpoint '", text,
          "': expected a port from 0 to 65535, got '", port, "'");
  }
  return endpoint;
}

std::string bare_host(const std::string& text, const std::string& what) {
  const bool bracketed = text.size() > 2 && text.starts_with('[') && text.ends_with(']');
  const std::string host = bracketed ? text.substr(1, text.size() - 2) : text;
  check(!host.empty() && (host.find(':') == std::string::npos || is_numeric(host)), "[rendezvous] ",
        what, " '", text, "': expected a host name or an address without a port");
  return host;
}

std::string unresolved(const std::string& host) {
  if (host.starts_with(kUnixSocket)) return "";
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), nullptr, nullptr, &found);
  if (error == 0) ::freeaddrinfo(found);
  return error == 0 ? "" : str("; its name cannot be resolved: ", ::gai_strerror(error));
}

bool is_loopback_host(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0) return "localhost";
  return name;
}

bool is_local(const std::string& host) {
  if (host.starts_with(kUnixSocket)) return true;
  const AddressList addresses = resolve(host);
  ifaddrs* raw = nullptr;
  if (::getifaddrs(&raw) != 0)
    throw EnvironmentError("[rendezvous] getifaddrs: " + errno_text(errno));
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> interfaces(raw, &::freeifaddrs);
  for (const addrinfo* address = addresses.get(); address; address = address->ai_next) {
    if (is_loopback(address->ai_addr)) return true;
    for (const ifaddrs* each = interfaces.get(); each; each = each->ifa_next)
      if (each->ifa_addr && same_address(each->ifa_addr, address->ai_addr)) return true;
  }
  return false;
}

std::string listen_host(const std::string& host) {
  if (is_numeric(host) || host == "localhost") return host;
  const AddressList addresses = resolve(host);
  for (const addrinfo* address = addresses.get(); address; address = address->ai_next)
    if (is_loopback(address->ai_addr)) return "0.0.0.0";
  return host;
}

int free_port(const std::string& host) {
  sockaddr_storage address{};
  socklen_t size = sizeof(sockaddr_in);
  address.ss_family = AF_INET;
  if (!host.empty()) {
    const AddressList addresses = resolve(host);
    std::memcpy(&address, addresses->ai_addr, addresses->ai_addrlen);
    size = addresses->ai_addrlen;
  }
  const int fd = ::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw EnvironmentError("[rendezvous] socket: " + errno_text(errno));
  const bool bound = ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                     ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  const int error = errno;
  ::close(fd);
  if (!bound)
    throw EnvironmentError(str("[rendezvous] no free port on '", host, "': ", errno_text(error)));
  return ntohs(address.ss_family == AF_INET ? reinterpret_cast<sockaddr_in*>(&address)->sin_port
                                            : reinterpret_cast<sockaddr_in6*>(&address)->sin6_port);
}

}  // namespace lockstep::launcher
