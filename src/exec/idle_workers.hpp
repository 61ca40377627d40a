// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "core/assert.hpp"

namespace hawser::detail {

/// Which workers sleep, and how many look for work: so that no work waits while all sleep, and
/// few are woken in vain.
///
/// A worker that has run out of work searches (takes from the others), then announces its sleep,
/// looks at every queue a last time, and sleeps. Whoever queues work asks afterwards whether
/// somebody must be woken. The life of a worker:
///
///                   announce()                call(), notify()
///          awake ---------------> parked ----------------------> called, called_to_search
///            ^                      |                                    |
///            +------- awake() ------+--------------- awake() ------------+
///
/// A loop that uses it:
///
///     run what there is in the own queues
///     searching = searching || begin_search(limit)
///     if searching: steal; if it found: searching = false,
///                          if end_search() and any queue has work: wake(notify()); run it
///     announce(self, searching), searching = false
///     unless any queue has work, the own inbox included: sleep
///     searching = awake(self) == called_to_search
///
/// Why no wake-up is lost. A push is seq_cst, and a load of `counts_` follows it. Everything that
/// ends a search or begins a sleep is a seq_cst change of `counts_`, followed by a look at the
/// queues. So of a push and such a change one comes first in the single order:
/// - the pusher does not see the sleeper: then the sleeper's last look sees the push;
/// - the pusher sees somebody search, and leaves it at that: then the end of the last search comes
///   after, and the look behind it (before sleeping, or after end_search()) sees the push;
/// - the pusher sees nobody search and somebody sleep: it counts a search first, so that others
///   leave it at that, and then claims a sleeper. If none is to be had, all that sleep have been
///   called for something else and will look; it takes its search back only if nobody has
///   announced a sleep since it began to look, otherwise it looks again.
/// A post that is bound to one worker needs only that worker's state: the same argument, with the
/// state in the place of `counts_` and the inbox in the place of the queues.
///
/// A sleeper's state is `parked` before it is counted, so that whoever sees it counted can claim
/// it. It may then be claimed before it is counted: the count of sleepers can fall below zero for
/// a moment, which is why it is stored with a bias.
///
/// Threads: `self` is the calling worker; any otherwise.
/// Cost:    notify() is one load when nobody sleeps or somebody searches; call() when the target
///          is awake. A wake-up is sent once a sleep.
template <template <class> class Atomic = std::atomic>
class idle_workers {
 public:
  static constexpr unsigned workers_most = 1024;

  enum class reason : std::uint8_t {
    own,              // nobody called: a socket, a timer, or the last look
    called,           // for its inbox
    called_to_search  // for anything; it counts as searching
  };

  explicit idle_workers(unsigned workers) : size_(workers), workers_(new worker_state[workers]) {
    HAWSER_ASSERT(workers >= 1 && workers <= workers_most);
  }
  idle_workers(const idle_workers&) = delete;
  idle_workers& operator=(const idle_workers&) = delete;

  /// Counts the calling worker as searching. False: `limit` workers search already.
  [[nodiscard]] bool begin_search(unsigned limit) noexcept {
    auto seen = counts_.load(std::memory_order_relaxed);
    do {
      if (searching_in(seen) >= limit) return false;
      // Relaxed: who relies on this search relies on its end.
    } while (!counts_.compare_exchange_weak(seen, seen + one_searching, std::memory_order_relaxed,
                                            std::memory_order_relaxed));
    return true;
  }

  /// The search is over, and not for sleep: the worker has found something to do. True: it was the
  /// last to search. It then looks at all queues, after it has published what it stole, and calls
  /// notify() if any work is left, because others have left waking to this search.
  [[nodiscard]] bool end_search() noexcept {
    return searching_in(counts_.fetch_sub(one_searching, std::memory_order_seq_cst)) == 1;
  }

  /// The worker is about to sleep; `searching`: it ends a search. It then looks at every queue once
  /// more, with seq_cst loads, and sleeps if there is nothing. awake() must follow in both cases.
  void announce(unsigned self, bool searching) noexcept {
    // seq_cst pairs with the load in call(); see the class.
    workers_[self].state.store(sleep::parked, std::memory_order_seq_cst);
    // seq_cst pairs with the load in notify().
    counts_.fetch_add(one_announced + one_parked - (searching ? one_searching : 0),
                      std::memory_order_seq_cst);
  }

