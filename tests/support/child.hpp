// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace test {

struct child_result {
  int status = -1;     ///< exit status, or -1
  std::string output;  ///< of both streams
};

/// Runs the case "child: `name`" of this executable in a process of its own, under `prefix`, a
/// command that runs what follows it. Such cases are marked doctest::skip().
[[nodiscard]] child_result run_child(std::string_view prefix, std::string_view name);

/// Whether processes may be traced here; skip() was called if not.
[[nodiscard]] bool can_trace();

}  // namespace test
