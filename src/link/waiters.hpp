// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "hawser/link.hpp"

namespace hawser::detail {

/// Operations that wait, in order; the nodes live in the awaiting frames.
///
/// Threads: the home worker's.
class waiter_list {
 public:
  [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }
  [[nodiscard]] channel_operation* first() const noexcept { return first_; }
  void push(channel_operation& added) noexcept;
  void remove(channel_operation& gone) noexcept;
  [[nodiscard]] bool contains_others_before(const channel_operation& one) const noexcept {
    return first_ != nullptr && first_ != &one;
  }

 private:
  channel_operation* first_ = nullptr;
  channel_operation* last_ = nullptr;
};

}  // namespace hawser::detail
