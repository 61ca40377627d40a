// SPDX-License-Identifier: Apache-2.0
#include "hawser/stop_token.hpp"

namespace hawser::detail {

// The lock is held for a few instructions only; who meets it held lets the holder run.
void stop_state::lock() noexcept {
  // acquire pairs with the release in unlock()
  while (locked_.exchange(true, std::memory_order_acquire)) std::this_thread::yield();
}

void stop_state::unlock() noexcept {
  locked_.store(false, std::memory_order_release);  // pairs with the acquire in lock()
}

bool stop_state::add(stop_registration& registration) noexcept {
  if (requested()) return false;
  lock();
  const bool open = !requested_.load(std::memory_order_relaxed);  // written under the lock
  if (open) {
    registration.next_ = first_;
    if (first_ != nullptr) first_->previous_ = &registration;
    first_ = &registration;
  }
  unlock();
  return open;
}

// Callbacks run without the lock, so that they may register and remove others. Each is unlinked
// before it runs; once it has run it is not touched again, because it may have destroyed itself.
bool stop_state::request() noexcept {
  lock();
  if (requested_.load(std::memory_order_relaxed)) {  // written under the lock
    unlock();
    return false;
  }
  requested_.store(true, std::memory_order_release);  // pairs with the acquire in requested()
  runner_ = std::this_thread::get_id();
  while (stop_registration* const next = first_) {
    first_ = next->next_;
    if (first_ != nullptr) first_->previous_ = nullptr;
    next->next_ = nullptr;
    running_.store(next, std::memory_order_release);  // as below
    unlock();
    next->on_stop_(*next);
    // release pairs with the acquire in remove(): what the callback did is visible to the remover
    running_.store(nullptr, std::memory_order_release);
    lock();
  }
  unlock();
  return true;
}

// The addresses cannot be confused: after the request nothing is added any more.
void stop_state::remove(stop_registration& registration) noexcept {
  lock();
  const bool linked = first_ == &registration || registration.previous_ != nullptr;
  if (linked) {
    (registration.previous_ == nullptr ? first_ : registration.previous_->next_) =
        registration.next_;
    if (registration.next_ != nullptr) registration.next_->previous_ = registration.previous_;
    registration.previous_ = registration.next_ = nullptr;
  }
  const bool inside = !linked && runner_ == std::this_thread::get_id();
  unlock();
  if (linked || inside) return;
  // acquire pairs with the release stores in request()
  while (running_.load(std::memory_order_acquire) == &registration) std::this_thread::yield();
}

}  // namespace hawser::detail
