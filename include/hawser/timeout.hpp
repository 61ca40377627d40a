// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include "hawser/awaitable.hpp"
#include "hawser/executor.hpp"
#include "hawser/hop.hpp"
#include "hawser/task.hpp"
#include "hawser/this_task.hpp"

namespace hawser {

namespace detail {

/// Asks to stop when its time has passed, or when the task around it is asked to.
///
/// Shape:   disarmed before it is destroyed.
/// Threads: made and disarmed on the executor it was made on, home().
class time_limit : private timer {
 public:
  time_limit(const task_context& around, clock::duration limit) noexcept;
  time_limit(const task_context& around, clock::time_point deadline) noexcept;
  ~time_limit() = default;

  [[nodiscard]] task_context context() noexcept;
  [[nodiscard]] executor& home() const noexcept { return *home_; }
  void disarm() noexcept;
  /// After disarm(): `error`, or errc::timed_out if it is errc::cancelled because of us.
  [[noreturn]] void raise(std::exception_ptr error) const;

 private:
  static void run_fire(timer& self) noexcept;

  linked_stop_source stop_;
  executor* home_;
  clock::duration limit_;
  const parent_urgency* parent_;
  priority urgency_;
  bool expired_ = false;
};

template <class Limit, class A>
[[nodiscard]] task<std::remove_cvref_t<await_result_t<A>>> run_within(Limit limit, A operation) {
  const auto around = co_await this_task::context();
  time_limit timer(around, limit);
  std::optional<await_value_t<A>> value;
  std::exception_ptr error;
  co_await use_context(timer.context());
  try {
    A own = std::move(operation);
    auto got = co_await as_value(std::move(own));
    value.emplace(std::move(got));
  } catch (...) {
    error = std::current_exception();
  }
  co_await use_context(around);
  // Not back to where we came from: what the operation moved the task to is where the next one is.
  executor* const here = executor::current();
  co_await hop_to(timer.home());
  timer.disarm();
  co_await hop_to(*here);
  if (error) timer.raise(std::move(error));
  if constexpr (!std::is_void_v<await_result_t<A>>) co_return std::move(*value);
}

}  // namespace detail

/// Awaits `operation`, but asks it to stop when `limit` has passed since the timeout was awaited.
///
/// Timeouts nest: the earliest decides. An operation that completes in spite of the request gives
/// its value, so nothing is lost.
///
/// Shape:   takes a task or operation by value; `limit` <= 0 has passed at once.
/// Errors:  errc::timed_out when the time passed first and the operation gave up for it;
///          otherwise what the operation throws.
/// Cancel:  by the stop token, which the operation sees.
/// Cost:    one frame and one timer; two posts if the operation moved the task to another worker.
template <awaitable A>
[[nodiscard]] auto timeout(clock::duration limit, A operation) {
  return detail::run_within(limit, std::move(operation));
}

/// The same with a point in time: several operations can share one deadline.
template <awaitable A>
[[nodiscard]] auto timeout(clock::time_point deadline, A operation) {
  return detail::run_within(deadline, std::move(operation));
}

}  // namespace hawser
