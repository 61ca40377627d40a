// SPDX-License-Identifier: Apache-2.0
#include "shm/buddies.hpp"

#include <algorithm>

namespace hawser::shm {

std::uint32_t buddies::take(std::uint32_t count) {
  if (nodes_.empty()) {
    const auto orders = static_cast<std::size_t>(std::bit_width(granules_));
    std::vector<std::uint32_t> lists(orders, none);
    nodes_.resize(granules_);
    free_ = std::move(lists);
    push(0, static_cast<unsigned>(orders - 1));
  }
  auto order = static_cast<unsigned>(std::bit_width(count - 1));
  while (order < free_.size() && free_[order] == none) ++order;
  const std::uint32_t first = order < free_.size() ? free_[order] : find_neighbours(count);
  if (first == none) return none;
  std::uint32_t found = 0;
  while (found < count) {
    const std::uint32_t next = first + found;
    found += std::uint32_t{1} << nodes_[next].order;
    remove(next);
  }
  release_run(first + count, found - count);
  taken_ += count;
  return first;
}

// Free runs that lie side by side, and are no buddies.
std::uint32_t buddies::find_neighbours(std::uint32_t count) const noexcept {
  if (granules_ - taken_ < count) return none;
  std::uint32_t first = 0;
  for (std::uint32_t at = 0; at < granules_;) {
    const bool is_free = nodes_[at].order != not_free;
    at += is_free ? std::uint32_t{1} << nodes_[at].order : 1;
    if (!is_free) first = at;
    if (at - first >= count) return first;
  }
  return none;
}

void buddies::give_back(std::uint32_t first, std::uint32_t count) noexcept {
  taken_ -= count;
  release_run(first, count);
}

void buddies::release_run(std::uint32_t first, std::uint32_t count) noexcept {
  while (count != 0) {
    const int aligned = first == 0 ? 31 : std::countr_zero(first);
    const int fitting = std::bit_width(count) - 1;
    const auto order = static_cast<unsigned>(std::min(aligned, fitting));
    join(first, order);
    first += std::uint32_t{1} << order;
    count -= std::uint32_t{1} << order;
  }
}

void buddies::join(std::uint32_t first, unsigned order) noexcept {
  while (order + 1 < free_.size()) {
    const std::uint32_t other = first ^ (std::uint32_t{1} << order);
    if (nodes_[other].order != order) break;
    remove(other);
    first = std::min(first, other);
    ++order;
  }
  push(first, order);
}

void buddies::push(std::uint32_t first, unsigned order) noexcept {
  node& added = nodes_[first];
  added.order = static_cast<std::uint8_t>(order);
  added.previous = none;
  added.next = free_[order];
  if (added.next != none) nodes_[added.next].previous = first;
  free_[order] = first;
}

void buddies::remove(std::uint32_t first) noexcept {
  node& gone = nodes_[first];
  if (gone.previous == none) {
    free_[gone.order] = gone.next;
  } else {
    nodes_[gone.previous].next = gone.next;
  }
  if (gone.next != none) nodes_[gone.next].previous = gone.previous;
  gone = {};
}

}  // namespace hawser::shm
