// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

namespace hawser::shm {

/// Records and their bytes, counted by one thread and read by any.
///
/// Both share a word, so that to count a record is one addition; before it can run over, they are
/// carried into numbers of their own. These a reader takes only if none was changed meanwhile: the
/// sequence is odd while that happens.
class tally {
 public:
  struct sums {
    std::uint64_t records = 0;
    std::uint64_t bytes = 0;
    std::uint64_t alone = 0;  ///< of the records those that were counted one by one
  };

  // Threads: the one that counts.
  /// One record.
  ///
  /// Shape: at most 2^29 bytes; not is_full(), or few have come since.
  void add(std::uint64_t bytes) noexcept {
    const std::uint64_t before = recent_.load(std::memory_order_relaxed);
    recent_.store(before + (bytes << record_bits) + 1, std::memory_order_release);
  }
  void add(std::uint64_t records, std::uint64_t bytes) noexcept {
    const std::uint64_t before = begin();
    raise(together_, records);
    raise(bytes_, bytes);
    end(before);
  }
  /// The first record, and each thousandth after it, was counted by itself.
  [[nodiscard]] bool is_full() const noexcept {
    return (recent_.load(std::memory_order_relaxed) & full) != 0;
  }
  /// Shape: is_full().
  void carry() noexcept {
    const std::uint64_t now = recent_.load(std::memory_order_relaxed);
    const std::uint64_t before = begin();
    raise(carried_, (now & records_of) - empty);
    raise(bytes_, now >> record_bits);
    recent_.store(empty, std::memory_order_release);
    end(before);
  }

  /// Threads: any.
  [[nodiscard]] sums get() const noexcept {
    for (;;) {
      const std::uint64_t before = sequence_.load(std::memory_order_acquire);
      const std::uint64_t recent = recent_.load(std::memory_order_acquire);
      const std::uint64_t alone = carried_.load(std::memory_order_acquire) + (recent & records_of);
      const sums now{alone + together_.load(std::memory_order_acquire),
                     bytes_.load(std::memory_order_acquire) + (recent >> record_bits), alone};
      if (before % 2 == 0 && sequence_.load(std::memory_order_relaxed) == before) return now;
    }
  }

 private:
  static constexpr unsigned record_bits = 11;
  static constexpr std::uint64_t records_of = (1U << record_bits) - 1;
  static constexpr std::uint64_t full = 1U << (record_bits - 1);
  static constexpr std::uint64_t empty = full - 1000;

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

  std::atomic<std::uint64_t> recent_{full - 1};         // bytes, and records that begin at `empty`
  std::atomic<std::uint64_t> carried_{0 - (full - 1)};  // records, counted one by one
  std::atomic<std::uint64_t> together_{0};              // records, otherwise
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> sequence_{0};
};

}  // namespace hawser::shm
