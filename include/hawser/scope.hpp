// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <exception>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include "hawser/awaitable.hpp"
#include "hawser/group.hpp"
#include "hawser/task.hpp"
#include "hawser/this_task.hpp"

namespace hawser {

namespace detail {
struct scope_access;
}

/// Where concurrent work is started: with_scope() and run() give one to a function, and complete
/// only when the function and everything started in its scope have.
///
/// Children run under the scope's stop token, which stops when the task around the scope is asked
/// to. They start from the run queue of the worker that spawns them, and are freed as they end.
///
/// Threads: all members may be called by the function and by any child, on any worker.
class scope {
 public:
  scope(const scope&) = delete;
  scope& operator=(const scope&) = delete;

  /// Starts work that the scope needs: its failure cancels everything else in the scope and is
  /// thrown to whoever awaits the scope. Only the first failure is; errc::cancelled of a child
  /// after request_stop() or a failure is none.
  ///
  /// Without a priority the child has that of the task around the scope. One that is less urgent is
  /// as urgent as that task from when the function has ended, and the task only waits for it.
  ///
  /// Errors:  throws std::bad_alloc; the task is destroyed, the scope goes on.
  /// Cost:    one frame beside the task's own, recycled; no lock.
  void spawn(task<void> work);
  void spawn(task<void> work, priority urgency);

  /// Starts independent work, such as one client of many: its failure is logged and counted by the
  /// runtime and concerns nobody else. errc::cancelled after a stop request is no failure.
  ///
  /// It keeps its priority also while the task around the scope waits.
  ///
  /// Errors, Cost: as spawn().
  void serve(task<void> work);
  void serve(task<void> work, priority urgency);

  /// Asks the function and all children to stop.
  void request_stop() noexcept { children_.cut(); }
  /// The token that the children run under; valid as long as the scope.
  [[nodiscard]] stop_token token() noexcept { return children_.context().stop; }
  /// Children that have not ended.
  [[nodiscard]] std::size_t running() const noexcept { return children_.running(); }

 protected:
  explicit scope(const detail::task_context& around) noexcept
      : children_(around), urgency_(around.urgency) {}
  ~scope() = default;

 private:
  friend detail::scope_access;

  detail::group children_;
  priority urgency_;
};

namespace detail {

/// A scope for those who open one.
struct scope_access {
  class opened : public scope {
   public:
    explicit opened(const task_context& around) noexcept : scope(around) {}
    [[nodiscard]] group& children() noexcept { return children_of(*this); }
  };

  [[nodiscard]] static group& children_of(scope& owner) noexcept { return owner.children_; }
};

template <class F, class... Args>
[[nodiscard]] decltype(auto) invoke_in(scope& children, F& f, Args&&... args) {
  if constexpr (std::invocable<F&, scope&, Args...>) {
    return std::invoke(f, children, std::forward<Args>(args)...);
  } else {
    return std::invoke(f, std::forward<Args>(args)...);
  }
}

template <class F, class... Args>
using scoped_t =
    decltype(invoke_in(std::declval<scope&>(), std::declval<F&>(), std::declval<Args>()...));

}  // namespace detail

/// Runs `f(scope&, args...)`, or `f(args...)`, and completes with its value when it and all that
/// was started in the scope have ended.
///
/// The first failure, of f or of a spawned child, asks all others to stop, f too, and is thrown
/// when they have ended.
///
/// Shape:   f returns a task; f and args are kept until the end, so that f may be a lambda with
///          captures (named before, see offload()). Arguments are passed as rvalues of copies;
///          references as std::ref.
/// Errors:  the first failure.
/// Cancel:  by the stop token, which f and the children see in what they await.
/// Cost:    one frame; no lock.
template <class F, class... Args>
[[nodiscard]] task<std::remove_cvref_t<detail::await_result_t<detail::scoped_t<F, Args...>>>>
with_scope(F f, Args... args) {
  using body_type = detail::scoped_t<F, Args...>;
  const auto around = co_await this_task::context();
  detail::scope_access::opened inside(around);
  std::optional<detail::await_value_t<body_type>> value;
  co_await detail::use_context(inside.children().parent_context());
  try {
    auto body = detail::invoke_in(inside, f, std::move(args)...);
    auto got = co_await detail::as_value(std::move(body));
    value.emplace(std::move(got));
  } catch (...) {
    inside.children().record(std::current_exception());
  }
  co_await detail::use_context(around);
  co_await inside.children().join();
  inside.children().rethrow_failure();
  if constexpr (!std::is_void_v<detail::await_result_t<body_type>>) co_return std::move(*value);
}

}  // namespace hawser
