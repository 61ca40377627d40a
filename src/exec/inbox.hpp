// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#include "hawser/executor.hpp"

namespace hawser::detail {

/// Work from other threads: many producers push, the worker takes everything at once.
///
/// A stack of tagged pointers: the two low bits say the priority of the node they point to, so
/// that one list, and one wake-up, serves all priorities. Taking reverses it, which restores the
/// order of the pushes.
///
/// Threads: push() any; drain() one.
/// Cost:    a push is one compare-exchange, a drain one exchange, or one load when empty.
class inbox {
 public:
  /// True: it was empty before.
  bool push(work& item, priority urgency) noexcept {
    const auto tagged =
        reinterpret_cast<std::uintptr_t>(&item) | static_cast<std::uintptr_t>(urgency);
    auto before = top_.load(std::memory_order_relaxed);
    do {
      item.next = reinterpret_cast<work*>(before);
      // release pairs with the acquire in drain(); sequentially consistent because the producer
      // then looks at worker::parked_, while the worker sets that and then looks here.
    } while (!top_.compare_exchange_weak(before, tagged, std::memory_order_seq_cst,
                                         std::memory_order_relaxed));
    return before == 0;
  }

  /// seq_cst: the other half of what push() says.
  [[nodiscard]] bool empty() const noexcept { return top_.load(std::memory_order_seq_cst) == 0; }

  /// Takes everything: `each(item, urgency)`, oldest first. Yields how many there were.
  template <class F>
  unsigned drain(F&& each) noexcept {
    if (top_.load(std::memory_order_relaxed) == 0) return 0;
    // acquire pairs with the release in push(); the chain of exchanges continues its sequence.
    auto tagged = top_.exchange(0, std::memory_order_acq_rel);
    std::uintptr_t reversed = 0;
    while (tagged != 0) {
      work& item = node(tagged);
      const auto below = reinterpret_cast<std::uintptr_t>(item.next);
      item.next = reinterpret_cast<work*>(reversed);
      reversed = tagged;
      tagged = below;
    }
    unsigned count = 0;
    while (reversed != 0) {
      work& item = node(reversed);
      const auto urgency = static_cast<priority>(reversed & tag_bits);
      reversed = reinterpret_cast<std::uintptr_t>(item.next);
      each(item, urgency);
      ++count;
    }
    return count;
  }

 private:
  static constexpr std::uintptr_t tag_bits = 3;
  static_assert(priority_count == tag_bits + 1 && alignof(work) > tag_bits);

  [[nodiscard]] static work& node(std::uintptr_t tagged) noexcept {
    return *reinterpret_cast<work*>(tagged & ~tag_bits);
  }

  std::atomic<std::uintptr_t> top_{0};
};

}  // namespace hawser::detail
