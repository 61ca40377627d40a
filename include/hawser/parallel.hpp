// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "hawser/awaitable.hpp"
#include "hawser/executor.hpp"
#include "hawser/task.hpp"

namespace hawser {

namespace detail {

class branch_join;

/// One of the tasks of parallel(): a coroutine that destroys itself at its end and then continues
/// what its join says.
class [[nodiscard]] branch {
 public:
  class promise_type;
  using handle = std::coroutine_handle<promise_type>;

  explicit branch(handle frame) noexcept : frame_(frame) {}
  [[nodiscard]] handle frame() const noexcept { return frame_; }

 private:
  handle frame_;
};

class branch::promise_type final : public promise_base, public work {
 public:
  class last_act {
   public:
    [[nodiscard]] bool await_ready() const noexcept { return false; }
    [[nodiscard]] std::coroutine_handle<> await_suspend(handle ended) const noexcept;
    void await_resume() const noexcept {}
  };

  promise_type() noexcept : work(&promise_type::run_start) {}
  [[nodiscard]] branch get_return_object() noexcept { return branch(handle::from_promise(*this)); }
  [[nodiscard]] std::suspend_always initial_suspend() const noexcept { return {}; }
  [[nodiscard]] last_act final_suspend() const noexcept { return {}; }
  void return_void() const noexcept {}
  [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }

  branch_join* join = nullptr;

 private:
  static void run_start(work& self) noexcept {
    const auto frame = handle::from_promise(static_cast<promise_type&>(self));
    executor::current()->note_resumed(frame);
    frame.resume();
  }
};

/// What the branches of one parallel() have in common.
///
/// The first branch starts where the task is, the others are forked, last first: the newest of the
/// forks is the second branch. Whoever ends a branch where they were forked takes the newest back
/// and goes on with it, so that nothing waits that could run; the last to end continues the task.
/// Where there is no room for forks, whoever ends a branch goes on with the next one.
///
/// Threads: one member runs at a time on the executor of the fork; end() on any.
class branch_join {
 public:
  branch_join(const branch_join&) = delete;
  branch_join& operator=(const branch_join&) = delete;

  /// A branch has ended and its frame is gone: what goes on in its place.
  [[nodiscard]] std::coroutine_handle<> end() noexcept;

 protected:
  branch_join() noexcept = default;
  ~branch_join() = default;

  /// `branches`: 2 or more, in order. What goes on: the first.
  [[nodiscard]] std::coroutine_handle<> begin(std::coroutine_handle<> waiter,
                                              const task_context& context,
                                              branch::promise_type** branches,
                                              std::size_t count) noexcept;
  /// Destroys those that were made.
  static void drop(branch::promise_type** branches, std::size_t count) noexcept;

 private:
  [[nodiscard]] work* take_back() noexcept;
  [[nodiscard]] work* take_unforked() noexcept;

  // Branches that could not be forked and have not begun.
  struct unforked_range {
    std::uint32_t next = 0;
    std::uint32_t end = 0;
  };

  std::atomic<std::size_t> left_{0};
  branch::promise_type** branches_ = nullptr;
  std::size_t next_ = 0;   // the newest that was forked, and may not have been taken back
  std::size_t count_ = 0;
  std::atomic<unforked_range> unforked_{unforked_range{}};
  std::coroutine_handle<> waiter_;
  executor* origin_ = nullptr;
  priority urgency_ = priority::rpc;
};

inline std::coroutine_handle<> branch::promise_type::last_act::await_suspend(
    handle ended) const noexcept {
  branch_join& joined = *ended.promise().join;
  ended.destroy();
  return joined.end();
}

template <class T>
branch run_branch(outcome<T>& result, task<T> work) {
  try {
    if constexpr (std::is_void_v<T>) {
      co_await std::move(work);
    } else {
      auto got = co_await std::move(work);
      result.set_value(std::move(got));
    }
  } catch (...) {
    result.set_error(std::current_exception());
  }
}

}  // namespace detail

/// What parallel() returns; await it once.
template <class... T>
class [[nodiscard]] parallel_op final : private detail::branch_join {
 public:
  explicit parallel_op(task<T>... branches) : tasks_(std::move(branches)...) {}
  parallel_op(parallel_op&& other) noexcept : tasks_(std::move(other.tasks_)) {}

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  template <class Promise>
  [[nodiscard]] std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> waiter) {
    try {
      make_branches(std::index_sequence_for<T...>());
    } catch (...) {  // no memory for a frame
      drop(branches_.data(), branches_.size());
      throw;
    }
    return begin(waiter, detail::context_of(waiter), branches_.data(), branches_.size());
  }
  /// Yields a tuple of the values, std::monostate for void.
  std::tuple<detail::await_value_t<task<T>>...> await_resume() {
    return take_all(std::index_sequence_for<T...>());
  }

 private:
  template <std::size_t... I>
  void make_branches(std::index_sequence<I...>) {
    (make_branch<I>(), ...);
  }
  template <std::size_t I>
  void make_branch() {
    auto made = detail::run_branch(std::get<I>(outcomes_), std::move(std::get<I>(tasks_)));
    branches_[I] = &made.frame().promise();
    branches_[I]->join = this;
  }
  template <class U>
  [[nodiscard]] static detail::await_value_t<task<U>> take_one(detail::outcome<U>& from) {
    if constexpr (std::is_void_v<U>) {
      from.take();
      return {};
    } else {
      return from.take();
    }
  }
  template <std::size_t... I>
  [[nodiscard]] std::tuple<detail::await_value_t<task<T>>...> take_all(
      std::index_sequence<I...>) {
    return {take_one(std::get<I>(outcomes_))...};
  }

  std::tuple<task<T>...> tasks_;
  std::tuple<detail::outcome<T>...> outcomes_;
  std::array<detail::branch::promise_type*, sizeof...(T)> branches_{};
};

/// Runs tasks at the same time, on whichever workers have time: for work that computes. Yields a
/// tuple of their values, std::monostate for void.
///
/// The first begins here and now; the others are there to be stolen and otherwise follow in order,
/// so that a tree of tasks runs depth first. Where work waits for messages instead of computing,
/// when_all() begins everything at once.
///
/// Shape:   two tasks or more.
/// Errors:  when all have ended, the failure of the first in order that failed; a failure stops
///          nobody else. std::bad_alloc if there is no memory for the frames.
/// Threads: the task may continue on another worker: where the last one ended.
/// Cancel:  by the stop token, which all see.
/// Cost:    one frame for each task beside its own; no lock.
template <class... T>
requires(sizeof...(T) >= 2) [[nodiscard]] parallel_op<T...> parallel(task<T>... tasks) {
  return parallel_op<T...>(std::move(tasks)...);
}

}  // namespace hawser
