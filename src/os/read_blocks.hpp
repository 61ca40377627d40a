// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <system_error>
#include <utility>

#include "hawser/buffer.hpp"
#include "os/platform.hpp"

namespace hawser {

/// Memory for reads of unknown size: a large block, of which only what came is handed on.
///
/// Threads: one.
class read_blocks {
 public:
  static constexpr std::size_t bytes_each = 64 << 10;
  /// What a worker that reads inline takes at once: it answers that before it reads on, so that
  /// both sides of a busy link work at the same time.
  static constexpr std::size_t inline_bytes = 9 << 10;

  read_blocks() noexcept = default;
  read_blocks(const read_blocks&) = delete;
  read_blocks& operator=(const read_blocks&) = delete;
  ~read_blocks() {
    if (spare_ != nullptr) detail::release(spare_);
  }

  struct filled {
    detail::block* block = nullptr;  ///< the reader's; null if nothing came
    std::size_t bytes = 0;           ///< from its start
  };
  /// One read_some() of at most `most`. A little comes in a small block of its own, and the large
  /// one stays.
  ///
  /// Shape:  most <= bytes_each.
  /// Errors: throws std::bad_alloc; `error` as read_some().
  [[nodiscard]] filled read(platform::native_handle socket, std::size_t most,
                            std::error_code& error) {
    if (spare_ == nullptr) spare_ = detail::allocate_block(bytes_each);
    const std::size_t bytes = platform::read_some(socket, {spare_->data(), most}, error);
    if (bytes == 0) return {};
    if (bytes > copied_bytes_max) return {std::exchange(spare_, nullptr), bytes};
    detail::block* const small = detail::allocate_block(bytes);
    std::memcpy(small->data(), spare_->data(), bytes);
    return {small, bytes};
  }

 private:
  static constexpr std::size_t copied_bytes_max = 4 << 10;

  detail::block* spare_ = nullptr;
};

}  // namespace hawser
