// SPDX-License-Identifier: Apache-2.0
#include "sockets.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

namespace bench {
namespace {

[[noreturn]] void fail(const char* call) {
  throw std::system_error(errno, std::generic_category(), call);
}

/// An address of either family, as bind() and connect() want it.
class socket_address {
 public:
  explicit socket_address(std::uint16_t port) : size_(sizeof(sockaddr_in)) {
    auto& to = reinterpret_cast<sockaddr_in&>(storage_);
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }
  explicit socket_address(const std::string& path) : size_(sizeof(sockaddr_un)) {
    auto& to = reinterpret_cast<sockaddr_un&>(storage_);
    to.sun_family = AF_UNIX;
    if (path.size() >= sizeof to.sun_path) throw std::length_error(path);
    path.copy(to.sun_path, path.size());
  }

  [[nodiscard]] int family() const noexcept { return storage_.ss_family; }
  [[nodiscard]] const sockaddr* get() const noexcept {
    return reinterpret_cast<const sockaddr*>(&storage_);
  }
  [[nodiscard]] socklen_t size() const noexcept { return size_; }

 private:
  sockaddr_storage storage_{};
  socklen_t size_;
};

stream_socket make_socket(const socket_address& kind) {
  const int made = ::socket(kind.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (made < 0) fail("socket");
  return stream_socket(made);
}

void set_option(const stream_socket& of, int level, int name, int value) {
  if (::setsockopt(of.descriptor(), level, name, &value, sizeof value) != 0) fail("setsockopt");
}

// On the listener before listen() as well, because TCP agrees on its window scale when connecting.
void tune(const stream_socket& made, const question& asked, road via) {
  if (via == road::tcp) set_option(made, IPPROTO_TCP, TCP_NODELAY, 1);
  if (!has_large_buffers(asked, via)) return;
  set_option(made, SOL_SOCKET, SO_SNDBUF, large_buffer_bytes);
  set_option(made, SOL_SOCKET, SO_RCVBUF, large_buffer_bytes);
}

socket_address place_of(const server_seat& seat) {
  return seat.via() == road::tcp ? socket_address(0) : socket_address(seat.unix_path());
}

std::uint16_t port_of(const stream_socket& bound) {
  sockaddr_in at{};
  socklen_t size = sizeof at;
  if (::getsockname(bound.descriptor(), reinterpret_cast<sockaddr*>(&at), &size) != 0) {
    fail("getsockname");
  }
  return ntohs(at.sin_port);
}

}  // namespace

stream_socket::~stream_socket() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::size_t stream_socket::receive(std::span<std::byte> room) const {
  const auto got = ::recv(descriptor_, room.data(), room.size(), 0);
  if (got < 0 && errno == ECONNRESET) return 0;
  if (got < 0) fail("recv");
  return static_cast<std::size_t>(got);
}

bool stream_socket::receive_all(std::span<std::byte> room) const {
  while (!room.empty()) {
    const auto got = receive(room);
    if (got == 0) return false;
    room = room.subspan(got);
  }
  return true;
}

std::optional<std::size_t> stream_socket::receive_now(std::span<std::byte> room) const {
  const auto got = ::recv(descriptor_, room.data(), room.size(), MSG_DONTWAIT);
  if (got >= 0) return static_cast<std::size_t>(got);
  if (errno == EAGAIN) return {};
  if (errno == ECONNRESET) return 0;
  fail("recv");
}

std::size_t stream_socket::send_now(std::span<const std::byte> bytes) const {
  const auto sent = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent >= 0) return static_cast<std::size_t>(sent);
  if (errno == EAGAIN) return 0;
  fail("send");
}

void stream_socket::send_all(std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const auto sent = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0) fail("send");
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
}

listening_socket::listening_socket(const server_seat& seat)
    : seat_(&seat), listener_(make_socket(place_of(seat))) {
  const auto address = place_of(seat);
  tune(listener_, seat.asked(), seat.via());
  if (::bind(listener_.descriptor(), address.get(), address.size()) != 0) fail("bind");
  if (::listen(listener_.descriptor(), SOMAXCONN) != 0) fail("listen");
  const bool tcp = seat.via() == road::tcp;
  seat.announce(tcp ? std::to_string(port_of(listener_)) : seat.unix_path());
}

stream_socket listening_socket::accept() const {
  const int client = ::accept4(listener_.descriptor(), nullptr, nullptr, SOCK_CLOEXEC);
  if (client < 0) fail("accept");
  stream_socket accepted(client);
  tune(accepted, seat_->asked(), seat_->via());
  return accepted;
}

stream_socket accept_client(const server_seat& seat) {
  return listening_socket(seat).accept();
}

std::vector<stream_socket> accept_clients(const server_seat& seat) {
  const listening_socket listener(seat);
  std::vector<stream_socket> clients;
  while (clients.size() < seat.asked().connections) clients.push_back(listener.accept());
  return clients;
}

stream_socket connect_to_server(const client_seat& seat) {
  const auto address = seat.via() == road::tcp
                           ? socket_address(static_cast<std::uint16_t>(std::stoul(seat.address())))
                           : socket_address(seat.address());
  auto connected = make_socket(address);
  tune(connected, seat.asked(), seat.via());
  if (::connect(connected.descriptor(), address.get(), address.size()) != 0) fail("connect");
  return connected;
}

std::vector<stream_socket> connect_all_to_server(const client_seat& seat) {
  std::vector<stream_socket> servers;
  while (servers.size() < seat.asked().connections) servers.push_back(connect_to_server(seat));
  return servers;
}

}  // namespace bench
