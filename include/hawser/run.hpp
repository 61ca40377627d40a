// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <type_traits>
#include <utility>

#include "hawser/awaitable.hpp"
#include "hawser/group.hpp"
#include "hawser/runtime.hpp"
#include "hawser/scope.hpp"
#include "hawser/task.hpp"

namespace hawser {

namespace detail {

/// Where a thread that is no worker sleeps until a task has ended.
class blocking_wait {
 public:
  /// Starts `root` on a worker and sleeps until it says done(). Asserts that this is no worker.
  void run(runtime& where, child root);
  void done() noexcept;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
};

template <class T>
child run_root(blocking_wait& waiting, outcome<T>& result, task<T> work) {
  try {
    task<T> own = std::move(work);
    if constexpr (std::is_void_v<T>) {
      co_await std::move(own);
    } else {
      auto got = co_await std::move(own);
      result.set_value(std::move(got));
    }
  } catch (...) {
    result.set_error(std::current_exception());
  }
  waiting.done();
}

}  // namespace detail

/// Runs `work` on a worker of `where`; the calling thread sleeps until it has ended.
///
/// Errors:  rethrows what the task throws.
/// Threads: any but a worker, which is asserted.
/// Cancel:  by runtime::request_stop().
template <class T>
T sync_wait(runtime& where, task<T> work) {
  detail::blocking_wait waiting;
  detail::outcome<T> result;
  waiting.run(where, detail::run_root(waiting, result, std::move(work)));
  return result.take();
}

/// Runs `f(scope&, args...)`, or `f(args...)`, on a worker of `where`; the calling thread sleeps
/// until it and all that it started in its scope have ended. Yields its value.
///
/// Shape:   as with_scope().
/// Errors:  rethrows the first failure, of f or of a child that was spawned.
/// Threads: any but a worker, which is asserted.
/// Cancel:  by runtime::request_stop().
template <class F, class... Args>
auto run(runtime& where, F f, Args... args) {
  return sync_wait(where, with_scope(std::move(f), std::move(args)...));
}

/// Starts `work` on a worker of `where` and does not wait for it: for programs that have a loop of
/// their own, see driven_runtime. What it throws is logged and counted, unless it was cancelled
/// because the runtime ends.
///
/// Shape:   the end of the runtime requests stop and waits for it, for at most shutdown_deadline;
///          what still waits then is never resumed, nor destroyed.
/// Errors:  throws std::bad_alloc.
/// Threads: any.
/// Cancel:  by runtime::request_stop().
void start(runtime& where, task<void> work);

}  // namespace hawser
