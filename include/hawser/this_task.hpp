// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <coroutine>

#include "hawser/errc.hpp"
#include "hawser/operation.hpp"
#include "hawser/result.hpp"
#include "hawser/task.hpp"

namespace hawser {

namespace detail {

class read_context {
 public:
  read_context() noexcept = default;
  [[nodiscard]] bool await_ready() const noexcept { return false; }
  template <class Promise>
  [[nodiscard]] bool await_suspend(std::coroutine_handle<Promise> reader) noexcept {
    context_ = context_of(reader);
    return false;
  }
  [[nodiscard]] task_context await_resume() const noexcept { return context_; }

 private:
  task_context context_;
};

class read_stop : public read_context {
 public:
  read_stop() noexcept = default;
  [[nodiscard]] stop_token await_resume() const noexcept {
    return read_context::await_resume().stop;
  }
};

/// From here on the awaiting coroutine hands `context` to what it awaits. Does not suspend.
class use_context {
 public:
  explicit use_context(const task_context& context) noexcept : context_(context) {}
  [[nodiscard]] bool await_ready() const noexcept { return false; }
  template <std::derived_from<promise_base> Promise>
  [[nodiscard]] bool await_suspend(std::coroutine_handle<Promise> user) const noexcept {
    user.promise().set_context(context_);
    return false;
  }
  void await_resume() const noexcept {}

 private:
  task_context context_;
};

}  // namespace detail

/// What this_task::sleep_for() and sleep_until() return; await it once.
class [[nodiscard]] sleep_op final : public detail::operation, private detail::timer {
 public:
  explicit sleep_op(clock::duration length) noexcept;
  explicit sleep_op(clock::time_point end) noexcept;
  sleep_op(sleep_op&& other) noexcept;

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> sleeper) noexcept {
    suspend(sleeper, detail::context_of(sleeper));
  }
  void await_resume() const { await_result().value(); }
  [[nodiscard]] result<void> await_result() const;

 private:
  void suspend(std::coroutine_handle<> sleeper, const detail::task_context& context) noexcept;
  void on_cancel() noexcept override;
  static void run_wake(detail::timer& self) noexcept;

  clock::duration length_;
  clock::time_point end_;
  bool has_end_;
  bool cancelled_ = false;
};

/// What this_task::yield() returns; await it once.
class [[nodiscard]] yield_op final : private detail::work {
 public:
  yield_op() noexcept : work(&yield_op::run_resume) {}

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> yielder) noexcept {
    suspend(yielder, detail::context_of(yielder));
  }
  void await_resume() const {
    if (stop_.stop_requested()) await_result().value();
  }
  [[nodiscard]] result<void> await_result() const;

 private:
  void suspend(std::coroutine_handle<> yielder, const detail::task_context& context) noexcept;
  static void run_resume(detail::work& self) noexcept;

  std::coroutine_handle<> yielder_;
  detail::executor* home_ = nullptr;
  stop_token stop_;
};

/// What a task can ask about itself, and do to itself.
namespace this_task {

/// `co_await this_task::context()` yields what the task was given by its awaiter: the stop token
/// `stop` and the priority `urgency`. A foreign coroutine gets an empty token.
///
/// Cancel:  completes at once, also after a stop request.
[[nodiscard]] inline detail::read_context context() noexcept {
  return {};
}

/// `co_await this_task::stop()` yields the stop token: for loops that compute, and to hand to
/// foreign code.
///
/// Cancel:  completes at once, also after a stop request.
[[nodiscard]] inline detail::read_stop stop() noexcept {
  return {};
}

/// Completes when the time has passed since it was awaited; at once is never: the task goes
/// through the run queue also for nothing and less.
///
/// Errors:  errc::cancelled.
/// Cancel:  by the stop token.
/// Cost:    one timer, no allocation, no thread.
[[nodiscard]] inline sleep_op sleep_for(clock::duration length) noexcept {
  return sleep_op(length);
}

/// Errors, Cancel, Cost: as sleep_for().
[[nodiscard]] inline sleep_op sleep_until(clock::time_point end) noexcept {
  return sleep_op(end);
}

/// Lets the other work of this worker go first: the task is queued again, at its priority.
///
/// Errors:  errc::cancelled, so that a loop that computes can be stopped.
/// Cancel:  by the stop token, as its turn comes.
/// Cost:    no allocation.
[[nodiscard]] inline yield_op yield() noexcept {
  return {};
}

/// For loops that compute: true when something more urgent waits on this worker, or the task has
/// run for as long as executor_config::poll_interval. Then yield(). False outside a runtime.
///
/// Cost: reads the clock.
[[nodiscard]] bool should_yield() noexcept;

}  // namespace this_task

}  // namespace hawser
