// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "top/snapshot.hpp"

namespace top {

/// What happened between two moments: counters are differences, `queued` and `longest_gap_ns` are
/// as they are now. A worker that is not in both counts from zero.
[[nodiscard]] hawser::runtime_stats difference(const hawser::runtime_stats& before,
                                               const hawser::runtime_stats& now);

/// The lines of the table, of at most 110 columns, without line ends.
[[nodiscard]] std::vector<std::string> table_of(const snapshot& before, const snapshot& now);

/// "0.4", "950", "12.3k", "1.20M": at most five columns up to 10^15.
[[nodiscard]] std::string short_count(double value);
/// "64 ns", "1.0 us", "12 ms".
[[nodiscard]] std::string short_time(std::chrono::nanoseconds value);

}  // namespace top
