// SPDX-License-Identifier: Apache-2.0
#pragma once

// Programs that link allocations.cpp count what they allocate with operator new, and can let it
// fail. Their linker wraps aligned_alloc(), which Asio uses. The thread sanitizer has an operator
// new of its own, which takes no other beside it: there nothing is counted, and nothing fails.

#include <cstddef>
#include <cstdint>

namespace test {

/// While one lives allocations fail, on any thread: the `first`-th from here on, counted from one,
/// and the `count - 1` that follow it.
///
/// Shape: one at a time.
class allocation_faults {
 public:
  allocation_faults(std::uint64_t first, std::uint64_t count) noexcept;
  ~allocation_faults();
  allocation_faults(const allocation_faults&) = delete;
  allocation_faults& operator=(const allocation_faults&) = delete;

  [[nodiscard]] std::uint64_t failed() const noexcept;
};

struct allocation_figures {
  std::uint64_t bytes = 0;       ///< ever allocated, but for what aligned_alloc() gave
  std::int64_t outstanding = 0;  ///< allocations that were not freed, likewise
  std::int64_t outstanding_bytes = 0;
};

[[nodiscard]] allocation_figures allocations() noexcept;

}  // namespace test
