// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
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
/// Of each priority one item at a time is timed on its way through: who pushes is told when the
/// next is due, and who pops is told that it was this one.
///
/// Threads: its worker's; steal_from() and the sizes any.
class ready_queues {
 public:
  using deque = steal_deque<256>;

  explicit ready_queues(const executor_config& config)
      : timed_every_(config.stats_sample), dispatcher_(config) {}

  [[nodiscard]] detail::dispatcher& dispatcher() noexcept { return dispatcher_; }
  /// Bits of the priorities that seem to have something: thieves do not clear them.
  [[nodiscard]] unsigned waiting() const noexcept { return state_ & all_priorities; }
  [[nodiscard]] bool empty() const noexcept { return state_ == 0; }

  /// True: this wait is one to be timed, see time_bound().
  [[nodiscard]] bool push_bound(work& item, std::size_t at) noexcept {
    append_bound(item, at);
    return counts_as_timed(at);
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
    if ((state_ & 1U << from) == 0) return;
    bound_queue& bound = bound_[from];
    bound.timed = nullptr;
    work_list moved = bound.items.take_all();
    while (!moved.empty()) {
      work& item = moved.pop();
      --bound.pushed;
      append_bound(item, place(item));
    }
    if (bound.items.empty() && (state_ & one_roaming << from) == 0) state_ &= ~(1U << from);
    // Once around: the owner alone adds, so that each finds room again where it was.
    for (auto left = queues_[from].roaming.size(); left != 0; --left) {
      work* const item = queues_[from].roaming.take();
      if (item == nullptr) return;
      const std::size_t to = place(*item);
      mark_roaming(to);
      if (!queues_[to].roaming.push(*item)) append_bound(*item, to);
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

  // The timing of waits. What is pushed where thieves may take it may leave without a pop, and
  // come back: so each such push is counted by count_roaming().
  /// True: this wait is one to be timed, see time_roaming().
  [[nodiscard]] bool count_roaming(const work& item, std::size_t at) noexcept {
    if (&item == roaming_timed_[at]) roaming_timed_[at] = nullptr;
    return counts_as_timed(at);
  }
  /// The same for many at once, of which the first may be the one to be timed.
  [[nodiscard]] bool count_roaming(const work_list& items, unsigned count,
                                   std::size_t at) noexcept {
    const work*& timed = roaming_timed_[at];
    for (const work* each = items.first(); timed != nullptr && each != nullptr; each = each->next) {
      if (each == timed) timed = nullptr;
    }
    unsigned& left = bound_[at].until_timed;
    if (left > count) {
      left -= count;
      return false;
    }
    left = timed_every_;
    return true;
  }
  [[nodiscard]] bool is_timing(std::size_t at) const noexcept {
    return bound_[at].timed != nullptr || roaming_timed_[at] != nullptr;
  }
  void time_bound(const work& item, std::size_t at) noexcept {
    bound_[at].timed = &item;
    roaming_timed_[at] = nullptr;
  }
  void time_roaming(const work& item, std::size_t at) noexcept {
    bound_[at].timed = nullptr;
    roaming_timed_[at] = &item;
  }

  struct popped {
    work* item = nullptr;    // null: there is nothing
    std::size_t at = 0;      // its priority
    bool contended = false;  // other priorities waited too, and the dispatcher chose
    bool timed = false;
  };
  /// The next to run. Who runs alone is not charged for it.
  ///
  /// Cost: a few instructions where only bound work of one priority waits.
  [[nodiscard]] popped pop() noexcept {
    // One bit: it is of a waiting priority, which has nothing that roams.
    if ((state_ & (state_ - 1)) != 0) {
      const popped any = pop_any();
      return {any.item, any.at, any.contended, any.timed};  // member by member: in registers
    }
    if (state_ == 0) return {};
    const auto at = static_cast<std::size_t>(std::countr_zero(state_));
    work& item = pop_bound(at);
    if (bound_[at].items.empty()) state_ = 0;
    return {&item, at, false, is_timed(item, bound_[at].timed)};
  }

  /// Takes about half of what `victim` lets go; false: it has nothing.
  ///
  /// Shape: the caller counts as searching.
  [[nodiscard]] bool steal_from(ready_queues& victim, std::size_t at, unsigned& count) noexcept {
    const auto taken = queues_[at].roaming.steal_half(victim.queues_[at].roaming);
    if (taken.item == nullptr) return false;
    count = taken.count;
    if (count > 1) mark_roaming(at);
    append_bound(*taken.item, at);
    return true;
  }
  /// What `victim` meant to run next: for when it does not come to it.
  [[nodiscard]] bool steal_next(ready_queues& victim, std::size_t at) noexcept {
    auto& next = victim.queues_[at].next;
    if (next.load(std::memory_order_relaxed) == nullptr) return false;
    work* const item = next.exchange(nullptr, std::memory_order_acq_rel);  // as in push_next()
    if (item != nullptr) append_bound(*item, at);
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
  /// How many were popped.
  [[nodiscard]] std::uint64_t begun(std::size_t at) const noexcept {
    return bound_[at].popped + queues_[at].popped;
  }
  /// A moment's truth.
  [[nodiscard]] std::uint64_t depth(std::size_t at) const noexcept {
    const per_priority& of = queues_[at];
    const bool has_next = of.next.load(std::memory_order_relaxed) != nullptr;
    const std::uint64_t pushed = bound_[at].pushed;  // may be older than what was popped
    return of.roaming.size() + has_next + pushed - std::min(pushed, bound_[at].popped.get());
  }

 private:
  // Of those that run next in a row before older ones get their turn.
  static constexpr unsigned next_in_a_row = 3;
  static constexpr unsigned all_priorities = (1U << priority_count) - 1;
  static constexpr unsigned one_roaming = 1U << priority_count;

  // A cache line: what a push and a pop need.
  struct alignas(64) bound_queue {
    work_list items;
    counter pushed;
    counter popped;
    const work* timed = nullptr;
    unsigned until_timed = 1;  // pushes of the priority until the next that is timed
  };
  struct per_priority {
    bool bound_first = false;
    unsigned next_left = next_in_a_row;
    std::atomic<work*> next{nullptr};
    counter popped;
    ready_queues::deque roaming;
  };

  void mark_roaming(std::size_t at) noexcept { state_ |= (one_roaming | 1U) << at; }
  void append_bound(work& item, std::size_t at) noexcept {
    bound_queue& to = bound_[at];
    to.items.push(item);
    ++to.pushed;
    state_ |= 1U << at;
  }
  [[nodiscard]] bool counts_as_timed(std::size_t at) noexcept {
    if (--bound_[at].until_timed != 0) return false;
    bound_[at].until_timed = timed_every_;
    return true;
  }
  [[nodiscard]] work& pop_bound(std::size_t at) noexcept {
    ++bound_[at].popped;
    return bound_[at].items.pop();
  }
  [[nodiscard]] static bool is_timed(const work& item, const work*& timed) noexcept {
    if (&item != timed) [[likely]]
      return false;
    timed = nullptr;
    return true;
  }
  [[nodiscard]] popped pop_any() noexcept;
  [[nodiscard]] work* take(std::size_t at, bool& timed) noexcept;
  [[nodiscard]] work* take_roaming(per_priority& from) noexcept;

  std::array<bound_queue, priority_count> bound_;
  // From the low bits: which priorities seem to have something, and which of these something that
  // roams. One that has not has something bound.
  unsigned state_ = 0;
  const unsigned timed_every_;
  std::array<const work*, priority_count> roaming_timed_{};
  detail::dispatcher dispatcher_;
  std::array<per_priority, priority_count> queues_;
};

}  // namespace hawser::detail
