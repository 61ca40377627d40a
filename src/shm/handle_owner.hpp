// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "os/platform.hpp"

namespace hawser::shm {

/// Closes its handle, unless somebody else has taken it.
class handle_owner {
 public:
  explicit handle_owner(platform::native_handle handle) noexcept : handle_(handle) {}
  handle_owner(const handle_owner&) = delete;
  handle_owner& operator=(const handle_owner&) = delete;
  ~handle_owner() { platform::release_handle(handle_); }
  [[nodiscard]] platform::native_handle get() const noexcept { return handle_; }
  [[nodiscard]] platform::native_handle give() noexcept {
    return std::exchange(handle_, platform::no_handle);
  }

 private:
  platform::native_handle handle_;
};

}  // namespace hawser::shm
