// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <coroutine>
#include <exception>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "hawser/errc.hpp"
#include "hawser/task.hpp"

namespace hawser {

namespace detail {

/// The way to a blocking thread and back. One queue node does for both: the pool has let go of it
/// when the function runs.
class offload_base : private work {
 public:
  [[nodiscard]] bool await_ready() const noexcept { return false; }
  template <class Promise>
  [[nodiscard]] bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    return suspend(waiter, context_of(waiter));
  }

 protected:
  offload_base() noexcept : work(&offload_base::run_blocking) {}
  offload_base(offload_base&&) noexcept : offload_base() {}
  ~offload_base() = default;

  virtual void call() noexcept = 0;
  /// Errors: throws errc::cancelled, errc::limit_reached or errc::resource_exhausted if call() was
  ///         never made.
  void require_called() const;

 private:
  enum class state : unsigned char { called, skipped, refused };

  [[nodiscard]] bool suspend(std::coroutine_handle<> waiter, const task_context& context) noexcept;
  static void run_blocking(work& self) noexcept;
  static void run_resume(work& self) noexcept;

  executor* home_ = nullptr;
  std::coroutine_handle<> waiter_;
  task_context context_;
  state state_ = state::called;
  errc refusal_{};
};

}  // namespace detail

/// What offload() returns; await it once.
template <class F>
class [[nodiscard]] offload_op final : public detail::offload_base {
 public:
  using value_type = std::remove_cvref_t<std::invoke_result_t<F&>>;

  explicit offload_op(F callable) : function_(std::move(callable)) {}
  offload_op(offload_op&& other) noexcept(std::is_nothrow_move_constructible_v<F>)
      : offload_base(std::move(other)), function_(std::move(other.function_)) {}

  [[nodiscard]] value_type await_resume() {
    require_called();
    return outcome_.take();
  }

 private:
  void call() noexcept override {
    try {
      if constexpr (std::is_void_v<value_type>) {
        std::invoke(function_);
      } else {
        outcome_.set_value(std::invoke(function_));
      }
    } catch (...) {
      outcome_.set_error(std::current_exception());
    }
  }

  F function_;
  detail::outcome<value_type> outcome_;
};

/// Calls `function` on a thread that may block, and continues where the task was.
///
/// For what has no asynchronous form: files, name resolution, long computation. The runtime has
/// executor_config::blocking_threads for it.
///
/// Shape:   `function` is kept until the await ends, and may refer to locals of the awaiting task.
///          A lambda that captures by value gets a name first and is given by std::move: g++ 12
///          destroys such captures twice when the lambda is written inside a co_await expression.
/// Errors:  what `function` throws; errc::limit_reached when executor_config::blocking_queue calls
///          wait already; errc::resource_exhausted when no thread can be had; errc::cancelled.
/// Threads: `function` runs on another thread; before it and after it happens-before holds.
/// Cancel:  by the stop token until `function` begins: then it is skipped as its turn comes. Once
///          it has begun, its end is awaited.
/// Cost:    no allocation of its own; two thread switches.
template <class F>
requires std::invocable < std::decay_t<F>
& > [[nodiscard]] offload_op<std::decay_t<F>> offload(F&& function) {
  return offload_op<std::decay_t<F>>(std::forward<F>(function));
}

}  // namespace hawser
