// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>

#include "hawser/executor_config.hpp"

namespace hawser::detail {

/// How long a worker looks for work before it sleeps.
///
/// Adaptive spinning keeps an account in nanoseconds. A wait that ends while the worker looks
/// saves a sleep, which is worth `limit`, and costs what it took; a wait that does not end costs
/// what it took and saves nothing. With credit a wait may take five times the limit, because a peer
/// that sleeps itself answers that late at first. Without credit the worker sleeps at once, and
/// only its sleeps can tell whether looking would pay again: so many short ones in a row, or
/// nearly, make up the account, which doubles each time that the credit does not last. A long
/// sleep forgets all that.
///
/// So a wait that recurs within the limit is always looked for; where looking does not pay, what
/// is spent on trying becomes a vanishing share of the time.
///
/// Threads: one.
class spin_budget {
 public:
  using nanoseconds = std::chrono::nanoseconds;

  explicit spin_budget(const spin_policy& policy) noexcept { adjust(policy); }

  void adjust(const spin_policy& policy) noexcept {
    policy_ = policy;
    begin_anew();
  }

  /// How long to look now; zero: sleep at once.
  [[nodiscard]] nanoseconds next() const noexcept {
    switch (policy_.how) {
      case spin_policy::mode::adaptive:
        return std::min(credit_, longest_in_limits * policy_.limit);
      case spin_policy::mode::fixed:
        return policy_.limit;
      case spin_policy::mode::off:
        break;
    }
    return nanoseconds::zero();
  }
  /// Something came while the worker looked.
  void found(nanoseconds spent) noexcept {
    if (++found_in_a_row_ == proven) sleeps_needed_ = fewest_sleeps;
    pay(spent - policy_.limit);
  }
  /// Nothing came; slept() follows.
  void missed(nanoseconds spent) noexcept {
    found_in_a_row_ = 0;
    pay(spent);
  }
  /// A wait has ended that took so long altogether, its last part asleep.
  void slept(nanoseconds length) noexcept {
    if (length >= forgetting) return begin_anew();
    if (credit_ > nanoseconds::zero() || length > short_in_limits * policy_.limit) return;
    if (++short_sleeps_ < sleeps_needed_) return;
    credit_ = most();
    short_sleeps_ = 0;
  }

 private:
  static constexpr int credit_in_limits = 16;
  static constexpr int longest_in_limits = 5;
  static constexpr int short_in_limits = 8;
  static constexpr unsigned fewest_sleeps = 16;
  static constexpr unsigned most_sleeps = 1U << 14;
  static constexpr unsigned proven = 256;
  static constexpr nanoseconds forgetting = std::chrono::seconds(1);

  [[nodiscard]] nanoseconds most() const noexcept { return credit_in_limits * policy_.limit; }
  void begin_anew() noexcept {
    credit_ = most();
    sleeps_needed_ = fewest_sleeps;
    short_sleeps_ = 0;
    found_in_a_row_ = 0;
  }
  void pay(nanoseconds cost) noexcept {
    // A worker that lost its core meanwhile has not spent that time.
    const auto charged = std::min(cost, longest_in_limits * policy_.limit);
    credit_ = std::clamp(credit_ - charged, nanoseconds::zero(), most());
    if (credit_ > nanoseconds::zero()) return;
    sleeps_needed_ = std::min(sleeps_needed_ * 2, most_sleeps);
    short_sleeps_ = 0;
  }

  spin_policy policy_;
  nanoseconds credit_{};
  unsigned sleeps_needed_ = fewest_sleeps;
  unsigned short_sleeps_ = 0;
  unsigned found_in_a_row_ = 0;
};

}  // namespace hawser::detail
