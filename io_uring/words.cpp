// SPDX-License-Identifier: Apache-2.0
// Words that threads of several processes wait for, and barriers that they pass.
#include <algorithm>
#include <climits>
#include <ctime>

#include "calls.hpp"
#include "os/platform.hpp"

namespace hawser::platform {

// Never FUTEX_PRIVATE: that reaches only those who sleep in this process.
void sleep_on(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
              std::chrono::nanoseconds limit) noexcept {
  const auto bounded = std::max<std::chrono::nanoseconds>(limit, std::chrono::nanoseconds::zero());
  const auto seconds = std::chrono::floor<std::chrono::seconds>(bounded);
  timespec until{};
  until.tv_sec = static_cast<std::time_t>(seconds.count());
  until.tv_nsec = static_cast<long>((bounded - seconds).count());
  calls::futex(&word, FUTEX_WAIT, expected, &until);
}

void wake_one(const std::atomic<std::uint32_t>& word) noexcept {
  calls::futex(&word, FUTEX_WAKE, 1, nullptr);
}

void wake_all(const std::atomic<std::uint32_t>& word) noexcept {
  calls::futex(&word, FUTEX_WAKE, INT_MAX, nullptr);
}

// ---- barriers ---------------------------------------------------------------------------------

bool join_barriers() noexcept {
  static const bool joined = calls::membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) == 0;
  return joined;
}

void pass_barrier() noexcept {
  if (calls::membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED) == 0) return;
  // Slow, but no one fails it: it waits until every core has passed a point of rest.
  static_cast<void>(calls::membarrier(MEMBARRIER_CMD_GLOBAL));
}

}  // namespace hawser::platform
