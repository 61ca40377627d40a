// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

namespace hawser::shm {

/// What a sleeper and those who may wake it share.
///
///          announce()              ring()
///   awake ------------> asleep ----------------> awake, and to be woken
///     ^                   |
///     +---- answer() -----+
template <template <class> class Atomic = std::atomic>
struct alignas(128) bell_state {
  Atomic<std::uint32_t> asleep{0};
};
static_assert(sizeof(bell_state<>) == 128);

/// The barrier between what a publisher writes and its look at who sleeps.
///
/// A publisher that paid a full fence a message would spend ten times what the message costs. So
/// the sleeper pays for both: after it has announced its sleep it makes every thread of both
/// processes pass a barrier (membarrier), and only then looks a last time. A publisher is before
/// that barrier, and what it wrote is seen by the last look; or behind it, and sees the
/// announcement. The compiler must not reorder either, which costs nothing.
///
/// Where the system has no such barrier, or the other process is not registered for it, both sides
/// fence by themselves.
///
/// Source: "asymmetric Dekker synchronization", D. Dice and others; membarrier(2).
struct barriers {
  bool full = true;  ///< publishers fence by themselves

  void between_publish_and_look() const noexcept {
    if (full) {
      std::atomic_thread_fence(std::memory_order_seq_cst);
    } else {
      std::atomic_signal_fence(std::memory_order_seq_cst);
    }
  }
};

/// Wakes one sleeper, which is perhaps in another process.
///
/// The sleeper announces, passes the barrier of sleepers, and looks at everything that may have
/// changed; if nothing has, it sleeps until it is woken. A publisher publishes, passes the barrier
/// of publishers, and asks ring().
template <template <class> class Atomic = std::atomic>
class bell {
 public:
  explicit bell(bell_state<Atomic>& state) noexcept : state_(&state) {}

  // ---- the sleeper --------------------------------------------------------------------------
  void announce() noexcept { state_->asleep.store(1, std::memory_order_relaxed); }
  /// It does not sleep any more, whatever the cause.
  void answer() noexcept { state_->asleep.store(0, std::memory_order_relaxed); }
  /// It has been called, and will be woken if it sleeps.
  [[nodiscard]] bool was_rung() const noexcept {
    return state_->asleep.load(std::memory_order_relaxed) == 0;
  }
  /// What the sleeper sleeps on, as long as it is 1.
  [[nodiscard]] Atomic<std::uint32_t>& word() noexcept { return state_->asleep; }

  // ---- a publisher --------------------------------------------------------------------------
  /// True: it sleeps, and the caller, alone, must wake it.
  [[nodiscard]] bool ring() noexcept {
    return state_->asleep.load(std::memory_order_relaxed) != 0 &&
           state_->asleep.exchange(0, std::memory_order_relaxed) != 0;
  }

 private:
  bell_state<Atomic>* state_;
};

}  // namespace hawser::shm
