// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <system_error>
#include <utility>

#include "os/platform.hpp"

namespace hawser::detail {

/// One attempt, for a frame that a socket without traffic takes as a whole. False: it did not.
[[nodiscard]] inline bool write_at_once(platform::native_handle socket,
                                        std::span<const std::byte> frame) noexcept {
  const platform::io_slice whole{frame.data(), frame.size()};
  std::error_code ignored;
  return platform::write_some(socket, {&whole, 1}, ignored) == frame.size();
}

/// Closes its socket, unless somebody else has taken it.
class socket_owner {
 public:
  explicit socket_owner(platform::native_handle socket) noexcept : socket_(socket) {}
  socket_owner(socket_owner&& other) noexcept : socket_(other.give()) {}
  socket_owner& operator=(socket_owner&&) = delete;
  ~socket_owner() {
    if (socket_ != platform::no_handle) platform::close(socket_);
  }
  [[nodiscard]] platform::native_handle get() const noexcept { return socket_; }
  [[nodiscard]] platform::native_handle give() noexcept {
    return std::exchange(socket_, platform::no_handle);
  }

 private:
  platform::native_handle socket_;
};

/// Closes the handles that came over a socket, but for the one that somebody has taken.
class handle_owners {
 public:
  handle_owners() noexcept = default;
  handle_owners(handle_owners&& other) noexcept : all_(std::exchange(other.all_, {})) {}
  ~handle_owners() {
    for (std::size_t i = 0; i < all_.count; ++i) platform::release_handle(all_.handles[i]);
  }
  [[nodiscard]] platform::handle_list& all() noexcept { return all_; }

 private:
  platform::handle_list all_;
};

}  // namespace hawser::detail
