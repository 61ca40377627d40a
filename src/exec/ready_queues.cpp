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
  if (!from.spill.empty() || !from.injected.empty()) {
    work_list& source = from.spill.empty() ? from.injected : from.spill;
    const bool injected = from.spill.empty();
    work& first = source.pop();
    std::uint64_t moved = 1;
    while (moved < refill_count && !source.empty()) {
      // The deque is empty and only we fill it.
      static_cast<void>(from.roaming.push(source.pop()));
      ++moved;
    }
    if (injected) {
      from.injected_taken.store(from.injected_taken.load(std::memory_order_relaxed) + moved,
                                std::memory_order_seq_cst);
    }
    return &first;
  }
  return from.next.exchange(nullptr, std::memory_order_acq_rel);
}

}  // namespace hawser::detail
