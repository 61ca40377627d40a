// SPDX-License-Identifier: Apache-2.0
// Descriptors and the transfer of bytes.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "hawser/errc.hpp"
#include "native.hpp"
#include "os/platform.hpp"
#include "os/reactor.hpp"

namespace hawser::platform {
namespace {

void set_option(native_handle socket, int level, int name, int value) noexcept {
  static_cast<void>(::setsockopt(descriptor(socket), level, name, &value, sizeof value));
}

}  // namespace

native_handle accept(native_handle listener, std::error_code& error) noexcept {
  for (;;) {
    const int accepted =
        ::accept4(descriptor(listener), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
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
  constexpr int kind = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  if (::socketpair(AF_UNIX, kind, 0, ends.data()) != 0) {
    throw std::system_error(last_error(), "cannot create a pair of sockets");
  }
  return {ends[0], ends[1]};
}

void close(native_handle handle) noexcept {
  if (handle != no_handle) ::close(descriptor(handle));
}

void shut_down_writing(native_handle socket) noexcept {
  ::shutdown(descriptor(socket), SHUT_WR);
}

std::size_t read_some(native_handle socket, std::span<std::byte> into,
                      std::error_code& error) noexcept {
  for (;;) {
    const auto bytes = ::recv(descriptor(socket), into.data(), into.size(), MSG_DONTWAIT);
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
    const auto bytes = ::sendmsg(descriptor(socket), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
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
}

std::optional<peer_identity> peer_of(native_handle socket) noexcept {
  ucred who{};
  socklen_t size = sizeof who;
  if (::getsockopt(descriptor(socket), SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 || who.pid == 0) {
    return std::nullopt;
  }
  return peer_identity{who.uid, who.gid, who.pid};
}

}  // namespace hawser::platform
