// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

namespace hawser::shm {

/// Records and their bytes, counted by one thread and read by any.
///
/// Both share a word, so that to count a record is one addition; once it has counted a thousand, it
/// runs over, and they are carried into numbers of their own. These a reader takes only if none was
/// changed meanwhile: the sequence is odd while that happens.
class tally {
 public:
  struct sums {
    std::uint64_t records = 0;
    std::uint64_t bytes = 0;
    std::uint64_t alone = 0;  ///< of the records those that add() has counted one by one
  };

  // Threads: the one that counts.
  /// One record. True: the thousandth since it was last.
  ///
  /// Shape: at most 2^29 bytes.
  bool add(std::uint64_t bytes) noexcept {
    const std::uint64_t now = recent_.load(std::memory_order_relaxed) + (one_record + bytes);
    recent_.store(now, std::memory_order_release);
    if (static_cast<std::int64_t>(now) < 0) [[likely]]
      return false;
    carry(now);
    return true;
  }
  void add(std::uint64_t records, std::uint64_t bytes) noexcept {
    const std::uint64_t before = begin();
    raise(together_, records);
    raise(bytes_, bytes);
    end(before);
  }

  /// Threads: any.
  [[nodiscard]] sums get() const noexcept {
    for (;;) {
      const std::uint64_t before = sequence_.load(std::memory_order_acquire);
      const std::uint64_t recent = recent_.load(std::memory_order_acquire) - none;
      const std::uint64_t alone = carried_.load(std::memory_order_acquire) + recent / one_record;
      const sums now{alone + together_.load(std::memory_order_acquire),
                     bytes_.load(std::memory_order_acquire) + recent % one_record, alone};
      if (before % 2 == 0 && sequence_.load(std::memory_order_relaxed) == before) return now;
    }
  }

 private:
  static constexpr std::uint64_t carried_at = 1000;
  static constexpr std::uint64_t one_record = std::uint64_t{1} << 40;  // bytes of a thousand fit
  static constexpr std::uint64_t none = 0 - carried_at * one_record;

  [[gnu::cold]] [[gnu::noinline]] void carry(std::uint64_t now) noexcept {
    const std::uint64_t before = begin();
    raise(carried_, carried_at);
    raise(bytes_, now);
    recent_.store(none, std::memory_order_release);
    end(before);
  }
  // release, here and everywhere: who sees what comes later sees that the sequence was odd
  std::uint64_t begin() noexcept {
    const std::uint64_t before = sequence_.load(std::memory_order_relaxed);
    sequence_.store(before + 1, std::memory_order_relaxed);
    return before;
  }
  void end(std::uint64_t before) noexcept {
    sequence_.store(before + 2, std::memory_order_release);
  }
  static void raise(std::atomic<std::uint64_t>& sum, std::uint64_t more) noexcept {
    sum.store(sum.load(std::memory_order_relaxed) + more, std::memory_order_release);
  }

  std::atomic<std::uint64_t> recent_{none};
  std::atomic<std::uint64_t> carried_{0};   // records, counted one by one
  std::atomic<std::uint64_t> together_{0};  // records, otherwise
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> sequence_{0};
};

}  // namespace hawser::shm
