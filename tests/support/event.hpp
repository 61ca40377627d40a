// SPDX-License-Identifier: Apache-2.0
#pragma once

// Operations whose end a test decides.

#include <atomic>
#include <coroutine>
#include <utility>

#include "hawser/errc.hpp"
#include "hawser/operation.hpp"
#include "hawser/result.hpp"
#include "hawser/task.hpp"

namespace test {

class event_wait;

/// Something one task at a time waits for. Set and awaited on one executor; awaiting moves the
/// task there. What was set before stays set.
class event {
 public:
  explicit event(hawser::detail::executor& home) noexcept : home_(&home) {}
  event(const event&) = delete;
  event& operator=(const event&) = delete;

  /// Home's thread.
  void set() noexcept;
  [[nodiscard]] bool awaited() const noexcept { return waiter_ != nullptr; }
  /// What a cancelled wait does: give up, or go on until the event is set.
  bool ignores_stop = false;

  [[nodiscard]] event_wait wait(int value = 0) noexcept;

 private:
  friend class event_wait;

  hawser::detail::executor* home_;
  event_wait* waiter_ = nullptr;
  bool set_ = false;
};

/// Yields the value given to wait(). Movable, not copyable, as the operations of a channel.
class [[nodiscard]] event_wait final : public hawser::detail::operation {
 public:
  event_wait(event& on, int value) noexcept : on_(&on), value_(value) {}
  event_wait(event_wait&& other) noexcept = default;

  [[nodiscard]] bool await_ready() noexcept {
    return hawser::detail::executor::current() == on_->home_ && take();
  }
  template <class Promise>
  [[nodiscard]] bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    begin(*on_->home_, waiter, hawser::detail::context_of(waiter));
    if (hawser::detail::executor::current() != on_->home_) {
      travel();
    } else {
      enter();
    }
    return true;
  }
  [[nodiscard]] int await_resume() const { return await_result().value(); }
  [[nodiscard]] hawser::result<int> await_result() const {
    if (cancelled_) return hawser::failure(hawser::errc::cancelled, "event");
    return value_;
  }

 private:
  friend class event;

  bool take() noexcept { return std::exchange(on_->set_, false); }
  void enter() noexcept {
    on_->waiter_ = this;
    watch_stop();
  }
  void on_arrival() noexcept override {
    if (take()) {
      resume_here();
    } else {
      enter();
    }
  }
  void on_cancel() noexcept override {
    if (on_->ignores_stop) return;
    on_->waiter_ = nullptr;
    cancelled_ = true;
    finish();
  }

  event* on_;
  int value_;
  bool cancelled_ = false;
};

inline void event::set() noexcept {
  if (waiter_ == nullptr) {
    set_ = true;
  } else {
    std::exchange(waiter_, nullptr)->finish();
  }
}

inline event_wait event::wait(int value) noexcept {
  return event_wait(*this, value);
}

}  // namespace test
