// SPDX-License-Identifier: Apache-2.0
// Words that threads of several processes wait for, and barriers that they pass.
#include <algorithm>
#include <array>
#include <cerrno>
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

// Where the system cannot, the first word is waited for, and the others are looked at often.
void sleep_on_any(std::span<const std::atomic<std::uint32_t>* const> words, std::uint32_t expected,
                  std::chrono::nanoseconds limit) noexcept {
  constexpr std::chrono::nanoseconds often = std::chrono::milliseconds(1);
  const std::size_t count = std::min(words.size(), words_most);
  std::array<futex_waitv, words_most> all;
  for (std::size_t i = 0; i < count; ++i) {
    all[i] = {};
    all[i].val = expected;
    all[i].uaddr = reinterpret_cast<std::uintptr_t>(words[i]);
    all[i].flags = FUTEX_32;
  }
  // The clock of steady_clock.
  const auto until = (std::chrono::steady_clock::now() + limit).time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(until);
  timespec end{};
  end.tv_sec = static_cast<std::time_t>(seconds.count());
  end.tv_nsec = static_cast<long>(std::chrono::nanoseconds(until - seconds).count());
  if (calls::futex_any(all.data(), count, end) < 0 && errno == ENOSYS) {
    sleep_on(*words.front(), expected, std::min(limit, often));
  }
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
