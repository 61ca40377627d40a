// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "os/platform.hpp"

namespace hawser::detail {

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

}  // namespace hawser::detail
