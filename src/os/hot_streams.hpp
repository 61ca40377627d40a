// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <utility>

namespace hawser {

/// The few streams of a reactor that are read inline while its worker looks for work, because
/// their bytes come while it looks. Nothing waits for such a stream in the kernel; before the
/// worker sleeps all of them are armed again.
///
/// Shape: Stream has read_inline(), yielding whether it read something, and cool(), which arms it.
template <class Stream>
class hot_streams {
 public:
  /// Finds while its worker looks, in a row, that make a stream hot.
  static constexpr unsigned finds_to_heat = 3;

  [[nodiscard]] bool full() const noexcept { return count_ == most; }
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  /// Shape: not full, `added` is not here.
  void add(Stream& added) noexcept { entries_[count_++] = {&added, 0}; }
  /// Nothing happens if it is not here.
  void remove(const Stream& gone) noexcept {
    for (std::size_t i = 0; i < count_; ++i) {
      if (entries_[i].stream == &gone) entries_[i].stream = nullptr;
    }
  }
  /// Reads all once; one that has brought nothing for long is armed instead.
  void read() noexcept {
    for (std::size_t i = 0; i < count_; ++i) {
      if (entries_[i].stream == nullptr) continue;
      if (entries_[i].stream->read_inline()) {
        entries_[i].misses = 0;
      } else if (++entries_[i].misses == most_misses && entries_[i].stream != nullptr) {
        std::exchange(entries_[i].stream, nullptr)->cool();
      }
    }
    compact();
  }
  void cool_all() noexcept {
    for (std::size_t i = 0; i < count_; ++i) {
      if (entries_[i].stream != nullptr) std::exchange(entries_[i].stream, nullptr)->cool();
    }
    count_ = 0;
  }

 private:
  static constexpr std::size_t most = 4;  // each costs a system call a look
  static constexpr unsigned most_misses = 4096;

  struct entry {
    Stream* stream = nullptr;
    unsigned misses = 0;
  };

  void compact() noexcept {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < count_; ++i) {
      if (entries_[i].stream != nullptr) entries_[kept++] = entries_[i];
    }
    count_ = kept;
  }

  std::array<entry, most> entries_;
  std::size_t count_ = 0;
};

}  // namespace hawser
