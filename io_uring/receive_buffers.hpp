// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "hawser/buffer.hpp"
#include "ring.hpp"

namespace hawser {

/// The buffers that the kernel chooses from when bytes arrive, shared by all streams of a ring.
///
/// Each is a block of the pool: the receiver gets the block itself, and a fresh one takes its
/// place, before the kernel is asked again.
class receive_buffers {
 public:
  static constexpr unsigned count = 64;
  static constexpr std::size_t bytes_each = 32 << 10;
  static constexpr unsigned short group = 0;

  /// Errors: throws std::bad_alloc, std::system_error.
  explicit receive_buffers(uring& ring);
  receive_buffers(const receive_buffers&) = delete;
  receive_buffers& operator=(const receive_buffers&) = delete;
  /// The ring has ended before.
  ~receive_buffers();

  /// The block that a completion with `flags` filled with `bytes`, for good. A little comes in a
  /// small block of its own, and the large one stays.
  ///
  /// Shape:  flags has IORING_CQE_F_BUFFER.
  /// Errors: throws std::bad_alloc; the bytes are lost, the buffers are complete.
  [[nodiscard]] detail::block* take(unsigned flags, std::size_t bytes);
  /// The completion brought no bytes.
  void give_back(unsigned flags) noexcept { put(index_of(flags)); }

 private:
  void release() noexcept;

  static constexpr std::size_t copied_bytes_max = 4 << 10;

  [[nodiscard]] static unsigned short index_of(unsigned flags) noexcept {
    return static_cast<unsigned short>(flags >> IORING_CQE_BUFFER_SHIFT);
  }
  void put(unsigned short index) noexcept;

  io_uring_buf_ring* shared_ = nullptr;
  std::array<detail::block*, count> blocks_{};
};

}  // namespace hawser
