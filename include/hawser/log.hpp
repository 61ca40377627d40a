// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace hawser {

enum class log_level : std::uint8_t { debug, info, warning, error };

/// Something an operator may want to know; the library itself never prints.
///
/// Shape:  `area` is the layer ("reactor", "listener", "link", "scope"), `text` one line; both
///         live until the sink returns.
struct log_event {
  log_level level = log_level::info;
  std::string_view area;
  std::string_view text;
};

/// Where events go. Set in executor_config; an empty sink drops them.
///
/// Threads: called from any worker, several at once; must not block and must not throw.
using log_sink = std::function<void(const log_event&)>;

[[nodiscard]] std::string_view to_string(log_level level) noexcept;

}  // namespace hawser
