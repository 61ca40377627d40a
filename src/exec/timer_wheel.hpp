// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "hawser/executor.hpp"

namespace hawser::detail {

/// Deadlines of one worker: seven levels of 64 slots, 131 us a tick, 18 years in all.
///
/// The clock counts from the start of the system, so the wheel never turns round: a deadline
/// beyond its end waits in the last slot.
///
/// A timer lies in the level of the highest six-bit digit in which its tick differs from now; when
/// the clock reaches its slot it moves to a lower level, and from the lowest it fires. A timer
/// never fires early, and late by at most a tick plus the time until advance() is called. Timers
/// of different ticks fire in order, those of one tick in no particular order.
///
/// Cost:   arm() and disarm() are O(1); advance() is O(timers moved or fired).
/// Source: Varghese and Lauck, Hashed and Hierarchical Timing Wheels, 1987.
class timer_wheel {
 public:
  static constexpr unsigned tick_shift = 17;
  static constexpr clock::duration tick =
      std::chrono::duration_cast<clock::duration>(std::chrono::nanoseconds(1LL << tick_shift));

  explicit timer_wheel(clock::time_point start) noexcept;
  /// Shape: nothing has been armed yet.
  void begin(clock::time_point start) noexcept;
  timer_wheel(const timer_wheel&) = delete;
  timer_wheel& operator=(const timer_wheel&) = delete;
  /// What is still armed is forgotten and not touched: it may be gone already.
  ~timer_wheel() = default;

  /// Arms a timer, or moves one that is armed.
  void arm(timer& entry, clock::time_point deadline) noexcept;
  /// Nothing happens if it is not armed.
  void disarm(timer& entry) noexcept;
  /// Fires what is due and says how many that were. `fire` may arm and disarm any timer; what it
  /// arms for a time that has passed fires in the next call.
  std::size_t advance(clock::time_point now) noexcept;
  /// When advance() has something to do; not later than the earliest deadline plus a tick, and
  /// possibly earlier.
  [[nodiscard]] std::optional<clock::time_point> next() const noexcept;
  [[nodiscard]] bool empty() const noexcept { return armed_ == 0; }

 private:
  static constexpr unsigned level_bits = 6;
  static constexpr unsigned level_count = 7;
  static constexpr std::size_t slots_per_level = std::size_t{1} << level_bits;
  static constexpr std::uint64_t slot_mask = slots_per_level - 1;
  static constexpr std::uint64_t horizon = std::uint64_t{1} << (level_bits * level_count);

  // The sentinel of a circular list.
  struct list_head : timer {
    list_head() noexcept : timer(nullptr) { previous = next = this; }
  };
  struct slot_place {
    unsigned level = 0;
    std::size_t slot = 0;
    std::uint64_t tick = 0;
  };

  void insert(timer& entry) noexcept;
  void unlink(timer& entry) noexcept;
  [[nodiscard]] std::optional<slot_place> next_slot() const noexcept;
  // Moves what lies at `place` to `into`.
  void take(const slot_place& place, list_head& into) noexcept;

  std::uint64_t now_ticks_ = 0;
  std::size_t armed_ = 0;
  std::array<std::uint64_t, level_count> occupied_{};
  std::array<std::array<list_head, slots_per_level>, level_count> slots_;
};

}  // namespace hawser::detail
