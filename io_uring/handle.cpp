// SPDX-License-Identifier: Apache-2.0
// Descriptors and the transfer of bytes.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "calls.hpp"
#include "hawser/errc.hpp"
#include "native.hpp"
#include "os/platform.hpp"
#include "os/reactor.hpp"

namespace hawser::platform {
namespace {

void set_option(native_handle socket, int level, int name, int value) noexcept {
  static_cast<void>(calls::setsockopt(descriptor(socket), level, name, &value, sizeof value));
}

bool choose_congestion_control(native_handle socket, std::string_view name) noexcept {
  return calls::setsockopt(descriptor(socket), IPPROTO_TCP, TCP_CONGESTION, name.data(),
                           name.size());
}

// bbr measures the path and paces what it sends: on loopback it halves what a socket carries.
bool is_paced(native_handle socket) noexcept {
  std::array<char, 16> name{};  // TCP_CA_NAME_MAX
  return calls::getsockopt(descriptor(socket), IPPROTO_TCP, TCP_CONGESTION, name.data(),
                           name.size()) &&
         std::string_view(name.data(), ::strnlen(name.data(), name.size())).starts_with("bbr");
}

// Both ends have the same address: only then does no network lie between them.
bool is_local(native_handle socket) noexcept {
  sockaddr_storage here{};
  sockaddr_storage there{};
  socklen_t here_bytes = sizeof here;
  socklen_t there_bytes = sizeof there;
  const int handle = descriptor(socket);
  if (calls::getsockname(handle, reinterpret_cast<sockaddr*>(&here), &here_bytes) != 0 ||
      calls::getpeername(handle, reinterpret_cast<sockaddr*>(&there), &there_bytes) != 0 ||
      here.ss_family != there.ss_family) {
    return false;
  }
  if (here.ss_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in&>(here).sin_addr.s_addr ==
           reinterpret_cast<const sockaddr_in&>(there).sin_addr.s_addr;
  }
  return here.ss_family == AF_INET6 &&
         IN6_ARE_ADDR_EQUAL(&reinterpret_cast<const sockaddr_in6&>(here).sin6_addr,
                            &reinterpret_cast<const sockaddr_in6&>(there).sin6_addr);
}

}  // namespace

native_handle accept(native_handle listener, std::error_code& error) noexcept {
  for (;;) {
    const int accepted = calls::accept(descriptor(listener));
    if (accepted >= 0) {
      error.clear();
      return accepted;
    }
    if (errno == EINTR || is_transient_accept_error(errno)) continue;
    error = errno == EAGAIN ? std::error_code() : last_error();
    return no_handle;
  }
}

std::pair<native_handle, native_handle> socket_pair() {
  std::array<int, 2> ends{};
  if (calls::socketpair(ends) != 0) {
    throw std::system_error(last_error(), "cannot create a pair of sockets");
  }
  return {ends[0], ends[1]};
}

void shut_down(native_handle socket) noexcept {
  calls::shutdown(descriptor(socket), SHUT_RDWR);
}

void close(native_handle socket) noexcept {
  if (socket == no_handle) return;
  shut_down(socket);
  calls::close(descriptor(socket));
}

// An operation in a ring holds its file. When a process dies, the kernel cancels what is left in
// its ring by delayed work, two ticks of the timer later, and only then closes a socket that was
// waited for: the peer read its end after 6 to 8 ms. Behind an epoll, which does not hold what it
// watches, it is closed with the process: after 0.2 ms.
native_handle watch_socket(native_handle socket) {
  const int set = calls::epoll_create();
  if (set < 0) throw std::system_error(last_error(), "cannot watch a socket");
  if (calls::epoll_add(set, descriptor(socket)) == 0) return set;
  const std::error_code error = last_error();
  calls::close(set);
  throw std::system_error(error, "cannot watch a socket");
}

void shut_down_writing(native_handle socket) noexcept {
  calls::shutdown(descriptor(socket), SHUT_WR);
}

std::size_t read_some(native_handle socket, std::span<std::byte> into,
                      std::error_code& error) noexcept {
  for (;;) {
    const auto bytes = calls::recv(descriptor(socket), into.data(), into.size(), MSG_DONTWAIT);
    if (bytes >= 0) {
      error.clear();
      return static_cast<std::size_t>(bytes);
    }
    if (errno == EINTR) continue;
    error = last_error();
    return 0;
  }
}

std::size_t write_some(native_handle socket, std::span<const io_slice> from,
                       std::error_code& error) noexcept {
  std::array<iovec, stream::max_slices> pieces;
  const auto count = std::min(from.size(), pieces.size());
  std::transform(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(count), pieces.begin(),
                 to_iovec);
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = count;
  for (;;) {
    const auto bytes = calls::sendmsg(descriptor(socket), message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (bytes >= 0) {
      error.clear();
      return static_cast<std::size_t>(bytes);
    }
    if (errno == EINTR) continue;
    error = last_error();
    return 0;
  }
}

bool would_block(const std::error_code& error) noexcept {
  return error == std::errc::operation_would_block ||
         error == std::errc::resource_unavailable_try_again;
}

bool is_exhaustion(const std::error_code& error) noexcept {
  return error == std::errc::too_many_files_open ||
         error == std::errc::too_many_files_open_in_system || error == std::errc::no_buffer_space ||
         error == std::errc::not_enough_memory || error == errc::resource_exhausted;
}

void apply(native_handle socket, const stream_options& options) noexcept {
  if (options.no_delay) set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  if (options.send_buffer_bytes != 0) {
    set_option(socket, SOL_SOCKET, SO_SNDBUF, to_int(options.send_buffer_bytes));
  }
  if (options.receive_buffer_bytes != 0) {
    set_option(socket, SOL_SOCKET, SO_RCVBUF, to_int(options.receive_buffer_bytes));
  }
  if (options.unsent_bytes != 0) {
    set_option(socket, IPPROTO_TCP, TCP_NOTSENT_LOWAT, to_int(options.unsent_bytes));
  }
  if (options.fast_when_local && is_paced(socket) && is_local(socket)) {
    // Whether a process may choose them is the system's to say; the first that is granted stays.
    static_cast<void>(choose_congestion_control(socket, "cubic") ||
                      choose_congestion_control(socket, "reno"));
  }
}

std::optional<peer_identity> peer_of(native_handle socket) noexcept {
  ucred who{};
  if (!calls::getsockopt(descriptor(socket), SOL_SOCKET, SO_PEERCRED, &who, sizeof who) ||
      who.pid == 0) {
    return std::nullopt;
  }
  return peer_identity{who.uid, who.gid, who.pid};
}

// ---- handles on a socket ----------------------------------------------------------------------

namespace {

constexpr std::size_t control_bytes = CMSG_SPACE(handle_list::most * sizeof(int));

void take_handles(msghdr& message, handle_list& came) noexcept {
  for (cmsghdr* each = CMSG_FIRSTHDR(&message); each != nullptr;
       each = CMSG_NXTHDR(&message, each)) {
    if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int handle = -1;
      std::memcpy(&handle, CMSG_DATA(each) + i * sizeof handle, sizeof handle);
      if (came.count == handle_list::most) {
        calls::close(handle);
      } else {
        came.handles[came.count++] = handle;
      }
    }
  }
}

}  // namespace

std::size_t write_with_handles(native_handle socket, const io_slice& from,
                               std::span<const native_handle> handles,
                               std::error_code& error) noexcept {
  alignas(cmsghdr) std::array<char, control_bytes> control{};
  iovec piece = to_iovec(from);
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!handles.empty()) {
    const std::size_t count = std::min(handles.size(), handle_list::most);
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (std::size_t i = 0; i < count; ++i) {
      const int handle = descriptor(handles[i]);
      std::memcpy(CMSG_DATA(rights) + i * sizeof handle, &handle, sizeof handle);
    }
  }
  for (;;) {
    const auto bytes = calls::send_handles(descriptor(socket), message);
    if (bytes >= 0) {
      error.clear();
      return static_cast<std::size_t>(bytes);
    }
    if (errno == EINTR) continue;
    error = last_error();
    return 0;
  }
}

// What the system cannot deliver it closes by itself: there is no room for it in `control`, or no
// descriptor is left.
std::size_t read_with_handles(native_handle socket, std::span<std::byte> into, handle_list& came,
                              std::error_code& error) noexcept {
  alignas(cmsghdr) std::array<char, control_bytes> control{};
  iovec piece{into.data(), into.size()};
  for (;;) {
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const auto bytes = calls::recv_handles(descriptor(socket), message);
    if (bytes >= 0) {
      take_handles(message, came);
      if ((message.msg_flags & MSG_CTRUNC) != 0) came.cut_short = came.count < handle_list::most;
      error.clear();
      return static_cast<std::size_t>(bytes);
    }
    if (errno == EINTR) continue;
    error = last_error();
    return 0;
  }
}

}  // namespace hawser::platform