  /// The worker does not sleep any more, whatever the cause. If it was called, its wake-up may
  /// still be on the way; it then ends the next sleep at once.
  [[nodiscard]] reason awake(unsigned self) noexcept {
    // Acquire pairs with the releases of call() and claim().
    const auto was = workers_[self].state.exchange(sleep::awake, std::memory_order_seq_cst);
    if (was == sleep::called) return reason::called;
    if (was == sleep::called_to_search) return reason::called_to_search;
    // Relaxed: a count that is too high costs others a look.
    counts_.fetch_sub(one_parked, std::memory_order_relaxed);
    return reason::own;
  }

  /// Work was put into the inbox of `target`, by a seq_cst push. True: it sleeps, and the caller,
  /// alone, must wake it.
  [[nodiscard]] bool call(unsigned target) noexcept { return claim(target, sleep::called); }

  /// Work was put where anyone may take it, by a seq_cst push. If there is a value, the caller must
  /// wake this worker: nobody searched, it slept, and now it counts as searching.
  [[nodiscard]] std::optional<unsigned> notify() noexcept {
    auto seen = counts_.load(std::memory_order_seq_cst);  // pairs with announce()
    do {
      if (searching_in(seen) != 0 || parked_in(seen) <= 0) return std::nullopt;
      // Acquire pairs with announce(): whoever is counted is seen as parked.
    } while (!counts_.compare_exchange_weak(seen, seen + one_searching, std::memory_order_seq_cst,
                                            std::memory_order_seq_cst));
    seen += one_searching;
    for (;;) {
      const auto announced = announced_in(seen);
      for (unsigned i = 0; i < size_; ++i) {
        if (claim(i, sleep::called_to_search)) return i;
      }
      do {
        if (counts_.compare_exchange_weak(seen, seen - one_searching, std::memory_order_seq_cst,
                                          std::memory_order_seq_cst)) {
          return std::nullopt;
        }
      } while (announced_in(seen) == announced);
    }
  }

  /// A moment's truth, both.
  [[nodiscard]] unsigned searching() const noexcept {
    return searching_in(counts_.load(std::memory_order_relaxed));
  }
  [[nodiscard]] unsigned parked() const noexcept {
    const int count = parked_in(counts_.load(std::memory_order_relaxed));
    return count < 0 ? 0U : static_cast<unsigned>(count);
  }

 private:
  enum class sleep : std::uint8_t { awake, parked, called, called_to_search };

  // A cache line each: a worker that parks often disturbs no other.
  struct alignas(64) worker_state {
    Atomic<sleep> state{sleep::awake};
  };

  // counts_, from the low bits: 16 of searching, 16 of parked plus the bias, 32 of announcements.
  static constexpr std::uint64_t one_searching = 1;
  static constexpr std::uint64_t one_parked = std::uint64_t{1} << 16;
  static constexpr std::uint64_t one_announced = std::uint64_t{1} << 32;
  static constexpr int parked_bias = workers_most;

  [[nodiscard]] static constexpr unsigned searching_in(std::uint64_t counts) noexcept {
    return static_cast<unsigned>(counts & 0xFFFF);
  }
  [[nodiscard]] static constexpr int parked_in(std::uint64_t counts) noexcept {
    return static_cast<int>(counts >> 16 & 0xFFFF) - parked_bias;
  }
  [[nodiscard]] static constexpr std::uint32_t announced_in(std::uint64_t counts) noexcept {
    return static_cast<std::uint32_t>(counts >> 32);
  }

  // Exactly one caller ends a sleep of `target`.
  [[nodiscard]] bool claim(unsigned target, sleep next) noexcept {
    auto& state = workers_[target].state;
    // seq_cst pairs with the store in announce(). The load keeps the line shared while the target
    // is awake.
    auto seen = state.load(std::memory_order_seq_cst);
    if (seen != sleep::parked) return false;
    // seq_cst as the load; if it fails the target is awake, or called by another.
    if (!state.compare_exchange_strong(seen, next, std::memory_order_seq_cst,
                                       std::memory_order_relaxed)) {
      return false;
    }
    counts_.fetch_sub(one_parked, std::memory_order_relaxed);  // relaxed: as in awake()
    return true;
  }

  const unsigned size_;
  const std::unique_ptr<worker_state[]> workers_;
  alignas(64) Atomic<std::uint64_t> counts_{std::uint64_t{parked_bias} * one_parked};
};

}  // namespace hawser::detail
