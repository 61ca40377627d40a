// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace sim {

/// Runs what a seed says: several hosts, their links, applications on both ends, and faults.
/// Returns which promise was broken; empty: none. `traced`: if one was, stderr tells what happened.
///
/// Errors: none.
[[nodiscard]] std::string failure_of(std::uint64_t seed, bool traced);

}  // namespace sim
