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

/// Whether a publisher, of those that need not, fences by itself for a while.
///
/// One that finds the sleeper asleep again and again does: its fences cost less than the barrier of
/// the system, which the sleeper then leaves out. It says so before the first of them; so a sleeper
/// that reads it between a fence of its own and its last look misses nothing: what was published
/// without a fence came before the word, and is seen by that look. Taking it back, the publisher
/// fences and asks ring() once more: a sleeper that has not seen that it was taken back is asleep
/// for it.
///
/// Threads: the publisher's; the word is read by sleepers.
template <template <class> class Atomic = std::atomic>
class own_fences {
 public:
  explicit own_fences(Atomic<std::uint32_t>& told) noexcept : told_(&told) {}

  [[nodiscard]] bool active() const noexcept { return active_; }
  void found_asleep() noexcept {
    awake_ = 0;
    if (active_ || ++asleep_ < asleep_before) return;
    active_ = true;
    // release pairs with the acquire in sleeper_needs_none()
    told_->store(1, std::memory_order_release);
  }
  /// True: fence, and ask ring() again.
  [[nodiscard]] bool found_awake() noexcept {
    asleep_ = 0;
    if (!active_ || ++awake_ < awake_after) return false;
    active_ = false;
    awake_ = 0;
    told_->store(0, std::memory_order_relaxed);
    return true;
  }
  /// Threads: the sleeper's, behind a fence after announce().
  [[nodiscard]] static bool sleeper_needs_none(const Atomic<std::uint32_t>& told) noexcept {
    return told.load(std::memory_order_acquire) == 1;
  }

  static constexpr unsigned asleep_before = 4;  // in a row
  static constexpr unsigned awake_after = 64;

 private:
  Atomic<std::uint32_t>* told_;
  bool active_ = false;
  unsigned asleep_ = 0;
  unsigned awake_ = 0;
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
