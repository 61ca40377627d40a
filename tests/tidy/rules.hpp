// SPDX-License-Identifier: Apache-2.0
#pragma once

// Rules that a reviewer should not have to check by eye.

#include <functional>
#include <string>
#include <vector>

#include "tidy/source.hpp"

namespace tidy {

/// What one file must keep.
struct rule {
  std::string says;
  /// The numbers of the lines that break it, from 1.
  std::function<std::vector<int>(const source&)> find;
  /// What it must catch, and what it must not: a rule that stops working fails its test.
  std::vector<source> caught;
  std::vector<source> accepted;
};

[[nodiscard]] const std::vector<rule>& rules();

}  // namespace tidy
