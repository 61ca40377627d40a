// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "hawser/executor.hpp"

namespace hawser {

template <class T = void>
class task;

namespace detail {

/// Coroutine frames come from a bounded free list of the thread that allocates.
///
/// Errors: throws std::bad_alloc.
[[nodiscard]] void* allocate_frame(std::size_t bytes);
void release_frame(void* frame, std::size_t bytes) noexcept;

/// What every coroutine of hawser knows: whom to resume, and under which token and priority.
class promise_base {
 public:
  static void* operator new(std::size_t bytes) { return allocate_frame(bytes); }
  static void operator delete(void* frame, std::size_t bytes) noexcept {
    release_frame(frame, bytes);
  }

  [[nodiscard]] const task_context& context() const noexcept { return context_; }
  void set_context(const task_context& context) noexcept { context_ = context; }

 protected:
  std::coroutine_handle<> continuation_;
  task_context context_;
};

/// The context of whoever awaits, where it lies: a foreign coroutine has none and gets the default.
template <class Promise>
[[nodiscard]] decltype(auto) context_of(std::coroutine_handle<Promise> waiter) noexcept {
  if constexpr (std::derived_from<Promise, promise_base>) {
    return waiter.promise().context();
  } else {
    return task_context();
  }
}

/// Holds the outcome of a coroutine: nothing yet, a value, or an exception.
template <class T>
class outcome {
 public:
  template <class U>
  void set_value(U&& value) {
    state_.template emplace<1>(std::forward<U>(value));
  }
  void set_error(std::exception_ptr error) noexcept {
    state_.template emplace<2>(std::move(error));
  }
  [[nodiscard]] T take() {
    if (auto* error = std::get_if<2>(&state_)) std::rethrow_exception(std::move(*error));
    return std::get<1>(std::move(state_));
  }

 private:
  std::variant<std::monostate, T, std::exception_ptr> state_;
};

template <>
class outcome<void> {
 public:
  void set_error(std::exception_ptr error) noexcept { error_ = std::move(error); }
  void take() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  std::exception_ptr error_;
};

/// The last act of a coroutine: continue whoever awaited it.
class final_transfer {
 public:
  explicit final_transfer(std::coroutine_handle<> continuation) noexcept
      : continuation_(continuation) {}
  [[nodiscard]] bool await_ready() const noexcept { return false; }
  [[nodiscard]] std::coroutine_handle<> await_suspend(std::coroutine_handle<>) const noexcept {
    return continuation_;
  }
  void await_resume() const noexcept {}

 private:
  std::coroutine_handle<> continuation_;
};

template <class T>
class task_promise;

}  // namespace detail

/// A coroutine that starts when awaited and gives its result to exactly one awaiter.
///
/// It runs on the executor that awaits it, with the awaiter's stop token and priority. Work that
/// belongs to another worker (a channel of a link that lives there) moves the task to that worker.
///
/// Shape:   move-only; owns its frame; destroying a task that was not awaited destroys the frame.
/// Errors:  an exception that leaves the body is rethrown from the co_await.
/// Threads: runs on whichever thread resumes it; the hand-over is a happens-before edge.
/// Cancel:  by the stop token that its awaiter hands down; the body sees it in what it awaits.
/// Cost:    one frame from a recycling allocator per call, none per co_await; the return is a
///          symmetric transfer, so a loop over millions of tasks needs constant stack (on GCC:
///          -foptimize-sibling-calls, which the CMake target adds).
template <class T>
class [[nodiscard]] task {
 public:
  using value_type = T;
  using promise_type = detail::task_promise<T>;
  using handle = std::coroutine_handle<promise_type>;

  task(task&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
  task& operator=(task&& other) noexcept {
    std::swap(frame_, other.frame_);
    return *this;
  }
  ~task() {
    if (frame_) frame_.destroy();
  }

  class awaiter {
   public:
    explicit awaiter(handle callee) noexcept : callee_(callee) {}
    [[nodiscard]] bool await_ready() const noexcept { return false; }
    template <class Promise>
    [[nodiscard]] std::coroutine_handle<> await_suspend(
        std::coroutine_handle<Promise> caller) noexcept {
      return suspend_under(caller, detail::context_of(caller));
    }
    /// Starts the task under a context that is not the caller's.
    [[nodiscard]] std::coroutine_handle<> suspend_under(
        std::coroutine_handle<> caller, const detail::task_context& context) noexcept {
      callee_.promise().start_for(caller, context);
      return callee_;
    }
    T await_resume() { return callee_.promise().take(); }

   private:
    handle callee_;
  };

  [[nodiscard]] awaiter operator co_await() && noexcept { return awaiter(frame_); }

 private:
  friend promise_type;

  explicit task(handle frame) noexcept : frame_(frame) {}

  handle frame_;
};

namespace detail {

template <class T>
class task_promise_base : public promise_base {
 public:
  [[nodiscard]] std::suspend_always initial_suspend() const noexcept { return {}; }
  [[nodiscard]] final_transfer final_suspend() const noexcept {
    return final_transfer(continuation_);
  }
  void unhandled_exception() noexcept { outcome_.set_error(std::current_exception()); }
  void start_for(std::coroutine_handle<> caller, const task_context& context) noexcept {
    continuation_ = caller;
    context_ = context;
  }
  T take() { return outcome_.take(); }

 protected:
  outcome<T> outcome_;
};

template <class T>
class task_promise final : public task_promise_base<T> {
 public:
  [[nodiscard]] task<T> get_return_object() noexcept {
    return task<T>(std::coroutine_handle<task_promise>::from_promise(*this));
  }
  template <class U>
    requires std::convertible_to<U&&, T>
  void return_value(U&& value) {
    this->outcome_.set_value(std::forward<U>(value));
  }
};

template <>
class task_promise<void> final : public task_promise_base<void> {
 public:
  [[nodiscard]] task<void> get_return_object() noexcept {
    return task<void>(std::coroutine_handle<task_promise>::from_promise(*this));
  }
  void return_void() const noexcept {}
};

}  // namespace detail

}  // namespace hawser
