// SPDX-License-Identifier: Apache-2.0
#include "hawser/parallel.hpp"

#include "core/assert.hpp"

namespace hawser::detail {

// Last first, so that the newest is the one that comes next here. What cannot be forked runs here
// one after another, before those.
std::coroutine_handle<> branch_join::begin(std::coroutine_handle<> waiter,
                                           const task_context& context,
                                           branch::promise_type** branches,
                                           std::size_t count) noexcept {
  origin_ = executor::current();
  HAWSER_ASSERT(origin_ != nullptr);
  waiter_ = waiter;
  urgency_ = context.effective();
  branches_ = branches;
  count_ = count;
  left_.store(count, std::memory_order_relaxed);
  for (std::size_t i = 0; i < count; ++i) branches[i]->set_context(context);
  std::size_t first_forked = count;
  while (first_forked > 1 && origin_->fork(*branches[first_forked - 1], urgency_)) --first_forked;
  next_ = first_forked;
  // Those that were forked may run already, even end; they see none of these or all.
  // release pairs with take_unforked()
  unforked_.store({1, static_cast<std::uint32_t>(first_forked)}, std::memory_order_release);
  return branch::handle::from_promise(*branches[0]);
}

void branch_join::drop(branch::promise_type** branches, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count && branches[i] != nullptr; ++i) {
    branch::handle::from_promise(*branches[i]).destroy();
  }
}

// Only where the branches were forked: there they end one after another.
work* branch_join::take_back() noexcept {
  while (next_ < count_) {
    branch::promise_type* const newest = branches_[next_++];
    if (origin_->take_back(*newest, urgency_)) return newest;
  }
  return nullptr;
}

// Anywhere: nobody else knows of these, and their task may have moved on to another executor.
work* branch_join::take_unforked() noexcept {
  unforked_range seen = unforked_.load(std::memory_order_acquire);  // pairs with begin()
  while (seen.next != seen.end) {
    if (unforked_.compare_exchange_weak(seen, {seen.next + 1, seen.end}, std::memory_order_acquire,
                                        std::memory_order_acquire)) {
      return branches_[seen.next];
    }
  }
  return nullptr;
}

// A fork that was stolen may have ended, and its memory be another fork's by now, of this worker:
// then that one is taken back, which is right as well. So the count decides who is last.
std::coroutine_handle<> branch_join::end() noexcept {
  executor* const here = executor::current();
  work* next = take_unforked();
  if (next == nullptr && here == origin_) next = take_back();
  const auto waiter = waiter_;
  const auto urgency = urgency_;
  // acq_rel: what the branches did comes before what the task does with it
  const bool last = left_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  if (last && next != nullptr) here->post(*next, urgency);
  if (last) return waiter;
  if (next == nullptr) return std::noop_coroutine();
  return branch::handle::from_promise(static_cast<branch::promise_type&>(*next));
}

}  // namespace hawser::detail
