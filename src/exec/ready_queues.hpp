// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "exec/dispatcher.hpp"
#include "exec/steal_deque.hpp"
#include "exec/work_list.hpp"
#include "hawser/executor_config.hpp"

namespace hawser::detail {

/// What one worker has to run, by priority.
///
/// Of each priority there are: what is bound to this worker; what may run anywhere, in a deque
/// from which idle workers steal; what found no room there, and what came from outside, which move
/// into the deque as it empties; and one item that was just made runnable here and runs next. The
/// bound and the others take turns within a priority; the dispatcher chooses the priority.
///
/// Threads: its worker's; steal_from() and the sizes any.
class ready_queues {
 public:
  using deque = steal_deque<256>;

  explicit ready_queues(const executor_config& config) : dispatcher_(config) {}

  [[nodiscard]] detail::dispatcher& dispatcher() noexcept { return dispatcher_; }
  /// Bits of the priorities that seem to have something: thieves do not clear them.
  [[nodiscard]] unsigned waiting() const noexcept { return waiting_; }
  [[nodiscard]] bool empty() const noexcept { return waiting_ == 0; }

  void push_bound(work& item, std::size_t at) noexcept {
    bound_[at].push(item);
    waiting_ |= 1U << at;
  }
  /// True: thieves can see it.
  bool push_roaming(work& item, std::size_t at) noexcept {
    mark_roaming(at);
    per_priority& to = queues_[at];
    if (to.spill.empty() && to.roaming.push(item)) return true;
    to.spill.push(item);
    return false;
  }
  void push_injected(work_list items, std::size_t at) noexcept {
    if (items.empty()) return;
    mark_roaming(at);
    queues_[at].injected.append(items);
  }
  /// Runs before other roaming work of its priority, unless a thief is faster.
  void push_next(work& item, std::size_t at) noexcept {
    mark_roaming(at);
    // acq_rel: release for whoever takes it, acquire of what is displaced
    work* const displaced = queues_[at].next.exchange(&item, std::memory_order_acq_rel);
    if (displaced != nullptr) push_roaming(*displaced, at);
  }
  /// Only into the deque, so that take_back() can find it.
  [[nodiscard]] bool fork(work& item, std::size_t at) noexcept {
    mark_roaming(at);
    return queues_[at].roaming.push(item);
  }
  [[nodiscard]] bool take_back(work& item, std::size_t at) noexcept {
    return queues_[at].roaming.take_back(item);
  }

  /// Several priorities seem to have something, so that the dispatcher chooses.
  [[nodiscard]] bool contended() const noexcept { return (waiting_ & (waiting_ - 1)) != 0; }
  /// The next to run and its priority, or null. Who runs alone is not charged for it.
  [[nodiscard]] work* pop(std::size_t& at) noexcept {
    while (waiting_ != 0) {
      at = contended() ? dispatcher_.pick(waiting_)
                       : static_cast<std::size_t>(std::countr_zero(waiting_));
      if (work* const item = take(at)) return item;
    }
    return nullptr;
  }

  /// Takes about half of what `victim` lets go; false: it has nothing.
  ///
  /// Shape: the caller counts as searching.
  [[nodiscard]] bool steal_from(ready_queues& victim, std::size_t at, unsigned& count) noexcept {
    const auto taken = queues_[at].roaming.steal_half(victim.queues_[at].roaming);
    if (taken.item == nullptr) return false;
    count = taken.count;
    if (count > 1) mark_roaming(at);
    push_bound(*taken.item, at);
    return true;
  }
  /// What `victim` meant to run next: for when it does not come to it.
  [[nodiscard]] bool steal_next(ready_queues& victim, std::size_t at) noexcept {
    auto& next = victim.queues_[at].next;
    if (next.load(std::memory_order_relaxed) == nullptr) return false;
    work* const item = next.exchange(nullptr, std::memory_order_acq_rel);  // as in push_next()
    if (item != nullptr) push_bound(*item, at);
    return item != nullptr;
  }
  /// seq_cst: the last look before sleeping.
  [[nodiscard]] bool has_for_thieves(std::size_t at) const noexcept {
    return !queues_[at].roaming.empty();
  }

  /// How many items that were injected have left the list they wait in.
  [[nodiscard]] const std::atomic<std::uint64_t>& injected_taken(std::size_t at) const noexcept {
    return queues_[at].injected_taken;
  }
  /// Approximate.
  [[nodiscard]] std::uint64_t depth(std::size_t at) const noexcept {
    return queues_[at].roaming.size();
  }

 private:
  // Into the deque at a time: half of it, so that forks find room.
  static constexpr unsigned refill_count = 128;
  // Of those that run next in a row before older ones get their turn.
  static constexpr unsigned next_in_a_row = 3;

  struct per_priority {
    work_list spill;
    work_list injected;
    bool bound_first = false;
    unsigned next_left = next_in_a_row;
    std::atomic<std::uint64_t> injected_taken{0};  // written by the owner
    std::atomic<work*> next{nullptr};
    ready_queues::deque roaming;
  };

  void mark_roaming(std::size_t at) noexcept {
    roaming_ |= 1U << at;
    waiting_ |= 1U << at;
  }
  [[nodiscard]] work* take(std::size_t at) noexcept {
    const unsigned bit = 1U << at;
    work_list& bound = bound_[at];
    if ((roaming_ & bit) != 0) {
      per_priority& from = queues_[at];
      from.bound_first = !from.bound_first;
      if (from.bound_first && !bound.empty()) return &bound.pop();
      if (work* const item = take_roaming(from)) return item;
      roaming_ &= ~bit;
    }
    work* const item = bound.empty() ? nullptr : &bound.pop();
    if (bound.empty()) waiting_ &= ~bit;
    return item;
  }
  [[nodiscard]] work* take_roaming(per_priority& from) noexcept;

  std::array<work_list, priority_count> bound_;
  unsigned waiting_ = 0;
  unsigned roaming_ = 0;
  detail::dispatcher dispatcher_;
  std::array<per_priority, priority_count> queues_;
};

}  // namespace hawser::detail
