// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <coroutine>
#include <optional>

#include "hawser/executor.hpp"

namespace hawser::detail {

/// A suspended operation: one intrusive node in the awaiting frame, decided on one executor.
///
/// An operation belongs to its `home` executor. Everything that can end it happens on home's
/// thread: its completion, and the cancellation that a stop request asks for. A stop request from
/// another thread only posts to home. So an operation completes exactly once without a lock, and
/// the waiter is resumed from home's run queue, never inside the stop request or the completion.
///
///   started --finish()--> finished, resume posted
///      |  stop requested elsewhere: cancel posted; a finish() that comes first waits for the
///      |  posted cancel to pass, because the node must not leave the frame while queued.
///      +--cancel runs: on_cancel() decides (it may call finish(), or let the operation go on)
class operation : private work {
 public:
  operation& operator=(const operation&) = delete;

 protected:
  operation() noexcept : work(&operation::run_resume) {}
  /// Only before begin(): what is not awaited yet has no state to move.
  operation(operation&&) noexcept : operation() {}
  ~operation() = default;

  /// Remembers who waits. Call on home's thread, before anything can finish the operation.
  void begin(executor& home, std::coroutine_handle<> waiter, const task_context& context) noexcept {
    waiting_.emplace(home, waiter, context);
  }
  /// Registers for the stop request; on_cancel() may run inside. Call last in await_suspend.
  void watch_stop() noexcept {
    if (waiting_->finished || !waiting_->stop.stop_possible()) return;
    waiting_->on_request.emplace(waiting_->stop, on_stop(*this));
  }
  /// Goes to home first: on_arrival() runs on home's thread. Instead of watch_stop().
  void travel() noexcept;
  /// Resumes the waiter inside this call. Only in on_arrival(), when there is nothing to wait for.
  void resume_here() const noexcept { waiting_->waiter.resume(); }
  virtual void on_arrival() noexcept {}
  /// Ends the operation and queues its waiter. Home's thread, once.
  void finish() noexcept;
  /// Stop was requested. Home's thread; called at most once, never after finish().
  virtual void on_cancel() noexcept = 0;

  // Once it has begun:
  [[nodiscard]] executor& home() const noexcept { return *waiting_->home; }
  [[nodiscard]] priority urgency() const noexcept { return waiting_->urgency; }
  /// Another than that of the task that awaits.
  void set_urgency(priority urgency) noexcept {
    waiting_->urgency = urgency;
    waiting_->parent = nullptr;
  }
  [[nodiscard]] const stop_token& context_stop() const noexcept { return waiting_->stop; }

 private:
  void queue(work& item) noexcept {
    waiting_->home->post(item, parent_urgency::raise(waiting_->urgency, waiting_->parent));
  }

  class on_stop {
   public:
    explicit on_stop(operation& owner) noexcept : owner_(&owner) {}
    void operator()() const noexcept { owner_->stop_requested(); }

   private:
    operation* owner_;
  };
  // The cancel needs a queue node of its own: the resume may be queued at the same time.
  class cancel_work : public work {
   public:
    explicit cancel_work(operation& owner) noexcept
        : work(&operation::run_cancel), owner_(&owner) {}
    operation* owner_;
  };

  static void run_resume(work& self) noexcept;
  static void run_arrival(work& self) noexcept;
  static void run_cancel(work& self) noexcept;
  void stop_requested() noexcept;

  // What only one that waits needs: most need not wait.
  struct waiting {
    waiting(executor& where, std::coroutine_handle<> who, const task_context& context) noexcept
        : home(&where),
          waiter(who),
          stop(context.stop),
          parent(context.parent),
          urgency(context.urgency) {}

    executor* home;
    std::coroutine_handle<> waiter;
    stop_token stop;
    std::optional<cancel_work> cancel;  // engaged: a cancel was posted
    std::optional<stop_callback<on_stop>> on_request;
    const parent_urgency* parent;
    priority urgency;
    bool finished = false;
    bool cancel_passed = false;
  };

  std::optional<waiting> waiting_;
};

}  // namespace hawser::detail
