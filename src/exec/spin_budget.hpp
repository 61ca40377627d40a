// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>

#include "hawser/executor_config.hpp"

namespace hawser::detail {

/// How long a worker looks for work before it sleeps.
///
/// Adaptive spinning is an account in nanoseconds. A wait that ends while the worker looks saves it
/// a sleep, which is worth `limit`, and costs what it took; a wait that does not end costs what it
/// took and saves nothing. While there is credit a wait may cost up to four times the limit, so
/// that a peer that still sleeps itself is waited for; once the credit is used up the worker
/// sleeps at once, until 1/128 of the time that passes has made up half of the largest credit. So
/// a wait that recurs within the limit is always spun for, and spinning that does not pay costs
/// less than one per cent of a core.
///
/// Threads: one.
class spin_budget {
 public:
  using nanoseconds = std::chrono::nanoseconds;

  explicit spin_budget(const spin_policy& policy) noexcept { adjust(policy); }

  void adjust(const spin_policy& policy) noexcept {
    policy_ = policy;
    credit_ = most();
    paying_ = true;
  }

  /// How long to look now; zero: sleep at once.
  [[nodiscard]] nanoseconds next(clock::time_point now) noexcept {
    if (policy_.how != spin_policy::mode::adaptive) {
      return policy_.how == spin_policy::mode::fixed ? policy_.limit : nanoseconds::zero();
    }
    credit_ = std::min(credit_ + (now - refilled_) / refill_share, most());
    refilled_ = now;
    if (credit_ <= nanoseconds::zero()) paying_ = false;
    if (credit_ >= most() / 2) paying_ = true;
    return paying_ ? std::min(credit_, longest_in_limits * policy_.limit) : nanoseconds::zero();
  }
  void found(nanoseconds spent) noexcept {
    credit_ = std::clamp(credit_ + policy_.limit - spent, nanoseconds::zero(), most());
  }
  void missed(nanoseconds spent) noexcept {
    credit_ = std::max(credit_ - spent, nanoseconds::zero());
  }

 private:
  static constexpr int refill_share = 128;
  static constexpr int credit_in_limits = 16;
  static constexpr int longest_in_limits = 4;

  [[nodiscard]] nanoseconds most() const noexcept { return credit_in_limits * policy_.limit; }

  spin_policy policy_;
  nanoseconds credit_{};
  clock::time_point refilled_{};
  bool paying_ = true;
};

}  // namespace hawser::detail
