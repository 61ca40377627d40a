// SPDX-License-Identifier: Apache-2.0
#include "support/relay.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <arpa/inet.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace test {
namespace {

int require(int result, const char* action) {
  if (result < 0) throw std::system_error(errno, std::system_category(), action);
  return result;
}

sockaddr_in loopback(int port) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  name.sin_port = htons(static_cast<std::uint16_t>(port));
  return name;
}

template <class Name>
auto* raw(Name& name) {
  return reinterpret_cast<sockaddr*>(&name);
}

}  // namespace

relay::relay(std::string target) : target_(std::move(target)) {
  listener_ = require(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  auto name = loopback(0);
  require(::bind(listener_, raw(name), sizeof name), "bind");
  require(::listen(listener_, 1024), "listen");
  socklen_t size = sizeof name;
  require(::getsockname(listener_, raw(name), &size), "getsockname");
  uri_ = "tcp://127.0.0.1:" + std::to_string(ntohs(name.sin_port));
  require(::pipe2(wake_, O_CLOEXEC), "pipe");
  thread_ = std::thread([this] { run(); });
}

relay::~relay() {
  {
    const std::lock_guard guard(mutex_);
    stops_ = true;
  }
  static_cast<void>(!::write(wake_[1], "x", 1));
  thread_.join();
  for (auto& each : routes_) close(each);
  for (const int each : {listener_, wake_[0], wake_[1]}) ::close(each);
}

void relay::close(route& gone) noexcept {
  for (int& each : gone.ends) {
    if (each < 0) continue;
    const linger at_once{1, 0};
    ::setsockopt(each, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    ::close(std::exchange(each, -1));
  }
}

void relay::cut() {
  const std::lock_guard guard(mutex_);
  for (auto& each : routes_) close(each);
  routes_.clear();
  static_cast<void>(!::write(wake_[1], "x", 1));
}

void relay::part() {
  const std::lock_guard guard(mutex_);
  parted_ = true;
  static_cast<void>(!::write(wake_[1], "x", 1));
}

void relay::heal() {
  const std::lock_guard guard(mutex_);
  parted_ = false;
  static_cast<void>(!::write(wake_[1], "x", 1));
}

void relay::redirect(std::string target) {
  const std::lock_guard guard(mutex_);
  target_ = std::move(target);
}

std::size_t relay::connections() const {
  const std::lock_guard guard(mutex_);
  return connections_;
}

// Under the mutex. A target that does not listen is a connection that breaks at once.
void relay::accept_one() {
  const int from = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  if (from < 0) return;
  ++connections_;
  route made;
  made.ends[0] = from;
  made.ends[1] = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  auto name = loopback(std::stoi(target_.substr(target_.rfind(':') + 1)));
  if (made.ends[1] < 0 || ::connect(made.ends[1], raw(name), sizeof name) != 0) {
    return close(made);
  }
  routes_.push_back(made);
}

bool relay::pass(int from, int to) {
  std::array<char, 64 << 10> room;
  const auto got = ::recv(from, room.data(), room.size(), MSG_DONTWAIT);
  if (got < 0) return errno == EAGAIN;
  if (got == 0) return ::shutdown(to, SHUT_WR) == 0;
  for (ssize_t sent = 0; sent < got;) {
    const auto one = ::send(to, room.data() + sent, static_cast<std::size_t>(got - sent),
                            MSG_NOSIGNAL);
    if (one <= 0) return false;
    sent += one;
  }
  return true;
}

void relay::run() {
  for (;;) {
    std::vector<pollfd> waits{{wake_[0], POLLIN, 0}};
    {
      const std::lock_guard guard(mutex_);
      if (stops_) return;
      if (!parted_) {
        waits.push_back({listener_, POLLIN, 0});
        for (const auto& each : routes_) {
          for (const int end : each.ends) waits.push_back({end, POLLIN, 0});
        }
      }
    }
    ::poll(waits.data(), waits.size(), -1);
    if ((waits[0].revents & POLLIN) != 0) {
      std::array<char, 64> words;
      static_cast<void>(!::read(wake_[0], words.data(), words.size()));
      continue;  // what there is to wait for may have changed
    }
    const std::lock_guard guard(mutex_);
    if (parted_ || waits.size() != 2 + 2 * routes_.size()) continue;
    for (std::size_t i = routes_.size(); i-- > 0;) {
      route& each = routes_[i];
      bool open = true;
      for (int end = 0; end < 2; ++end) {
        const auto& wait = waits[2 + 2 * i + static_cast<std::size_t>(end)];
        if (wait.fd == each.ends[end] && wait.revents != 0) {
          open = open && pass(each.ends[end], each.ends[1 - end]);
        }
      }
      if (open) continue;
      close(each);
      routes_.erase(routes_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (waits[1].revents != 0) accept_one();
  }
}

}  // namespace test
