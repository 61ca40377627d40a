// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>

#include "hawser/errc.hpp"
#include "hawser/stop_token.hpp"

namespace hawser {

/// How urgent a task is; also the order of the four channels.
enum class priority : std::uint8_t { control, rpc, stream, bulk };

inline constexpr std::size_t priority_count = 4;

/// The clock of the library: monotonic, never the wall clock.
using clock = std::chrono::steady_clock;

namespace detail {

/// One piece of runnable work, embedded in what it runs: posting allocates nothing.
///
/// Shape:  in at most one queue at a time; `run` may destroy the object.
struct work {
  using function = void (*)(work&) noexcept;

  explicit work(function action) noexcept : run(action) {}

  work* next = nullptr;
  function run;
};

/// A deadline in an executor's timer wheel, embedded in what waits for it.
///
/// Threads: only the executor it is armed on.
struct timer {
  using function = void (*)(timer&) noexcept;

  explicit timer(function action) noexcept : fire(action) {}
  timer(const timer&) = delete;
  timer& operator=(const timer&) = delete;

  timer* previous = nullptr;  // null: not armed
  timer* next = nullptr;
  clock::time_point deadline;
  function fire;

  [[nodiscard]] bool armed() const noexcept { return previous != nullptr; }
};

/// Where tasks run: one worker of a runtime, or a simulated one in tests.
class executor {
 public:
  executor(const executor&) = delete;
  executor& operator=(const executor&) = delete;

  /// The executor whose thread this is, or null. Never inlined: a coroutine may be resumed on
  /// another thread, and compilers keep the address of thread-local data across suspensions.
  [[nodiscard]] static executor* current() noexcept;

  /// Queues `item` to run on this executor.
  ///
  /// Threads: any. Cost: no allocation; one wake-up per empty-to-non-empty change from elsewhere.
  virtual void post(work& item, priority urgency) noexcept = 0;

  /// Queues `item` to run on this executor or on one that shares its work: what has not begun may
  /// begin anywhere.
  ///
  /// Threads: any. Cost: as post().
  virtual void spawn(work& item, priority urgency) noexcept { post(item, urgency); }

  /// As spawn(), but soon and newest first: for what the caller is about to wait for. False: no
  /// room, nothing was queued.
  ///
  /// Threads: only the executor's own.
  [[nodiscard]] virtual bool fork(work& /*item*/, priority /*urgency*/) noexcept { return false; }
  /// Takes back what the same task has forked last. False: it runs elsewhere, or will.
  ///
  /// Threads: only the executor's own.
  [[nodiscard]] virtual bool take_back(work& /*item*/, priority /*urgency*/) noexcept {
    return false;
  }
  /// As spawn(), for what the caller has just made runnable and what runs best next here.
  ///
  /// Threads: any.
  virtual void wake(work& item, priority urgency) noexcept { post(item, urgency); }

  /// As post(), by a thread that nobody joins: what was queued may end the executor's runtime,
  /// which waits for this call to return.
  ///
  /// Threads: any. Cost: as post(), and a lock.
  virtual void deliver(work& item, priority urgency) noexcept { post(item, urgency); }

  /// Says which coroutine runs from now on, for the report of a stall.
  ///
  /// Threads: only the executor's own.
  void note_resumed(std::coroutine_handle<> frame) noexcept {
    // Every compiler puts the address of the code that resumes a coroutine first into its frame.
    resumed_.store(*static_cast<void* const*>(frame.address()), std::memory_order_relaxed);
  }
  /// The code of the coroutine that was resumed last; null: none yet.
  ///
  /// Threads: any.
  [[nodiscard]] const void* resumed() const noexcept {
    return resumed_.load(std::memory_order_relaxed);
  }

  /// Something waits that is more urgent than what runs, or the turn has lasted long enough.
  ///
  /// Threads: only the executor's own.
  [[nodiscard]] virtual bool should_yield() const noexcept { return false; }
  /// Some that were queued here have become more urgent, see urgency_of().
  ///
  /// Threads: only the executor's own.
  virtual void raise() noexcept {}

  /// Threads: only the executor's own.
  virtual void arm(timer& entry, clock::time_point deadline) noexcept = 0;
  virtual void disarm(timer& entry) noexcept = 0;

  /// Threads: any.
  [[nodiscard]] virtual clock::time_point now() const noexcept = 0;

  /// Runs `item.run` on a thread that may block. Zero: it will; otherwise errc::limit_reached, the
  /// bounded queue is full, or errc::resource_exhausted, no thread can be had.
  [[nodiscard]] virtual errc post_blocking(work& item) noexcept = 0;

  /// Says that independent work (scope::serve) failed. Logged and counted.
  virtual void report_failure(std::exception_ptr failure) noexcept = 0;

 protected:
  executor() = default;
  ~executor() = default;

  /// Binds the calling thread to `here` (or to none).
  static void bind(executor* here) noexcept;

 private:
  std::atomic<void*> resumed_{nullptr};
};

/// A task that has children of its own, and may wait for them: while it does they are as urgent as
/// it is, and it is as urgent as those that wait for it in turn.
///
/// Threads: any.
class parent_urgency {
 public:
  /// Shape: `outer` outlives it.
  parent_urgency(const parent_urgency* outer, priority own) noexcept : outer_(outer), own_(own) {}

  /// The parent waits from now on.
  // relaxed: what it says was there before the children were
  void wait() noexcept { waits_.store(true, std::memory_order_relaxed); }
  /// The urgency of the parent itself.
  [[nodiscard]] priority effective() const noexcept { return raise(own_, outer_); }
  /// What a child that is `own` urgent by itself has below `parent`, which may be null.
  ///
  /// Cost: looks at a few parents, where these wait for each other; no more than `levels`.
  [[nodiscard]] static priority raise(priority own, const parent_urgency* parent) noexcept {
    return parent == nullptr || own == priority::control ? own : raise_by(own, *parent);
  }
  static constexpr unsigned levels = 16;

 private:
  [[nodiscard]] static priority raise_by(priority own, const parent_urgency& parent) noexcept;

  std::atomic<bool> waits_{false};
  const parent_urgency* outer_;
  priority own_;
};

/// What a task hands to everything it awaits.
struct task_context {
  stop_token stop;
  const parent_urgency* parent = nullptr;
  priority urgency = priority::rpc;

  /// The priority to be queued at now.
  [[nodiscard]] priority effective() const noexcept {
    return parent_urgency::raise(urgency, parent);
  }
};

}  // namespace detail

}  // namespace hawser
