// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <utility>

#include "hawser/buffer.hpp"

namespace hawser {

/// Memory for reads of unknown size: a large block, of which only what came is handed on.
///
/// Threads: one.
class read_blocks {
 public:
  static constexpr std::size_t bytes_each = 64 << 10;

  read_blocks() noexcept = default;
  read_blocks(const read_blocks&) = delete;
  read_blocks& operator=(const read_blocks&) = delete;
  ~read_blocks() {
    if (spare_ != nullptr) detail::release(spare_);
  }

  /// A block of bytes_each.
  ///
  /// Errors: throws std::bad_alloc.
  [[nodiscard]] detail::block* take() {
    if (spare_ != nullptr) return std::exchange(spare_, nullptr);
    return detail::allocate_block(bytes_each);
  }
  void put(detail::block* unused) noexcept {
    if (spare_ == nullptr) {
      spare_ = unused;
    } else {
      detail::release(unused);
    }
  }
  /// What is to be handed on of a block that got `bytes`: a little moves to a block of its size.
  ///
  /// Errors: throws std::bad_alloc; `filled` is still the caller's.
  [[nodiscard]] detail::block* trimmed(detail::block* filled, std::size_t bytes) {
    if (bytes > copied_bytes_max) return filled;
    detail::block* const small = detail::allocate_block(bytes);
    std::memcpy(small->data(), filled->data(), bytes);
    put(filled);
    return small;
  }

 private:
  static constexpr std::size_t copied_bytes_max = 4 << 10;

  detail::block* spare_ = nullptr;
};

}  // namespace hawser
