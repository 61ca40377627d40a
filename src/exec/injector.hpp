// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "exec/work_list.hpp"
#include "hawser/executor.hpp"

namespace hawser::detail {

/// Work that any worker may run and that lies with none of them, by priority: what came from
/// outside, and what found no room where it was spawned.
///
/// Whoever takes takes a part, and what is left stays within everybody's reach: a worker that runs
/// something long keeps nobody from it.
///
/// Threads: any, all members.
/// Cost:    a push is one compare-exchange and one addition on the same cache line; a part that
///          leaves nothing behind is one exchange, any other a lock.
class injector {
 public:
  /// True: nothing of that priority waited here.
  bool push(work& item, priority urgency) noexcept {
    stack& to = stacks_[static_cast<std::size_t>(urgency)];
    work* before = to.top.load(std::memory_order_relaxed);
    do {
      item.next = before;
      // seq_cst: release for take(), and ordered before the producer's look at who sleeps, while a
      // worker says that it sleeps and then looks here.
    } while (!to.top.compare_exchange_weak(before, &item, std::memory_order_seq_cst,
                                           std::memory_order_relaxed));
    to.pushed.fetch_add(1, std::memory_order_relaxed);
    return before == nullptr;
  }

  /// Up to `most` of a priority, oldest first; `count` says how many. If it does not seem empty
  /// afterwards, some worker must be told: one that looked meanwhile may have seen nothing.
  [[nodiscard]] work_list take(priority urgency, unsigned most, unsigned& count) noexcept {
    stack& from = stacks_[static_cast<std::size_t>(urgency)];
    if (!from.has_rest.load(std::memory_order_relaxed)) {
      work_list all = take_pushed(from);
      work_list some = all.take_some(most, count);
      if (!all.empty()) {
        const std::lock_guard guard(from.mutex);
        from.rest.append(all);
        from.has_rest.store(true, std::memory_order_seq_cst);  // pairs with empty()
      }
      return some;
    }
    const std::lock_guard guard(from.mutex);
    from.rest.append(take_pushed(from));
    work_list some = from.rest.take_some(most, count);
    from.has_rest.store(!from.rest.empty(), std::memory_order_seq_cst);  // as above
    return some;
  }
  [[nodiscard]] bool seems_empty(priority urgency) const noexcept {
    const stack& of = stacks_[static_cast<std::size_t>(urgency)];
    return of.top.load(std::memory_order_relaxed) == nullptr &&
           !of.has_rest.load(std::memory_order_relaxed);
  }
  /// seq_cst: the other half of what push() and take() say.
  [[nodiscard]] bool empty(priority urgency) const noexcept {
    const stack& of = stacks_[static_cast<std::size_t>(urgency)];
    return of.top.load(std::memory_order_seq_cst) == nullptr &&
           !of.has_rest.load(std::memory_order_seq_cst);
  }
  [[nodiscard]] std::uint64_t pushed(priority urgency) const noexcept {
    return stacks_[static_cast<std::size_t>(urgency)].pushed.load(std::memory_order_relaxed);
  }

 private:
  struct alignas(64) stack {
    std::atomic<work*> top{nullptr};
    std::atomic<std::uint64_t> pushed{0};
    std::atomic<bool> has_rest{false};
    std::mutex mutex;  // rest
    work_list rest;    // older than all that was pushed since
  };

  [[nodiscard]] static work_list take_pushed(stack& from) noexcept {
    // acq_rel: acquire pairs with push(); the chain of exchanges continues its release sequence
    return work_list::reversed(from.top.exchange(nullptr, std::memory_order_acq_rel));
  }

  std::array<stack, priority_count> stacks_;
};

}  // namespace hawser::detail
