// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

namespace hawser::detail {

/// A number that one thread changes and any may read: a plain addition, no locked instruction.
class counter {
 public:
  counter() noexcept = default;
  counter(const counter&) = delete;
  counter& operator=(const counter&) = delete;

  // Threads: the one that owns it.
  counter& operator++() noexcept { return *this += 1; }
  counter& operator--() noexcept { return *this += ~std::uint64_t{0}; }
  counter& operator+=(std::uint64_t more) noexcept {
    value_.store(get() + more, std::memory_order_relaxed);
    return *this;
  }
  void reset() noexcept { value_.store(0, std::memory_order_relaxed); }
  void raise_to(std::uint64_t least) noexcept {
    if (get() < least) value_.store(least, std::memory_order_relaxed);
  }

  /// Threads: any.
  [[nodiscard]] std::uint64_t get() const noexcept {
    return value_.load(std::memory_order_relaxed);
  }
  operator std::uint64_t() const noexcept { return get(); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

}  // namespace hawser::detail
