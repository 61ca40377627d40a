// SPDX-License-Identifier: Apache-2.0
#include "exec/ready_queues.hpp"

namespace hawser::detail {
namespace {

// acquire pairs with push_next(): it may have been pushed by nobody else than us, but a thief may
// have taken it and another be here
work* take_next(std::atomic<work*>& next) noexcept {
  return next.exchange(nullptr, std::memory_order_acq_rel);
}

}  // namespace

// Null: thieves have emptied it.
inline work* ready_queues::take(std::size_t at, bool& timed) noexcept {
  bound_queue& bound = bound_[at];
  if ((state_ & one_roaming << at) != 0) {
    per_priority& from = queues_[at];
    from.bound_first = !from.bound_first;
    if (from.bound_first && !bound.items.empty()) {
      work& item = pop_bound(at);
      timed = is_timed(item, bound.timed);
      return &item;
    }
    if (work* const item = take_roaming(from)) {
      timed = is_timed(*item, roaming_timed_[at]);
      return item;
    }
    state_ &= ~(one_roaming << at);
  }
  work* const item = bound.items.empty() ? nullptr : &pop_bound(at);
  if (bound.items.empty()) state_ &= ~(1U << at);
  timed = item != nullptr && is_timed(*item, bound.timed);
  return item;
}

ready_queues::popped ready_queues::pop_any() noexcept {
  while (state_ != 0) {
    const unsigned waits = waiting();
    const bool contended = (waits & (waits - 1)) != 0;
    const std::size_t at = contended ? dispatcher_.pick(waits)
                                     : static_cast<std::size_t>(std::countr_zero(waits));
    bool timed = false;
    if (work* const item = take(at, timed)) return {item, at, contended, timed};
  }
  return {};
}

work* ready_queues::take_roaming(per_priority& from) noexcept {
  work* item = nullptr;
  if (from.next_left != 0 && from.next.load(std::memory_order_relaxed) != nullptr) {
    item = take_next(from.next);
  }
  if (item != nullptr) {
    --from.next_left;
  } else {
    from.next_left = next_in_a_row;
    item = from.roaming.take();
    if (item == nullptr) item = take_next(from.next);
  }
  if (item != nullptr) ++from.popped;
  return item;
}

}  // namespace hawser::detail
