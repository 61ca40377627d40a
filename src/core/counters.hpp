// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace hawser::detail {

/// A number that one thread adds to and any thread reads.
///
/// Cost: a load and a store, no locked instruction.
class counter {
 public:
  void add(std::uint64_t amount = 1) noexcept {
    // Single writer: nobody can come between the load and the store.
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  /// Threads: any.
  [[nodiscard]] std::uint64_t value() const noexcept {
    return value_.load(std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint64_t> value_{0};
};

/// One set of counters a worker, each on cache lines of its own.
///
/// Shape:   `Set` is a struct of counter members.
/// Threads: at(i) is written by worker i; snapshot() by any thread, it disturbs nobody.
template <class Set>
class worker_counters {
 public:
  explicit worker_counters(std::size_t workers) : sets_(workers) {}

  [[nodiscard]] Set& at(std::size_t worker) noexcept { return sets_[worker].set; }
  [[nodiscard]] std::uint64_t snapshot(std::size_t worker, counter Set::*which) const noexcept {
    return (sets_[worker].set.*which).value();
  }
  /// The sum over all workers; each value is whole, the sum is of no single moment.
  [[nodiscard]] std::uint64_t snapshot(counter Set::*which) const noexcept {
    std::uint64_t sum = 0;
    for (const padded& one : sets_) sum += (one.set.*which).value();
    return sum;
  }

 private:
  struct alignas(64) padded {
    Set set;
  };

  std::vector<padded> sets_;
};

}  // namespace hawser::detail
