// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include "hawser/task.hpp"

namespace hawser {

namespace detail {
template <class T>
class generator_promise;
}

/// A coroutine that yields values one by one, and may await between them.
///
/// `while (auto chunk = co_await source.next())` takes them all. The body starts with the first
/// next() and runs inside each, with the executor, stop token and priority of who awaits it.
///
/// Shape:   move-only; owns its frame; may be destroyed between two next() whether or not it has
///          ended: what is alive in the body is destroyed.
/// Threads: one next() at a time; the next may come from another thread.
/// Cost:    one frame; a value is moved once; switching is a symmetric transfer.
template <class T>
class [[nodiscard]] async_generator {
  static_assert(std::is_object_v<T>, "a generator yields values");

 public:
  using value_type = T;
  using promise_type = detail::generator_promise<T>;
  using handle = std::coroutine_handle<promise_type>;

  async_generator(async_generator&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
  async_generator& operator=(async_generator&& other) noexcept {
    std::swap(frame_, other.frame_);
    return *this;
  }
  ~async_generator() {
    if (frame_) frame_.destroy();
  }

  class next_op {
   public:
    explicit next_op(handle source) noexcept : source_(source) {}
    [[nodiscard]] bool await_ready() const noexcept { return !source_ || source_.done(); }
    template <class Promise>
    [[nodiscard]] std::coroutine_handle<> await_suspend(
        std::coroutine_handle<Promise> consumer) noexcept {
      source_.promise().continue_for(consumer, detail::context_of(consumer));
      return source_;
    }
    [[nodiscard]] std::optional<T> await_resume() {
      return source_ ? source_.promise().take() : std::nullopt;
    }

   private:
    handle source_;
  };

  /// The next value, or nothing once the body has ended.
  ///
  /// Errors:  an exception that leaves the body is rethrown once; after it the generator is at
  ///          its end.
  /// Cancel:  by the stop token; the body sees it in what it awaits.
  [[nodiscard]] next_op next() noexcept { return next_op(frame_); }

 private:
  friend promise_type;

  explicit async_generator(handle frame) noexcept : frame_(frame) {}

  handle frame_;
};

namespace detail {

template <class T>
class generator_promise final : public promise_base {
 public:
  [[nodiscard]] async_generator<T> get_return_object() noexcept {
    return async_generator<T>(std::coroutine_handle<generator_promise>::from_promise(*this));
  }
  [[nodiscard]] std::suspend_always initial_suspend() const noexcept { return {}; }
  [[nodiscard]] final_transfer final_suspend() const noexcept {
    return final_transfer(continuation_);
  }
  [[nodiscard]] final_transfer yield_value(T value) {
    value_.emplace(std::move(value));
    return final_transfer(continuation_);
  }
  void return_void() const noexcept {}
  void unhandled_exception() noexcept { error_ = std::current_exception(); }

  void continue_for(std::coroutine_handle<> consumer, const task_context& context) noexcept {
    continuation_ = consumer;
    context_ = context;
  }
  [[nodiscard]] std::optional<T> take() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return std::exchange(value_, std::nullopt);
  }

 private:
  std::optional<T> value_;
  std::exception_ptr error_;
};

}  // namespace detail

}  // namespace hawser
