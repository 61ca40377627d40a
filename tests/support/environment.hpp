// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a test may know about the run it is part of.

#include <cstdint>
#include <string_view>

namespace test {

/// The seed of this run: HAWSER_TEST_SEED or --seed=N, otherwise random. main() prints it.
///
/// Every random choice of a test derives from it, so that a failure can be repeated.
[[nodiscard]] std::uint64_t seed() noexcept;

/// The reactor this run is about: "io_uring" or "asio" from HAWSER_TEST_BACKEND, empty for the
/// library's own choice.
[[nodiscard]] std::string_view backend() noexcept;

/// The number that a variable asks for, or else `otherwise`: how long or how often, for runs by
/// hand.
[[nodiscard]] std::uint64_t asked(const char* variable, std::uint64_t otherwise);

/// Says that the current test case cannot do its job on this machine, and why. Then return.
///
/// One call makes the whole run exit with 77, which ctest shows as skipped, unless something
/// failed: what could not run is never counted as passed.
///
/// Threads: any.
void skip(std::string_view reason);

/// How many times skip() was called.
[[nodiscard]] int skip_count() noexcept;

/// For main() only.
void set_seed(std::uint64_t value) noexcept;

}  // namespace test
