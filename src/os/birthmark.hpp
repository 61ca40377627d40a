// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "os/platform.hpp"

namespace hawser {

/// Tells what a process made from the copy of it that a forked child has.
///
/// To a copy belong threads that are not there, locks that may be held for ever, and descriptors
/// and rings that are the parent's too. So who ends it leaves it as it is.
class birthmark {
 public:
  [[nodiscard]] bool is_inherited() const noexcept { return born_ != platform::generation(); }

 private:
  unsigned born_ = platform::generation();
};

}  // namespace hawser
