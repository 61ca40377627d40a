// SPDX-License-Identifier: Apache-2.0
#include "support/raw_socket.hpp"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <arpa/inet.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace test {
namespace {

namespace wire = hawser::wire;

int require(int result, const char* action) {
  if (result < 0) throw std::system_error(errno, std::system_category(), action);
  return result;
}

sockaddr_un unix_name(const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (path.size() >= sizeof(name.sun_path)) throw std::runtime_error("a path too long");
  std::memcpy(name.sun_path, path.data(), path.size());
  return name;
}

sockaddr_in loopback(int port) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  name.sin_port = htons(static_cast<std::uint16_t>(port));
  return name;
}

template <class Name>
const sockaddr* raw(const Name& name) {
  return reinterpret_cast<const sockaddr*>(&name);
}

}  // namespace

raw_socket raw_socket::unconnected(const std::string& uri) {
  const int family = uri.starts_with("unix:") ? AF_UNIX : AF_INET;
  return raw_socket(require(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
}

raw_socket::raw_socket(const std::string& uri) : raw_socket(unconnected(uri)) { connect(uri); }

void raw_socket::connect(const std::string& uri) {
  if (uri.starts_with("unix:")) {
    const auto name = unix_name(uri.substr(5));
    require(::connect(descriptor_, raw(name), sizeof(name)), "connect");
  } else {
    const auto name = loopback(std::stoi(uri.substr(uri.rfind(':') + 1)));
    require(::connect(descriptor_, raw(name), sizeof(name)), "connect");
  }
}

raw_socket::raw_socket(raw_socket&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

raw_socket& raw_socket::operator=(raw_socket&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

raw_socket::~raw_socket() { close(); }

bool raw_socket::send(std::span<const std::byte> all) {
  while (!all.empty()) {
    const auto sent = ::send(descriptor_, all.data(), all.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    all = all.subspan(static_cast<std::size_t>(sent));
  }
  return true;
}

bool raw_socket::send(std::span<const std::byte> all,
                      std::span<const hawser::platform::native_handle> with) {
  std::error_code error;
  const auto wrote =
      hawser::platform::write_with_handles(descriptor_, {all.data(), all.size()}, with, error);
  return !error && send(all.subspan(wrote));
}

void raw_socket::finish_writing() noexcept { ::shutdown(descriptor_, SHUT_WR); }

bool raw_socket::read(std::span<std::byte> all) {
  while (!all.empty()) {
    const auto got = ::recv(descriptor_, all.data(), all.size(), 0);
    if (got <= 0) return false;
    all = all.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

std::optional<seen_frame> raw_socket::next() {
  bytes frame(wire::length_bytes);
  if (!read(frame)) return std::nullopt;
  frame.resize(wire::align8(wire::length_bytes + wire::load_length(frame.data())));
  if (!read(std::span(frame).subspan(wire::length_bytes))) return std::nullopt;
  return parse_frames(frame).front();
}

std::optional<seen_frame> raw_socket::next(wire::kind what) {
  while (auto frame = next()) {
    if (frame->kind == what) return frame;
  }
  return std::nullopt;
}

void raw_socket::read_to_end() {
  bytes rest(64 << 10);
  while (::recv(descriptor_, rest.data(), rest.size(), 0) > 0) {
  }
}

void raw_socket::close() noexcept {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

raw_listener::raw_listener(std::string unix_path, int backlog) {
  if (!unix_path.empty()) {
    const auto name = unix_name(unix_path);
    descriptor_ = require(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    require(::bind(descriptor_, raw(name), sizeof(name)), "bind");
    uri_ = "unix:" + unix_path;
  } else {
    auto name = loopback(0);
    descriptor_ = require(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    require(::bind(descriptor_, raw(name), sizeof(name)), "bind");
    socklen_t size = sizeof(name);
    require(::getsockname(descriptor_, reinterpret_cast<sockaddr*>(&name), &size), "getsockname");
    uri_ = "tcp://127.0.0.1:" + std::to_string(ntohs(name.sin_port));
  }
  require(::listen(descriptor_, backlog), "listen");
}

raw_listener::~raw_listener() { close(); }

raw_socket raw_listener::accept() {
  return raw_socket(require(::accept4(descriptor_, nullptr, nullptr, SOCK_CLOEXEC), "accept"));
}

void raw_listener::close() noexcept {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

wire::hello make_hello(std::uint64_t window) {
  static std::uint64_t number = 0;
  wire::hello hello;
  ++number;
  std::memcpy(hello.link_id.data(), &number, sizeof(number));
  hello.limits.window.fill(window);
  return hello;
}

raw_link::raw_link(const std::string& uri, const wire::hello& greeting)
    : socket(uri), hello(greeting) {
  socket.send(wire::encode(hello));
  const auto answer = socket.next(wire::kind::welcome);
  const auto decoded = answer.has_value() ? wire::decode_welcome(answer->header) : std::nullopt;
  if (!decoded.has_value()) throw std::runtime_error("no welcome");
  welcome = *decoded;
}

}  // namespace test
