// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "hawser/executor.hpp"

namespace hawser::detail {

/// First in, first out; the nodes belong to whoever queued them.
class work_list {
 public:
  /// From a stack, given by its newest.
  [[nodiscard]] static work_list reversed(work* newest) noexcept {
    work_list list;
    list.last_ = newest;
    while (newest != nullptr) {
      work* const older = newest->next;
      newest->next = list.first_;
      list.first_ = newest;
      newest = older;
    }
    return list;
  }

  [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }
  /// The next to be popped, or null.
  [[nodiscard]] const work* first() const noexcept { return first_; }
  void push(work& item) noexcept {
    item.next = nullptr;
    (last_ == nullptr ? first_ : last_->next) = &item;
    last_ = &item;
  }
  /// All of `later`, in order.
  void append(work_list later) noexcept {
    if (later.empty()) return;
    (last_ == nullptr ? first_ : last_->next) = later.first_;
    last_ = later.last_;
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
  /// The first `most`, or all; `count` says how many that were.
  [[nodiscard]] work_list take_some(unsigned most, unsigned& count) noexcept {
    work_list some;
    for (count = 0; count < most && !empty(); ++count) some.push(pop());
    return some;
  }

 private:
  work* first_ = nullptr;
  work* last_ = nullptr;
};

}  // namespace hawser::detail
