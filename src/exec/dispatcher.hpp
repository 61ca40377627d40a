// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "hawser/executor_config.hpp"

namespace hawser::detail {

/// Chooses the priority that runs next. Knows no queue and no clock: it is told which priorities
/// wait, and how long what it chose has run.
///
/// Every priority has a virtual time, which each dispatch moves on by its cost over the weight;
/// the least of those that wait runs, of equals the most urgent. The virtual time of the last
/// choice is the floor: one that comes back starts there, so that idling earns nothing and an
/// urgent one that owes nothing runs at once. Nor does any lie further above the floor than one
/// dispatch of the highest cost, and that bounds every wait: see longest_wait().
///
/// The policies differ in what a dispatch costs: its run time, from `quantum` to the limit that
/// the constructor got (fair_time); always the same (weighted); nothing (strict), so that all are
/// equal for ever and the most urgent wins.
///
/// Threads: one at a time.
class dispatcher {
 public:
  using weights = std::array<unsigned, priority_count>;
  /// What a dispatch costs at least, and one that was not measured.
  static constexpr std::chrono::nanoseconds quantum{1000};

  /// Shape: weights from 1 to 1000; what is outside counts as the nearest of these.
  dispatcher(dispatch_policy policy, const weights& shares,
             std::chrono::nanoseconds most_charged) noexcept;
  explicit dispatcher(const executor_config& config) noexcept
      : dispatcher(config.policy, config.weights, config.poll_interval) {}

  /// New weights; what was run before is forgotten.
  void adjust(const weights& shares) noexcept;

  /// The priority whose turn it is, as an index; it is taken to run now.
  ///
  /// Shape: bit i of `waiting` says that priority i has work; at least one does.
  /// Cost:  about 2 ns when one waits, 1 more for each other.
  [[nodiscard]] unsigned pick(unsigned waiting) noexcept {
    auto chosen = static_cast<unsigned>(std::countr_zero(waiting));
    std::uint64_t least = start_of(chosen);
    for (waiting &= waiting - 1; waiting != 0; waiting &= waiting - 1) {
      const auto other = static_cast<unsigned>(std::countr_zero(waiting));
      const std::uint64_t start = start_of(other);
      if (start >= least) continue;
      least = start;
      chosen = other;
    }
    floor_ = least;
    times_[chosen] = least + least_cost_[chosen];
    if (floor_ >= highest_floor) [[unlikely]]
      rebase();
    return chosen;
  }

  /// Whether run times matter, so that it pays to measure them.
  [[nodiscard]] bool measures() const noexcept { return most_charged_ != 0; }

  /// What was picked last, `priority`, ran for so long. Calls may be left out or doubled.
  void charge(unsigned priority, std::uint64_t nanoseconds) noexcept {
    const std::uint64_t cost = std::min(nanoseconds, most_charged_) * rates_[priority];
    times_[priority] = std::max(times_[priority], floor_ + cost);
  }

  /// The highest number of picks of others, in a row, while `urgency` waits. Empty: no bound.
  [[nodiscard]] std::optional<std::uint64_t> longest_wait(priority urgency) const noexcept;

 private:
  // Virtual time counts 2^-20 ns at weight 1: a thousandth is exact to 0.1 %, and 2^63 of them are
  // two hours of run time at weight 1, after which the floor goes back to zero.
  static constexpr std::uint64_t resolution = 1U << 20;
  static constexpr std::uint64_t highest_floor = std::uint64_t{1} << 63;

  [[nodiscard]] std::uint64_t start_of(unsigned priority) const noexcept {
    return std::max(times_[priority], floor_);
  }
  void rebase() noexcept;

  std::array<std::uint64_t, priority_count> times_{};
  std::uint64_t floor_ = 0;
  std::array<std::uint64_t, priority_count> least_cost_{};  // quantum over weight
  std::array<std::uint64_t, priority_count> rates_{};       // a nanosecond over weight
  std::uint64_t most_charged_ = 0;                          // 0: not measured
  dispatch_policy policy_;
};

}  // namespace hawser::detail
