// SPDX-License-Identifier: Apache-2.0
#include "exec/ready_queues.hpp"

namespace hawser::detail {

work* ready_queues::take_roaming(per_priority& from) noexcept {
  if (from.next_left != 0 && from.next.load(std::memory_order_relaxed) != nullptr) {
    // acquire pairs with push_next(): it may have been pushed by nobody else than us, but a thief
    // may have taken it and another be here
    work* const item = from.next.exchange(nullptr, std::memory_order_acq_rel);
    if (item != nullptr) {
      --from.next_left;
      return item;
    }
  }
  from.next_left = next_in_a_row;
  if (work* const item = from.roaming.take()) return item;
  return from.next.exchange(nullptr, std::memory_order_acq_rel);
}

}  // namespace hawser::detail
