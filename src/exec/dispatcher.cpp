// SPDX-License-Identifier: Apache-2.0
#include "exec/dispatcher.hpp"

namespace hawser::detail {

dispatcher::dispatcher(dispatch_policy policy, const weights& shares,
                       std::chrono::nanoseconds most_charged) noexcept
    : policy_(policy) {
  if (policy_ == dispatch_policy::fair_time) {
    most_charged_ = static_cast<std::uint64_t>(std::max(most_charged, quantum).count());
  }
  adjust(shares);
}

void dispatcher::adjust(const weights& shares) noexcept {
  times_ = {};
  floor_ = 0;
  if (policy_ == dispatch_policy::strict) return;
  for (std::size_t i = 0; i < priority_count; ++i) {
    rates_[i] = resolution / std::clamp(shares[i], 1U, 1000U);
    least_cost_[i] = rates_[i] * static_cast<std::uint64_t>(quantum.count());
  }
}

// All that counts is how far each lies above the floor.
void dispatcher::rebase() noexcept {
  for (std::uint64_t& time : times_) time -= std::min(time, floor_);
  floor_ = 0;
}

// When it begins to wait, or was just run, it lies at most `debt` above the floor, and the others
// nowhere below. Each of these comes first until its own costs have taken it to the same height,
// and once more at that very height if it is the more urgent.
std::optional<std::uint64_t> dispatcher::longest_wait(priority urgency) const noexcept {
  const auto self = static_cast<std::size_t>(urgency);
  if (policy_ == dispatch_policy::strict) {
    return self == 0 ? std::optional<std::uint64_t>(0) : std::nullopt;
  }
  const std::uint64_t debt = std::max(most_charged_ * rates_[self], least_cost_[self]);
  std::uint64_t others = 0;
  for (std::size_t i = 0; i < priority_count; ++i) {
    if (i < self) others += debt / least_cost_[i] + 1;
    if (i > self) others += (debt - 1) / least_cost_[i] + 1;
  }
  return others;
}

}  // namespace hawser::detail

namespace hawser {

std::optional<std::uint64_t> longest_wait(const executor_config& config,
                                          priority urgency) noexcept {
  const executor_config defaults;
  auto weights = config.weights;
  for (std::size_t i = 0; i < priority_count; ++i) {
    if (weights[i] == 0) weights[i] = defaults.weights[i];
  }
  const auto interval =
      config.poll_interval.count() == 0 ? defaults.poll_interval : config.poll_interval;
  return detail::dispatcher(config.policy, weights, interval).longest_wait(urgency);
}

}  // namespace hawser
