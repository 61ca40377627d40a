// SPDX-License-Identifier: Apache-2.0
#include "hawser/stats.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hawser {

std::chrono::nanoseconds wait_histogram::percentile(double share) const noexcept {
  const std::uint64_t all = total();
  if (all == 0) return std::chrono::nanoseconds::zero();
  // At least one: the smallest share of all is still the smallest of them.
  const auto wanted =
      std::max(std::ceil(std::clamp(share, 0.0, 1.0) * static_cast<double>(all)), 1.0);
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i + 1 < buckets; ++i) {
    seen += counts[i];
    if (static_cast<double>(seen) >= wanted) return std::chrono::nanoseconds(std::int64_t{64} << i);
  }
  return std::chrono::nanoseconds::max();
}

std::uint64_t wait_histogram::total() const noexcept {
  return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
}

wait_histogram& wait_histogram::operator+=(const wait_histogram& other) noexcept {
  for (std::size_t i = 0; i < buckets; ++i) counts[i] += other.counts[i];
  return *this;
}

}  // namespace hawser
