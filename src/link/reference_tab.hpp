// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "hawser/buffer.hpp"

namespace hawser::detail {

/// References to one block that its messages have let go of on one thread: they are given back
/// together, when the last is among them or when those to another block follow, so that a message
/// need not pay for a locked instruction.
///
/// Threads: one at a time.
class reference_tab {
 public:
  reference_tab() noexcept = default;
  reference_tab(const reference_tab&) = delete;
  reference_tab& operator=(const reference_tab&) = delete;
  ~reference_tab() { settle(); }

  /// Takes over a reference. What is large, or somebody else's, does not wait.
  void add(block& used) noexcept {
    if (used.owner != nullptr || used.capacity > kept_bytes_most) return release(&used);
    // acquire: as in release()
    const auto references = used.references.load(std::memory_order_acquire);
    if (references == 1 || (block_ == &used && references == count_ + 1)) {
      if (block_ == &used) block_ = nullptr;
      return recycle_block(&used);
    }
    if (block_ != &used) {
      settle();
      block_ = &used;
      count_ = 0;
    }
    ++count_;
  }
  /// Gives back what waits.
  void settle() noexcept {
    if (block_ != nullptr) release(std::exchange(block_, nullptr), count_);
  }

 private:
  static constexpr std::size_t kept_bytes_most = 64 << 10;

  block* block_ = nullptr;
  std::uint32_t count_ = 0;
};

}  // namespace hawser::detail
