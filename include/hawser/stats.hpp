// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hawser/executor.hpp"

namespace hawser {

/// Counts of durations by size: bucket 0 is below 64 ns, bucket i up to 2^(6+i) ns, the last is
/// open.
struct wait_histogram {
  static constexpr std::size_t buckets = 28;
  std::array<std::uint64_t, buckets> counts{};

  [[nodiscard]] static constexpr std::size_t bucket_of(std::uint64_t nanoseconds) noexcept {
    const auto width = static_cast<std::size_t>(std::bit_width(nanoseconds >> 6));
    return width < buckets ? width : buckets - 1;
  }
  /// The upper end of the bucket in which the `share` (0..1) smallest of all end, of the last
  /// nanoseconds::max(); zero: empty.
  [[nodiscard]] std::chrono::nanoseconds percentile(double share) const noexcept;
  [[nodiscard]] std::uint64_t total() const noexcept;
  wait_histogram& operator+=(const wait_histogram& other) noexcept;
};

/// Of one priority on one worker.
struct priority_stats {
  std::uint64_t executed = 0;     ///< begun; also what runs now
  std::uint64_t stolen = 0;       ///< of the executed, taken from other workers
  std::uint64_t queued = 0;       ///< runnable now
  wait_histogram queue_wait;      ///< from runnable to running, also when that was at once; sampled
};

/// Counters of one worker since its start; none goes back, except `queued`.
struct worker_stats {
  std::array<priority_stats, priority_count> priorities;
  std::uint64_t turns = 0;           ///< looks at the reactor
  std::uint64_t executed = 0;        ///< work items begun, all priorities
  std::uint64_t posts_received = 0;  ///< work items that came from other threads
  std::uint64_t parks = 0;           ///< times the worker slept
  std::uint64_t spins = 0;           ///< times it looked for work first
  std::uint64_t spins_paid = 0;      ///< of these, found some
  std::uint64_t spin_ns = 0;         ///< spent looking
  std::uint64_t wakeups_sent = 0;    ///< by other threads to this worker
  std::uint64_t wakeups_spared = 0;  ///< posts of other threads that found it awake
  std::uint64_t timers_fired = 0;
  std::uint64_t longest_gap_ns = 0;  ///< the longest so far between two looks at the reactor
  std::uint64_t stalls = 0;          ///< times a task held it beyond stall_threshold
  std::uint64_t system_calls = 0;    ///< made by the reactor
  std::uint64_t completions = 0;     ///< I/O completions or readiness events
  std::uint64_t multishot = 0;       ///< completions that announced more to come (F_MORE)
  std::uint64_t inline_reads = 0;    ///< reads made while spinning, without waiting for readiness
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
};

struct runtime_stats {
  std::vector<worker_stats> workers;
  std::uint64_t failed_tasks = 0;  ///< failures of scope::serve children and posted functions
  std::uint64_t open_links = 0;
  std::uint64_t injected = 0;      ///< posts from threads that are no workers
  std::array<std::uint64_t, priority_count> waiting{};  ///< for any worker, now; see also `queued`
  std::uint64_t rejected = 0;      ///< posts beyond queue_limit
};

}  // namespace hawser
