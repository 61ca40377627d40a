// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <utility>

#include "hawser/errc.hpp"
#include "hawser/task.hpp"

namespace hawser::detail {

/// True of std::system_error with errc::cancelled, or what the system calls operation_canceled.
[[nodiscard]] bool is_cancelled(const std::error_code& code) noexcept;
[[nodiscard]] bool is_cancelled(const std::exception_ptr& error) noexcept;

/// The priority that `item`, which waits at `queued`, has by now: a child that has not begun
/// follows its parent, all else stays.
[[nodiscard]] priority urgency_of(const work& item, priority queued) noexcept;

/// A coroutine that nobody awaits: it is started once and destroys itself at its end. Its last
/// act tells somebody, so what it works on must not be touched by its own parameters after that.
///
/// Shape: destroying one that was not started destroys the frame; no exception leaves the body.
class [[nodiscard]] child {
 public:
  class promise_type;
  using handle = std::coroutine_handle<promise_type>;

  child(child&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
  child& operator=(child&&) = delete;
  ~child() {
    if (frame_) frame_.destroy();
  }

  /// Runs until it suspends for the first time.
  void start(const task_context& context) noexcept;
  /// Queues the start there. Threads: any.
  void start_on(executor& where, const task_context& context) noexcept;
  /// Queues the start there or where there is time for it first. Threads: any.
  void spawn_on(executor& where, const task_context& context) noexcept;

 private:
  explicit child(handle frame) noexcept : frame_(frame) {}

  handle frame_;
};

class child::promise_type final : public promise_base, public work {
 public:
  promise_type() noexcept : work(&promise_type::run_start) {}
  [[nodiscard]] child get_return_object() noexcept { return child(handle::from_promise(*this)); }
  [[nodiscard]] std::suspend_always initial_suspend() const noexcept { return {}; }
  [[nodiscard]] std::suspend_never final_suspend() const noexcept { return {}; }
  void return_void() const noexcept {}
  [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }

 private:
  friend priority urgency_of(const work& item, priority queued) noexcept;

  static void run_start(work& self) noexcept;
};

/// Children that one coroutine, the parent, waits for, under a stop source of their own.
///
/// The first failure is kept and cuts the group: the rest is asked to stop, and what is cancelled
/// after that has not failed.
///
/// Threads: everything but join() and what follows it may be called on any worker.
class group : private work {
 public:
  class joiner;

  explicit group(const task_context& parent) noexcept
      : work(&group::run_resume),
        stop_(parent.stop),
        around_(parent.parent),
        urgency_(parent.urgency),
        parent_urgency_(parent.parent, parent.urgency) {}
  group(const group&) = delete;
  group& operator=(const group&) = delete;
  ~group() = default;

  /// For the children: the group's own token, and the parent's priority.
  [[nodiscard]] task_context context() noexcept { return context(urgency_); }
  [[nodiscard]] task_context context(priority urgency) noexcept {
    task_context inside;
    inside.stop = stop_.token();
    inside.parent = &parent_urgency_;
    inside.urgency = urgency;
    return inside;
  }
  /// For what the parent awaits itself beside the children: only the token is the group's.
  [[nodiscard]] task_context parent_context() noexcept {
    task_context inside = independent_context(urgency_);
    inside.parent = around_;
    return inside;
  }
  /// For children of whose end nobody depends: they keep their priority.
  [[nodiscard]] task_context independent_context(priority urgency) noexcept {
    task_context inside;
    inside.stop = stop_.token();
    inside.urgency = urgency;
    return inside;
  }

  /// Counts and starts `member` here and now.
  void start(child member) noexcept;
  /// Counts `member` and queues its start, on the current executor or one that shares its work.
  void post(child member, priority urgency) noexcept;
  void post_independent(child member, priority urgency) noexcept;
  /// A member's last act: after it the group may be gone.
  void leave() noexcept;
  [[nodiscard]] std::size_t running() const noexcept {
    return members_.load(std::memory_order_relaxed) / one_child;
  }

  /// Asks everybody to stop, by the group's own decision.
  void cut() noexcept;
  [[nodiscard]] bool is_cut() const noexcept {
    return cut_.load(std::memory_order_acquire);  // pairs with the release in cut()
  }
  /// Stop was requested, by cut() or from outside.
  [[nodiscard]] bool stop_requested() const noexcept { return stop_.stop_requested(); }
  /// A member failed.
  void fail(std::exception_ptr error) noexcept;
  void fail(const failure& why) noexcept;
  /// Keeps the first failure and cuts.
  void record(std::exception_ptr error) noexcept;

  /// Completes when all members have left, on the awaiting executor or, where that shares its work,
  /// where the last one left. Once.
  ///
  /// Cancel: not by the stop token: the members are.
  [[nodiscard]] joiner join() noexcept;
  /// After join(): the first failure, or null.
  [[nodiscard]] std::exception_ptr take_failure() noexcept {
    return std::exchange(failure_, nullptr);
  }
  void rethrow_failure() {
    if (failure_) std::rethrow_exception(take_failure());
  }

 private:
  // members_: the parent until it joins, and twice the number of children.
  static constexpr std::size_t parent_present = 1;
  static constexpr std::size_t one_child = 2;

  static void run_resume(work& self) noexcept { static_cast<group&>(self).parent_.resume(); }
  [[nodiscard]] bool all_left() const noexcept;
  [[nodiscard]] bool wait(std::coroutine_handle<> parent) noexcept;
  void enter() noexcept;

  std::atomic<std::size_t> members_{parent_present};
  std::atomic<bool> cut_{false};
  std::atomic<bool> failed_{false};  // who sets it owns failure_ until it leaves
  std::exception_ptr failure_;
  std::coroutine_handle<> parent_;
  executor* home_ = nullptr;  // of the parent
  linked_stop_source stop_;
  const parent_urgency* around_;
  priority urgency_;
  std::atomic<bool> has_less_urgent_{false};  // children were posted that are less urgent than us
  parent_urgency parent_urgency_;
};

class group::joiner {
 public:
  explicit joiner(group& joined) noexcept : joined_(&joined) {}
  [[nodiscard]] bool await_ready() const noexcept { return joined_->all_left(); }
  [[nodiscard]] bool await_suspend(std::coroutine_handle<> parent) const noexcept {
    return joined_->wait(parent);
  }
  void await_resume() const noexcept {}

 private:
  group* joined_;
};

inline group::joiner group::join() noexcept {
  return joiner(*this);
}

}  // namespace hawser::detail
