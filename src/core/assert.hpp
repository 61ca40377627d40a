// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace hawser::detail {

/// Prints expression and place to stderr and terminates the process.
[[noreturn]] void assertion_failed(const char* expression, const char* file, int line) noexcept;

}  // namespace hawser::detail

/// Ends the process when an invariant of ours is broken; on in all builds. Never for what a peer
/// or the system can cause.
#define HAWSER_ASSERT(expression)      \
  ((expression) ? static_cast<void>(0) \
                : ::hawser::detail::assertion_failed(#expression, __FILE__, __LINE__))
