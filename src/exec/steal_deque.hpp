// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "hawser/executor.hpp"

namespace hawser::detail {

/// Runnable work of one worker, from which other workers steal.
///
/// A ring of fixed size. The owner adds at the back; it and the thieves take from the front, so
/// that work runs in the order in which it came. For fork-join the owner may take its newest item
/// back. A thief takes half of what there is in one step.
///
/// Where the items lie is one 64-bit word: the index of the oldest, how many there are, and how
/// many were ever pushed. Each operation is one read-modify-write of that word. The count of
/// pushes, which never goes back, makes every state of the word new: a compare-exchange that
/// succeeds proves that nothing has happened since the word was read, also not a take_back() and
/// a push() that leave other items at the same places. (A thief would have to stand still for
/// exactly 2^32 pushes to be deceived.) This is why a thief may read the slots first, race or not,
/// and why it may take many at once, which the deque of Chase and Lev, with its two indices, does
/// not allow.
///
/// Orders:
/// - A slot is written before the release of the push that publishes it, and read after an acquire
///   of the word.
/// - A slot is read before the release of the compare-exchange that takes its item, and written
///   again after the owner's acquire of a word that has room; so a thief that wins has read
///   the item it won. Read-modify-writes continue each other's release sequences: nothing in
///   between breaks the chain.
/// - push() is seq_cst, and so is empty(), because their callers cross: one pushes and then asks
///   idle_workers::notify() who sleeps; one announces its sleep and then asks empty(). At least
///   one of them sees the other.
///
/// Threads: what says "owner" is for one thread, the rest for any.
/// Cost:    no allocation; an operation that succeeds is one locked instruction on one cache line.
template <std::size_t Capacity = 256, template <class> class Atomic = std::atomic>
class steal_deque {
 public:
  static_assert(std::has_single_bit(Capacity) && Capacity >= 2 && Capacity <= 0x8000);

  static constexpr std::size_t capacity = Capacity;
  /// More than this is not moved at once, so that a burst spreads over many thieves.
  static constexpr unsigned steal_most = 32;

  struct stolen {
    work* item = nullptr;  // to be run at once; null: the victim had nothing
    unsigned count = 0;    // all that was taken, `item` included
  };

  steal_deque() noexcept = default;
  steal_deque(const steal_deque&) = delete;
  steal_deque& operator=(const steal_deque&) = delete;

  /// Owner: adds the newest. False: full.
  [[nodiscard]] bool push(work& item) noexcept {
    const auto seen = word_.load(std::memory_order_acquire);  // pairs with take(), steal_half()
    if (count_of(seen) == Capacity) return false;
    slot(end_of(seen)).store(&item, std::memory_order_relaxed);
    // release pairs with the acquires of the word; seq_cst: see the class.
    word_.fetch_add(one_pushed, std::memory_order_seq_cst);
    return true;
  }

  /// Owner or thief: removes the oldest. Null: empty.
  [[nodiscard]] work* take() noexcept {
    auto seen = word_.load(std::memory_order_acquire);  // pairs with push()
    while (count_of(seen) != 0) {
      work* const item = slot(first_of(seen)).load(std::memory_order_relaxed);
      // release pairs with the acquire in push(), acquire with its release.
      if (word_.compare_exchange_weak(seen, without_oldest(seen, 1), std::memory_order_acq_rel,
                                      std::memory_order_acquire)) {
        return item;
      }
    }
    return nullptr;
  }

  /// Owner: removes the newest if it is `expected`. False: it is not, and nothing has changed.
  [[nodiscard]] bool take_back(const work& expected) noexcept {
    auto seen = word_.load(std::memory_order_relaxed);  // the slots are the owner's own writes
    while (count_of(seen) != 0 &&
           slot(end_of(seen) - 1).load(std::memory_order_relaxed) == &expected) {
      // Acquire and release keep what push() needs to know of the thieves before it.
      if (word_.compare_exchange_weak(seen, seen - one_counted, std::memory_order_acq_rel,
                                      std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }

  /// Owner of this one, thief of the other: takes about half of what `victim` has. The oldest is
  /// returned, the others are added here; what has no room here stays there.
  ///
  /// Shape: for a moment the items are in neither: whoever calls this must be counted as searching
  ///        (idle_workers) until it returns.
  [[nodiscard]] stolen steal_half(steal_deque& victim) noexcept {
    const auto own = word_.load(std::memory_order_acquire);  // as in push()
    const auto room = static_cast<unsigned>(Capacity) - count_of(own);
    auto seen = victim.word_.load(std::memory_order_acquire);  // pairs with push()
    while (count_of(seen) != 0) {
      const unsigned count = std::min({(count_of(seen) + 1) / 2, steal_most, room + 1});
      const auto from = first_of(seen);
      work* const item = victim.slot(from).load(std::memory_order_relaxed);
      // Behind our own end, where nobody looks before they are published.
      for (unsigned i = 1; i < count; ++i) {
        work* const moved = victim.slot(from + i).load(std::memory_order_relaxed);
        slot(end_of(own) + i - 1).store(moved, std::memory_order_relaxed);
      }
      // As in take().
      if (victim.word_.compare_exchange_weak(seen, without_oldest(seen, count),
                                             std::memory_order_acq_rel,
                                             std::memory_order_acquire)) {
        if (count > 1) word_.fetch_add((count - 1) * one_pushed, std::memory_order_seq_cst);
        return {item, count};
      }
    }
    return {};
  }

  /// A moment's truth.
  [[nodiscard]] std::size_t size() const noexcept {
    return count_of(word_.load(std::memory_order_relaxed));
  }

  /// The last look of a worker that has announced its sleep; seq_cst: see the class.
  [[nodiscard]] bool empty() const noexcept {
    return count_of(word_.load(std::memory_order_seq_cst)) == 0;
  }

 private:
  // The word, from the low bits: 16 of index of the oldest, 16 of count, 32 of pushes. The index
  // wraps where it stands; a carry out of the pushes leaves the word.
  static constexpr std::uint64_t one_counted = std::uint64_t{1} << 16;
  static constexpr std::uint64_t one_pushed = (std::uint64_t{1} << 32) + one_counted;

  [[nodiscard]] static constexpr unsigned first_of(std::uint64_t word) noexcept {
    return static_cast<unsigned>(word & 0xFFFF);
  }
  [[nodiscard]] static constexpr unsigned count_of(std::uint64_t word) noexcept {
    return static_cast<unsigned>(word >> 16 & 0xFFFF);
  }
  [[nodiscard]] static constexpr unsigned end_of(std::uint64_t word) noexcept {
    return first_of(word) + count_of(word);
  }
  [[nodiscard]] static constexpr std::uint64_t without_oldest(std::uint64_t word,
                                                              unsigned count) noexcept {
    const std::uint64_t first = (first_of(word) + count) & 0xFFFF;
    return ((word & ~std::uint64_t{0xFFFF}) | first) - count * one_counted;
  }

  [[nodiscard]] Atomic<work*>& slot(unsigned index) noexcept {
    return slots_[index & (Capacity - 1)];
  }

  alignas(64) Atomic<std::uint64_t> word_{0};
  alignas(64) std::array<Atomic<work*>, Capacity> slots_{};
};

}  // namespace hawser::detail
