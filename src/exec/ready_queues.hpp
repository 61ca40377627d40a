// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "core/assert.hpp"
#include "core/counter.hpp"
#include "exec/dispatcher.hpp"
#include "exec/steal_deque.hpp"
#include "exec/work_list.hpp"
#include "hawser/executor_config.hpp"

namespace hawser::detail {

/// What one worker has to run, by priority.
///
/// Of each priority there are: what is bound to this worker; what may run anywhere, in a deque
/// from which idle workers steal, some of whose room is kept for what comes from outside; and one
/// item that was just made runnable here and runs next. The bound and the others take turns within
/// a priority; the dispatcher chooses the priority.
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
    ++bound_count_[at];
    waiting_ |= 1U << at;
  }
  /// False: no room, it was not queued.
  [[nodiscard]] bool push_roaming(work& item, std::size_t at) noexcept {
    if (room(at) <= injected_room) return false;
    mark_roaming(at);
    return queues_[at].roaming.push(item);
  }
  /// How many more push_injected() takes.
  [[nodiscard]] unsigned room(std::size_t at) const noexcept {
    return static_cast<unsigned>(deque::capacity - queues_[at].roaming.size());
  }
  /// That many always become free, however much is spawned.
  static constexpr unsigned injected_room = 32;
  /// Shape: there is room.
  void push_injected(work& item, std::size_t at) noexcept {
    mark_roaming(at);
    const bool pushed = queues_[at].roaming.push(item);
    HAWSER_ASSERT(pushed);
  }
  /// Runs before other roaming work of its priority, unless a thief is faster. What was to run next
  /// until now is the caller's to queue again.
  [[nodiscard]] work* push_next(work& item, std::size_t at) noexcept {
    mark_roaming(at);
    // acq_rel: release for whoever takes it, acquire of what is displaced
    return queues_[at].next.exchange(&item, std::memory_order_acq_rel);
  }
  /// Moves what waits at `from` to where `place(item)` says, in order.
  template <class F>
  void move(std::size_t from, F&& place) noexcept {
    if ((waiting_ & 1U << from) == 0) return;
    work_list bound = bound_[from].take_all();
    bound_count_[from].reset();
    while (!bound.empty()) {
      work& item = bound.pop();
      push_bound(item, place(item));
    }
    // Once around: the owner alone adds, so that each finds room again where it was.
    for (auto left = queues_[from].roaming.size(); left != 0; --left) {
      work* const item = queues_[from].roaming.take();
      if (item == nullptr) return;
      const std::size_t to = place(*item);
      mark_roaming(to);
      if (!queues_[to].roaming.push(*item)) push_bound(*item, to);
    }
  }
  /// The oldest that may run elsewhere, or null.
  [[nodiscard]] work* take_roaming(std::size_t at) noexcept { return queues_[at].roaming.take(); }
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

  /// Whether something of that priority may run elsewhere; waiting() may say so for too long.
  [[nodiscard]] bool has_roaming(std::size_t at) const noexcept {
    return queues_[at].roaming.size() != 0 ||
           queues_[at].next.load(std::memory_order_relaxed) != nullptr;
  }
  /// A moment's truth.
  [[nodiscard]] std::uint64_t depth(std::size_t at) const noexcept {
    const per_priority& of = queues_[at];
    const bool has_next = of.next.load(std::memory_order_relaxed) != nullptr;
    return of.roaming.size() + bound_count_[at] + has_next;
  }

 private:
  // Of those that run next in a row before older ones get their turn.
  static constexpr unsigned next_in_a_row = 3;

  struct per_priority {
    bool bound_first = false;
    unsigned next_left = next_in_a_row;
    std::atomic<work*> next{nullptr};
    ready_queues::deque roaming;
  };

  void mark_roaming(std::size_t at) noexcept {
    roaming_ |= 1U << at;
    waiting_ |= 1U << at;
  }
  [[nodiscard]] work& pop_bound(std::size_t at) noexcept {
    --bound_count_[at];
    return bound_[at].pop();
  }
  [[nodiscard]] work* take(std::size_t at) noexcept {
    const unsigned bit = 1U << at;
    work_list& bound = bound_[at];
    if ((roaming_ & bit) != 0) {
      per_priority& from = queues_[at];
      from.bound_first = !from.bound_first;
      if (from.bound_first && !bound.empty()) return &pop_bound(at);
      if (work* const item = take_roaming(from)) return item;
      roaming_ &= ~bit;
    }
    work* const item = bound.empty() ? nullptr : &pop_bound(at);
    if (bound.empty()) waiting_ &= ~bit;
    return item;
  }
  [[nodiscard]] work* take_roaming(per_priority& from) noexcept;

  std::array<work_list, priority_count> bound_;
  std::array<counter, priority_count> bound_count_;
  unsigned waiting_ = 0;
  unsigned roaming_ = 0;
  detail::dispatcher dispatcher_;
  std::array<per_priority, priority_count> queues_;
};

}  // namespace hawser::detail
