// SPDX-License-Identifier: Apache-2.0
// Small messages packed into and cut out of large reads and writes: what a careful program does by
// hand where its library does not.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "bench.hpp"

namespace bench {

inline constexpr std::size_t batch_bytes = 64 << 10;

/// Cuts what was read into messages.
///
///     inbox.filled(read(inbox.room()));
///     while (!inbox.empty()) use(inbox.take());
class inbox {
 public:
  explicit inbox(std::size_t bytes = batch_bytes) : bytes_(bytes) {}

  /// Free space for the next read, never empty once all messages are taken.
  [[nodiscard]] std::span<std::byte> room() noexcept {
    std::copy(bytes_.begin() + begin_, bytes_.begin() + end_, bytes_.begin());
    end_ -= begin_;
    begin_ = 0;
    return std::span(bytes_).subspan(static_cast<std::size_t>(end_));
  }
  void filled(std::size_t bytes) noexcept { end_ += static_cast<std::ptrdiff_t>(bytes); }

  /// Whether there is no whole message.
  [[nodiscard]] bool empty() const noexcept {
    return end_ - begin_ < static_cast<std::ptrdiff_t>(small_bytes);
  }
  [[nodiscard]] note take() noexcept {
    const auto at = static_cast<std::size_t>(begin_);
    begin_ += static_cast<std::ptrdiff_t>(small_bytes);
    return note_in(std::span(bytes_).subspan(at, small_bytes));
  }

 private:
  std::vector<std::byte> bytes_;
  std::ptrdiff_t begin_ = 0;
  std::ptrdiff_t end_ = 0;
};

/// Collects messages for one write.
class outbox {
 public:
  [[nodiscard]] bool full() const noexcept { return bytes_.size() - used_ < small_bytes; }
  [[nodiscard]] bool empty() const noexcept { return used_ == 0; }
  /// Shape: not while full().
  void add(note written) noexcept {
    write_note(std::span(bytes_).subspan(used_, small_bytes), written);
    used_ += small_bytes;
  }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept {
    return std::span(bytes_).first(used_);
  }
  void clear() noexcept { used_ = 0; }
  /// The first `bytes` are sent.
  void drop(std::size_t bytes) noexcept {
    const auto begin = bytes_.begin();
    std::copy(begin + static_cast<std::ptrdiff_t>(bytes),
              begin + static_cast<std::ptrdiff_t>(used_), begin);
    used_ -= bytes;
  }

 private:
  std::vector<std::byte> bytes_ = std::vector<std::byte>(batch_bytes);
  std::size_t used_ = 0;
};

}  // namespace bench
