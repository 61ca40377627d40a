// SPDX-License-Identifier: Apache-2.0
#pragma once

// Which call to the system fails next, in a program that was built with HAWSER_FAULTS.

#include <cstdint>

#include "calls.hpp"

namespace test {

/// The `nth` call at `where` from now on fails with `error`, or comes up short if that is zero.
struct fault {
  hawser::calls::site where{};
  int error = 0;
  unsigned nth = 1;
};

/// One at a time.
///
/// Threads: one arms and disarms; calls come from any.
void arm(const fault& next) noexcept;
void disarm() noexcept;

/// Calls at a site so far, and how many of them were made to fail.
[[nodiscard]] std::uint64_t calls_at(hawser::calls::site where) noexcept;
[[nodiscard]] std::uint64_t faults_at(hawser::calls::site where) noexcept;

}  // namespace test
