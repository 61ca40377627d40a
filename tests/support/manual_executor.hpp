// SPDX-License-Identifier: Apache-2.0
#pragma once

// An executor that a test drives by hand: no runtime, no sleeping, a clock that stands still until
// it is moved.

#include <atomic>
#include <condition_variable>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "exec/dispatcher.hpp"
#include "hawser/executor.hpp"
#include "hawser/group.hpp"
#include "hawser/task.hpp"

namespace test {

/// Runs what is posted to it on whatever thread calls run().
///
/// Threads: post() any; all else one thread at a time.
class manual_executor final : public hawser::detail::executor {
 public:
  using work = hawser::detail::work;
  using timer = hawser::detail::timer;
  using time_point = hawser::clock::time_point;
  using duration = hawser::clock::duration;

  /// In the order of posting; with a seed, in a random order.
  explicit manual_executor(std::optional<std::uint64_t> seed = std::nullopt);
  /// By priority as `chooser` says, in the order of posting within one; what an item spends is
  /// charged to its priority.
  explicit manual_executor(const hawser::detail::dispatcher& chooser);
  ~manual_executor();

  void post(work& item, hawser::priority urgency) noexcept override;
  /// Something more urgent waits, or the item has spent `turn_limit`.
  [[nodiscard]] bool should_yield() const noexcept override;
  void raise() noexcept override;
  void arm(timer& entry, time_point deadline) noexcept override;
  void disarm(timer& entry) noexcept override;
  [[nodiscard]] time_point now() const noexcept override { return now_; }
  [[nodiscard]] hawser::errc post_blocking(work& item) noexcept override;
  void report_failure(std::exception_ptr failure) noexcept override;

  /// For what runs: it takes so long.
  void spend(duration run_time) noexcept { now_ += run_time; }
  /// For adjusting it. Shape: only if one was given.
  [[nodiscard]] hawser::detail::dispatcher& chooser() noexcept { return *chooser_; }

  /// Runs until nothing is queued; yields how many items that were.
  std::size_t run();
  bool run_one();
  /// Moves the clock, runs every timer that is due and what it queues, in order.
  void advance(duration by);
  /// To the next deadline; false: nothing is armed.
  bool advance_to_next();
  /// Runs one call that was posted to the blocking pool, on this thread, as no executor.
  bool run_blocking_one();
  /// Calls `function` as this executor would.
  template <class F>
  void enter(F&& function);

  /// Waits for posts of other threads, and runs them, until finish() was called after restart().
  void run_until_finished();
  void restart() noexcept;
  void finish() noexcept;  // any thread

  [[nodiscard]] std::size_t armed() const noexcept { return armed_; }
  [[nodiscard]] const std::vector<std::exception_ptr>& failures() const noexcept {
    return failures_;
  }
  [[nodiscard]] hawser::priority last_urgency() const noexcept { return last_urgency_; }

  duration turn_limit = std::chrono::microseconds(200);
  std::size_t blocking_max = 4;  // post_blocking() refuses beyond

 private:
  using queued = std::pair<work*, hawser::priority>;

  [[nodiscard]] work* take();
  [[nodiscard]] std::vector<queued>::iterator next_entry();
  [[nodiscard]] timer* earliest() noexcept;

  mutable std::mutex mutex_;  // queue_, finished_
  std::condition_variable changed_;
  std::vector<queued> queue_;
  bool finished_ = false;
  std::optional<std::mt19937_64> random_;
  std::optional<hawser::detail::dispatcher> chooser_;
  timer head_;  // of a ring
  std::size_t armed_ = 0;
  time_point now_{std::chrono::hours(1)};
  time_point item_start_ = now_;
  std::vector<work*> blocking_;
  std::vector<std::exception_ptr> failures_;
  hawser::priority last_urgency_ = hawser::priority::rpc;
};

/// A task that was started on an executor, and how it ended.
///
/// Shape: outlives the task.
template <class T>
class pending {
 public:
  pending(manual_executor& where, hawser::task<T> work, hawser::stop_token stop = {},
          hawser::priority urgency = hawser::priority::rpc) {
    hawser::detail::task_context context;
    context.stop = stop;
    context.urgency = urgency;
    run_root(*this, std::move(work)).start_on(where, context);
  }
  pending(const pending&) = delete;
  pending& operator=(const pending&) = delete;

  [[nodiscard]] bool done() const noexcept { return done_.load(std::memory_order_acquire); }
  /// The value, or what was thrown.
  T get() { return outcome_.take(); }

 private:
  static hawser::detail::child run_root(pending& self, hawser::task<T> work) {
    try {
      hawser::task<T> own = std::move(work);
      if constexpr (std::is_void_v<T>) {
        co_await std::move(own);
      } else {
        auto value = co_await std::move(own);
        self.outcome_.set_value(std::move(value));
      }
    } catch (...) {
      self.outcome_.set_error(std::current_exception());
    }
    self.done_.store(true, std::memory_order_release);
  }

  hawser::detail::outcome<T> outcome_;
  std::atomic<bool> done_{false};
};

/// Runs `work` to its end on an executor of its own, moving the clock whenever nothing else goes
/// on.
template <class T>
T run_task(hawser::task<T> work) {
  manual_executor here;
  pending<T> root(here, std::move(work));
  do {
    here.run();
    while (here.run_blocking_one()) here.run();
  } while (!root.done() && here.advance_to_next());
  return root.get();
}

/// A thread that runs an executor until it goes out of scope.
class executor_thread {
 public:
  explicit executor_thread(manual_executor& driven)
      : driven_(restarted(driven)), thread_([&driven] { driven.run_until_finished(); }) {}
  executor_thread(const executor_thread&) = delete;
  executor_thread& operator=(const executor_thread&) = delete;
  ~executor_thread() {
    driven_.finish();
    thread_.join();
  }

 private:
  [[nodiscard]] static manual_executor& restarted(manual_executor& driven) noexcept {
    driven.restart();
    return driven;
  }

  manual_executor& driven_;
  std::thread thread_;
};

template <class F>
void manual_executor::enter(F&& function) {
  executor* const before = current();
  bind(this);
  std::forward<F>(function)();
  bind(before);
}

}  // namespace test
