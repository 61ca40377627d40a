// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace hawser::shm {

/// Which granules of a region are taken, in memory of one's own: who shares the region sees none
/// of it.
///
/// Runs of powers of two are halved and joined again; of the run that is found what was not asked
/// for is free at once. What was freed last is taken first: it is warm.
///
/// Threads: one.
/// Cost:    no allocation after the first; a few steps for each halving. If there is only room that
///          runs side by side have together, a look at all of them.
/// Source:  Knowlton, A fast storage allocator, 1965.
class buddies {
 public:
  static constexpr std::uint32_t none = ~std::uint32_t{0};

  /// Shape: a power of two of granules.
  explicit buddies(std::uint32_t granules) : granules_(granules) {}

  /// The first granule of a run of so many, or none.
  ///
  /// Shape:  count from 1 to all.
  /// Errors: throws std::bad_alloc, the first time.
  [[nodiscard]] std::uint32_t take(std::uint32_t count);
  /// Shape: as take() gave it.
  void give_back(std::uint32_t first, std::uint32_t count) noexcept;

  [[nodiscard]] std::uint32_t size() const noexcept { return granules_; }
  [[nodiscard]] std::uint32_t taken() const noexcept { return taken_; }

 private:
  static constexpr std::uint8_t not_free = 0xff;

  // Of a run that is free; at its first granule.
  struct node {
    std::uint32_t next = none;
    std::uint32_t previous = none;
    std::uint8_t order = not_free;
  };

  void push(std::uint32_t first, unsigned order) noexcept;
  void remove(std::uint32_t first) noexcept;
  [[nodiscard]] std::uint32_t find_neighbours(std::uint32_t count) const noexcept;
  void join(std::uint32_t first, unsigned order) noexcept;
  /// Frees a run of any length, as the aligned ones that it is made of.
  void release_run(std::uint32_t first, std::uint32_t count) noexcept;

  std::uint32_t granules_;
  std::uint32_t taken_ = 0;
  std::vector<node> nodes_;
  std::vector<std::uint32_t> free_;  // the first of each order
};

}  // namespace hawser::shm
