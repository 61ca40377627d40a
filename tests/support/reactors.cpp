// SPDX-License-Identifier: Apache-2.0
#include "support/reactors.hpp"

#include <sys/socket.h>

#include <doctest/doctest.h>

namespace test {

using hawser::platform::native_handle;
namespace platform = hawser::platform;

native_handle listen_anywhere() {
  return platform::open_listener(platform::resolve("127.0.0.1", "0").front(), 16);
}

std::pair<native_handle, native_handle> tcp_pair() {
  const auto listener = listen_anywhere();
  bool pending = false;
  std::error_code error;
  const auto ours = platform::start_connect(platform::local_address(listener), pending, error);
  REQUIRE_FALSE(error);
  int theirs = -1;
  do {
    theirs = ::accept4(static_cast<int>(listener), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  } while (theirs < 0);
  REQUIRE_FALSE(platform::finish_connect(ours));
  platform::close(listener);
  return {ours, theirs};
}

}  // namespace test
