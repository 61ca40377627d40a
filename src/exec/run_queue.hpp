// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <utility>

#include "hawser/executor.hpp"

namespace hawser::detail {

/// First in, first out; the nodes belong to whoever queued them.
class work_list {
 public:
  [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }
  void push(work& item) noexcept {
    item.next = nullptr;
    (last_ == nullptr ? first_ : last_->next) = &item;
    last_ = &item;
  }
  /// Shape: not empty.
  [[nodiscard]] work& pop() noexcept {
    work& item = *first_;
    first_ = item.next;
    if (first_ == nullptr) last_ = nullptr;
    item.next = nullptr;
    return item;
  }
  [[nodiscard]] work_list take_all() noexcept { return std::exchange(*this, {}); }

 private:
  work* first_ = nullptr;
  work* last_ = nullptr;
};

/// Runnable work of one worker, by priority.
///
/// The most urgent item runs first, but each priority has a share of a round: once it has used its
/// share, the others that wait get theirs before it runs again. So an item at the head of its
/// queue waits for at most the shares of the other three: see longest_wait().
class run_queue {
 public:
  static constexpr std::array<unsigned, priority_count> shares{64, 32, 16, 8};
  /// Items of other priorities that may run before the head of the queue `urgency` does.
  [[nodiscard]] static constexpr unsigned longest_wait(priority urgency) noexcept {
    unsigned sum = 0;
    for (const unsigned share : shares) sum += share;
    return sum - shares[static_cast<std::size_t>(urgency)];
  }

  [[nodiscard]] bool empty() const noexcept { return waiting_ == 0; }
  void push(work& item, priority urgency) noexcept {
    const auto at = static_cast<std::size_t>(urgency);
    queues_[at].push(item);
    waiting_ |= 1U << at;
  }
  /// Shape: not empty.
  [[nodiscard]] work& pop() noexcept {
    if ((waiting_ & entitled_) == 0) {
      left_ = shares;
      entitled_ = all;
    }
    const auto at = static_cast<std::size_t>(std::countr_zero(waiting_ & entitled_));
    if (--left_[at] == 0) entitled_ &= ~(1U << at);
    work& item = queues_[at].pop();
    if (queues_[at].empty()) waiting_ &= ~(1U << at);
    return item;
  }

 private:
  static constexpr unsigned all = (1U << priority_count) - 1;

  std::array<work_list, priority_count> queues_;
  std::array<unsigned, priority_count> left_ = shares;
  unsigned waiting_ = 0;
  unsigned entitled_ = all;
};

}  // namespace hawser::detail
