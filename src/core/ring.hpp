// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>

namespace hawser::detail {

/// A first-in first-out queue that keeps its memory: no allocation once it is warm.
///
/// Errors: push() throws std::bad_alloc; the queue is unchanged then.
template <class T>
class ring {
 public:
  ring() noexcept = default;
  ring(const ring&) = delete;
  ring& operator=(const ring&) = delete;
  ~ring() {
    clear();
    release_memory();
  }

  [[nodiscard]] bool empty() const noexcept { return first_ == last_; }
  [[nodiscard]] std::size_t size() const noexcept { return last_ - first_; }
  [[nodiscard]] T& front() noexcept { return at(0); }
  [[nodiscard]] const T& front() const noexcept {
    return slots_[first_ & (capacity_ - 1)];
  }
  [[nodiscard]] T& back() noexcept { return at(size() - 1); }
  [[nodiscard]] T& at(std::size_t index) noexcept {
    return slots_[(first_ + index) & (capacity_ - 1)];
  }

  template <class... Args>
  T& emplace(Args&&... args) {
    if (size() == capacity_) grow();
    T* slot = new (&slots_[last_ & (capacity_ - 1)]) T(std::forward<Args>(args)...);
    ++last_;
    return *slot;
  }
  /// Errors: as emplace().
  template <class... Args>
  T& emplace_front(Args&&... args) {
    if (size() == capacity_) grow();
    T* slot = new (&slots_[(first_ - 1) & (capacity_ - 1)]) T(std::forward<Args>(args)...);
    --first_;
    return *slot;
  }
  void pop() noexcept {
    front().~T();
    ++first_;
  }
  void pop_back() noexcept {
    back().~T();
    --last_;
  }
  /// Shape: not empty; T moves without an exception.
  [[nodiscard]] T take() noexcept {
    T& slot = front();
    T first(std::move(slot));
    slot.~T();
    ++first_;
    return first;
  }
  void clear() noexcept {
    while (!empty()) pop();
  }

 private:
  void grow() {
    const std::size_t capacity = capacity_ == 0 ? 8 : capacity_ * 2;
    T* larger = std::allocator<T>().allocate(capacity);
    const std::size_t count = size();
    for (std::size_t i = 0; i < count; ++i) {
      new (&larger[i]) T(std::move(at(i)));
      at(i).~T();
    }
    release_memory();
    slots_ = larger;
    capacity_ = capacity;
    first_ = 0;
    last_ = count;
  }
  void release_memory() noexcept {
    if (slots_ != nullptr) std::allocator<T>().deallocate(slots_, capacity_);
  }

  T* slots_ = nullptr;
  std::size_t capacity_ = 0;  // a power of two
  std::size_t first_ = 0;  // free-running; the difference is the size
  std::size_t last_ = 0;
};

}  // namespace hawser::detail
