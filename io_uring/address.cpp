// SPDX-License-Identifier: Apache-2.0
// Addresses, listening and connecting.
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cstring>
#include <memory>

#include "calls.hpp"
#include "hawser/errc.hpp"
#include "native.hpp"
#include "os/platform.hpp"

namespace hawser::platform {
namespace {

static_assert(sizeof(sockaddr_storage) == sizeof(socket_address::storage));

sockaddr* raw(socket_address& address) noexcept {
  return reinterpret_cast<sockaddr*>(address.storage.data());
}

const sockaddr* raw(const socket_address& address) noexcept {
  return reinterpret_cast<const sockaddr*>(address.storage.data());
}

socket_address copy_of(const void* from, std::size_t bytes) noexcept {
  socket_address address;
  address.size = static_cast<std::uint32_t>(std::min(bytes, address.storage.size()));
  std::memcpy(address.storage.data(), from, address.size);
  return address;
}

int open_socket(const socket_address& address) noexcept {
  return calls::socket(raw(address)->sa_family);
}

int look_up(const std::string& host, const std::string& port, int flags,
            addrinfo*& found) noexcept {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  return calls::getaddrinfo(host.c_str(), port.c_str(), hints, found);
}

// getaddrinfo() has numbers of its own. For the caller they are all "not there", but one.
failure resolver_failure(int value, const std::string& what) {
  if (value == EAI_SYSTEM) return {last_error(), what};
  if (value == EAI_MEMORY) return {errc::resource_exhausted, what};
  return {errc::unreachable, what + ": " + ::gai_strerror(value)};
}

std::string unix_text(const socket_address& address) {
  sockaddr_un local{};
  std::memcpy(&local, address.storage.data(), std::min<std::size_t>(address.size, sizeof local));
  constexpr std::size_t path_at = offsetof(sockaddr_un, sun_path);
  const std::size_t room = address.size > path_at ? address.size - path_at : 0;
  return "unix:" + std::string(local.sun_path, ::strnlen(local.sun_path, room));
}

template <class Local>
socket_address name_of(native_handle socket, Local query) {
  socket_address address;
  socklen_t size = static_cast<socklen_t>(address.storage.size());
  if (query(descriptor(socket), raw(address), &size) != 0) {
    throw std::system_error(last_error(), "cannot read the address of a socket");
  }
  address.size = std::min<std::uint32_t>(size, address.storage.size());
  return address;
}

}  // namespace

std::optional<socket_address> numeric_address(const std::string& host, const std::string& port) {
  addrinfo* found = nullptr;
  if (look_up(host, port, AI_NUMERICSERV | AI_NUMERICHOST, found) != 0) return std::nullopt;
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);
  return copy_of(found->ai_addr, found->ai_addrlen);
}

std::vector<socket_address> resolve(const std::string& host, const std::string& port) {
  addrinfo* found = nullptr;
  const int failed = look_up(host, port, AI_NUMERICSERV, found);
  if (failed != 0) {
    resolver_failure(failed, "cannot resolve " + host + ":" + port).raise();
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);
  std::vector<socket_address> addresses;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    addresses.push_back(copy_of(each->ai_addr, each->ai_addrlen));
  }
  return addresses;
}

socket_address unix_address(const std::string& path) {
  sockaddr_un local{};
  local.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof local.sun_path ||
      path.find('\0') != std::string::npos) {
    failure(errc::bad_uri, "unix:" + path + ": the path must have 1.." +
                               std::to_string(sizeof local.sun_path - 1) + " bytes and no zero")
        .raise();
  }
  std::memcpy(local.sun_path, path.data(), path.size());
  return copy_of(&local, offsetof(sockaddr_un, sun_path) + path.size() + 1);
}

std::string to_string(const socket_address& address) {
  if (address.size == 0) return "(no address)";
  if (raw(address)->sa_family == AF_UNIX) return unix_text(address);
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (::getnameinfo(raw(address), address.size, host.data(), host.size(), port.data(), port.size(),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "(unknown address)";
  }
  const bool bracket = raw(address)->sa_family == AF_INET6;
  return (bracket ? "tcp://[" : "tcp://") + std::string(host.data()) + (bracket ? "]:" : ":") +
         port.data();
}

namespace {

native_handle bind_listener(const socket_address& address, int backlog) {
  const int socket = open_socket(address);
  const auto fail = [&](const char* action) {
    const auto error = errno == EADDRINUSE ? make_error_code(errc::address_in_use) : last_error();
    platform::close(socket);
    throw std::system_error(error, std::string("cannot ") + action + " " + to_string(address));
  };
  if (socket < 0) fail("open a socket for");
  const int on = 1;
  if (raw(address)->sa_family != AF_UNIX) {
    static_cast<void>(calls::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
  }
  if (raw(address)->sa_family == AF_INET6) {
    static_cast<void>(calls::setsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on));
  }
  if (calls::bind(socket, raw(address), address.size) != 0) fail("bind");
  if (calls::listen(socket, backlog) != 0) fail("listen at");
  return socket;
}

}  // namespace

native_handle open_listener(const socket_address& address, int backlog) {
  return outlast_the_dead([&] { return bind_listener(address, backlog); });
}

socket_address local_address(native_handle socket) {
  return name_of(socket, calls::getsockname);
}

socket_address remote_address(native_handle socket) {
  return name_of(socket, calls::getpeername);
}

native_handle start_connect(const socket_address& address, bool& pending,
                            std::error_code& error) noexcept {
  pending = false;
  const int socket = open_socket(address);
  if (socket < 0) {
    error = last_error();
    return no_handle;
  }
  const auto attempt = [&] {
    return calls::connect(socket, raw(address), address.size) == 0 ? 0 : errno;
  };
  const auto goes_on = [](int outcome) {  // also when interrupted, see connect(2)
    return outcome == EINPROGRESS || outcome == EINTR || outcome == EALREADY;
  };
  int outcome = attempt();
  // A peer on this host has mostly answered by now, and asking again costs less than waiting.
  if (goes_on(outcome)) outcome = attempt();
  pending = goes_on(outcome);
  if (outcome != 0 && outcome != EISCONN && !pending) {
    error = system_error_code(outcome);
    platform::close(socket);
    return no_handle;
  }
  error.clear();
  return socket;
}

std::error_code finish_connect(native_handle socket) noexcept {
  int outcome = 0;
  if (!calls::getsockopt(descriptor(socket), SOL_SOCKET, SO_ERROR, &outcome, sizeof outcome)) {
    return last_error();
  }
  return outcome == 0 ? std::error_code() : system_error_code(outcome);
}

}  // namespace hawser::platform
