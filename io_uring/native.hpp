// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the files of this folder share.

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <limits>
#include <system_error>
#include <thread>

#include "hawser/errc.hpp"
#include "os/platform.hpp"

namespace hawser::platform {

[[nodiscard]] inline int descriptor(native_handle handle) noexcept {
  return static_cast<int>(handle);
}

[[nodiscard]] inline std::error_code system_error_code(int number) noexcept {
  return {number, std::system_category()};
}

[[nodiscard]] inline std::error_code last_error() noexcept {
  return system_error_code(errno);
}

[[nodiscard]] inline int to_int(std::size_t value) noexcept {
  return static_cast<int>(std::min<std::size_t>(value, std::numeric_limits<int>::max()));
}

[[nodiscard]] inline iovec to_iovec(const io_slice& slice) noexcept {
  return {const_cast<std::byte*>(slice.data), slice.size};
}

// The connection died between the peer's connect and our accept: no concern of the listener's,
// see accept(2) "Error handling".
[[nodiscard]] inline bool is_transient_accept_error(int number) noexcept {
  return number == ECONNABORTED || number == EPROTO || number == ENETDOWN ||
         number == ENOPROTOOPT || number == EHOSTDOWN || number == ENONET ||
         number == EHOSTUNREACH || number == ENETUNREACH;
}

/// Runs `bind`, again for half a second while the address is in use: the kernel takes down the
/// ring of a process that was killed, and with it a listening socket, some milliseconds after the
/// process has gone. A service that is restarted at once must not fail for that.
template <class Bind>
[[nodiscard]] native_handle outlast_the_dead(Bind bind) {
  constexpr int attempts = 50;
  for (int i = 1;; ++i) {
    try {
      return bind();
    } catch (const std::system_error& error) {
      if (error.code() != errc::address_in_use || i == attempts) throw;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace hawser::platform
