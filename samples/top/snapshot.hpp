// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hawser/stats.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace top {

inline constexpr std::array<const char*, hawser::priority_count> priority_names{"control", "rpc",
                                                                                "stream", "bulk"};

/// What a process says of itself at one moment.
struct snapshot {
  std::uint64_t pid = 0;
  std::string backend;
  std::chrono::nanoseconds time{};  ///< monotonic, of the process
  std::chrono::nanoseconds cpu{};   ///< of all its threads, since its start
  hawser::runtime_stats stats;
};

/// Reads what samples/stats_service.hpp describes.
///
/// Errors: throws std::runtime_error that says what is wrong.
[[nodiscard]] snapshot parse_snapshot(std::string_view text);

}  // namespace top
