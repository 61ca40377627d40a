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
/// looks a last time at the queues, and sleeps. Whoever queues work asks afterwards whether
/// somebody must be woken. The life of a worker:
///
///                   announce()                call(), notify()
///          awake ---------------> parked ----------------------> called, called_to_search
///            ^                      |                                    |
///            +------- awake() ------+--------------- awake() ------------+
///
/// A loop that uses it:
///
///     find something: in the own queues; else searching = searching || begin_search(limit), and if
///                     that holds, in the queues of others
///     if found:
///       if searching and end_search() and any queue has work: wake whom notify() names
///       searching = false
///       run it
///     else:
///       last = announce(self, searching)
///       if nothing is in the own inbox, nor (if last) in any other queue: sleep
///       searching = awake(self) == called_to_search
///
/// Nothing is run while searching, not even what was in the own inbox when the worker was called:
/// others leave it to this search to wake them.
///
/// Why no wake-up is lost. A push is seq_cst, and a load of `counts_` follows it. What ends a
/// search or begins a sleep is a seq_cst change of `counts_`; whoever leaves nobody searching then
/// looks at the queues. Of a push and such a change one comes first in the single order:
/// - the pusher sees nobody search or sleep: whoever announces a sleep later looks and sees the
///   push, or leaves it to a search that is still going on, whose end sees it;
/// - the pusher sees somebody search, and leaves it at that: the end of the last search comes
///   after, and the look behind it sees the push;
/// - the pusher sees nobody search and somebody sleep: it counts a search first, so that others
///   leave it at that, and then claims a sleeper. If none is to be had, all that sleep have been
///   called for something else and will look; it takes its search back only if nobody has
///   announced a sleep since it began to look, otherwise it looks again.
/// A post that is bound to one worker needs only that worker's state: the same argument, with the
/// state in the place of `counts_` and the inbox in the place of the queues.
///
/// A sleeper's state is `parked` before it is counted, so that whoever sees it counted can claim
/// it. It counts itself out when it is awake: if the claim did, one that comes before the count
/// would hide another sleeper for a moment.
///
/// Threads: `self` is the calling worker; any otherwise.
/// Cost:    notify() is one load when nobody sleeps or somebody searches, call() when the target is
///          awake. One wake-up ends a sleep, two never do.
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

  /// The worker is about to sleep; `searching`: it ends a search. Then it looks at its inbox, and,
  /// if this returns true, because nobody searches, at all queues, with seq_cst loads; it sleeps if
  /// there is nothing. awake() must follow in any case.
  [[nodiscard]] bool announce(unsigned self, bool searching) noexcept {
    // seq_cst pairs with the load in claim(); see the class.
    workers_[self].state.store(sleep::parked, std::memory_order_seq_cst);
    const std::uint64_t ended = searching ? one_searching : 0;
    // seq_cst pairs with the load in notify().
    const auto before =
        counts_.fetch_add(one_announced + one_parked - ended, std::memory_order_seq_cst);
    return searching_in(before) == ended;
  }

  /// The worker does not sleep any more, whatever the cause. If it was called, its wake-up may
  /// still be on the way; it then ends the next sleep at once.
  [[nodiscard]] reason awake(unsigned self) noexcept {
    // Acquire pairs with the releases of call() and claim().
    const auto was = workers_[self].state.exchange(sleep::awake, std::memory_order_seq_cst);
    // Relaxed: a count that is too high costs others a look.
    counts_.fetch_sub(one_parked, std::memory_order_relaxed);
    if (was == sleep::called) return reason::called;
    return was == sleep::called_to_search ? reason::called_to_search : reason::own;
  }

  /// Work was put into the inbox of `target`, by a seq_cst push. True: it sleeps, and the caller,
  /// alone, must wake it.
  [[nodiscard]] bool call(unsigned target) noexcept { return claim(target, sleep::called); }

  /// Work was put where anyone may take it, by a seq_cst push. If there is a value, the caller must
  /// wake this worker: nobody searched, it slept, and now it counts as searching.
  [[nodiscard]] std::optional<unsigned> notify() noexcept {
    auto seen = counts_.load(std::memory_order_seq_cst);  // pairs with announce()
    do {
      if (searching_in(seen) != 0 || parked_in(seen) == 0) return std::nullopt;
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
    return parked_in(counts_.load(std::memory_order_relaxed));
  }

 private:
  enum class sleep : std::uint8_t { awake, parked, called, called_to_search };

  // A cache line each: a worker that parks often disturbs no other.
  struct alignas(64) worker_state {
    Atomic<sleep> state{sleep::awake};
  };

  // counts_, from the low bits: 16 of searching, 16 of parked, 32 of announcements. A carry out of
  // the announcements leaves the word.
  static constexpr std::uint64_t one_searching = 1;
  static constexpr std::uint64_t one_parked = std::uint64_t{1} << 16;
  static constexpr std::uint64_t one_announced = std::uint64_t{1} << 32;

  [[nodiscard]] static constexpr unsigned searching_in(std::uint64_t counts) noexcept {
    return static_cast<unsigned>(counts & 0xFFFF);
  }
  [[nodiscard]] static constexpr unsigned parked_in(std::uint64_t counts) noexcept {
    return static_cast<unsigned>(counts >> 16 & 0xFFFF);
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
    return state.compare_exchange_strong(seen, next, std::memory_order_seq_cst,
                                         std::memory_order_relaxed);
  }

  const unsigned size_;
  const std::unique_ptr<worker_state[]> workers_;
  alignas(64) Atomic<std::uint64_t> counts_{0};
};

}  // namespace hawser::detail
