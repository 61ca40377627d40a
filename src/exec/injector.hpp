// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "exec/work_list.hpp"
#include "hawser/executor.hpp"

namespace hawser::detail {

/// Work that any worker may run and that no worker queued, by priority: many push, one at a time
/// takes everything.
///
/// Threads: any, all members.
/// Cost:    a push is one compare-exchange and one addition on the same cache line.
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

  /// Everything of a priority, oldest first.
  [[nodiscard]] work_list take(priority urgency) noexcept {
    stack& from = stacks_[static_cast<std::size_t>(urgency)];
    // acq_rel: acquire pairs with push(); the chain of exchanges continues its release sequence
    work* newest = from.top.exchange(nullptr, std::memory_order_acq_rel);
    return work_list::reversed(newest);
  }
  [[nodiscard]] bool seems_empty(priority urgency) const noexcept {
    return stacks_[static_cast<std::size_t>(urgency)].top.load(std::memory_order_relaxed) ==
           nullptr;
  }
  /// seq_cst: the other half of what push() says.
  [[nodiscard]] bool empty(priority urgency) const noexcept {
    return stacks_[static_cast<std::size_t>(urgency)].top.load(std::memory_order_seq_cst) ==
           nullptr;
  }
  [[nodiscard]] std::uint64_t pushed(priority urgency) const noexcept {
    return stacks_[static_cast<std::size_t>(urgency)].pushed.load(std::memory_order_relaxed);
  }

 private:
  struct alignas(64) stack {
    std::atomic<work*> top{nullptr};
    std::atomic<std::uint64_t> pushed{0};
  };

  std::array<stack, priority_count> stacks_;
};

}  // namespace hawser::detail
