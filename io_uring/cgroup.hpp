// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the control groups of this process allow it.

#include <optional>
#include <string>

namespace hawser::platform {

/// The CPU time a second that the groups of this process may use, in cores: the least of all
/// limits from its group up to the top. Empty: no limit.
///
/// Shape:  reads proc/self/cgroup and sys/fs/cgroup below `root`, which ends with a slash; what is
///         missing or unreadable limits nothing.
/// Errors: throws std::bad_alloc.
[[nodiscard]] std::optional<double> cgroup_quota(const std::string& root);

}  // namespace hawser::platform
