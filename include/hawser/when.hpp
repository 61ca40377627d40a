// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "hawser/as_result.hpp"
#include "hawser/awaitable.hpp"
#include "hawser/group.hpp"
#include "hawser/this_task.hpp"

namespace hawser {

namespace detail {

// The operation is gone before the group hears of its end.
template <class A>
child run_one_of_all(group& members, std::optional<await_value_t<A>>& value, A& operation) {
  try {
    A own = std::move(operation);
    auto got = co_await as_value(std::move(own));
    value.emplace(std::move(got));
  } catch (...) {
    members.fail(std::current_exception());
  }
  members.leave();
}

// After a failure the rest need not begin.
template <class A>
void start_one_of_all(group& members, std::optional<await_value_t<A>>& value, A& operation) {
  if (!members.is_cut()) members.start(run_one_of_all(members, value, operation));
}

}  // namespace detail

/// Runs operations at the same time and yields a tuple of their values, std::monostate for void.
///
/// They begin in the order of the arguments, here and now, each up to its first suspension. The
/// first failure asks the others to stop; it is thrown when all have ended.
///
/// Shape:   takes tasks and operations by value.
/// Errors:  the first failure; values of the others are dropped.
/// Cancel:  by the stop token, which all operations see; completes when they have.
/// Cost:    one frame, and one for each operation.
template <awaitable... A>
[[nodiscard]] task<std::tuple<detail::await_value_t<A>...>> when_all(A... operations) {
  const auto around = co_await this_task::context();
  detail::group members(around);
  std::tuple<std::optional<detail::await_value_t<A>>...> values;
  try {
    std::apply([&](auto&... value) { (detail::start_one_of_all(members, value, operations), ...); },
               values);
  } catch (...) {  // no memory for a frame
    members.record(std::current_exception());
  }
  co_await members.join();
  members.rethrow_failure();
  co_return std::apply(
      [](auto&... value) { return std::tuple<detail::await_value_t<A>...>(std::move(*value)...); },
      values);
}

/// The same for any number of tasks of one type: yields their values in order, or nothing for
/// task<void>.
template <class T>
[[nodiscard]] task<std::conditional_t<std::is_void_v<T>, void, std::vector<T>>> when_all(
    std::vector<task<T>> operations) {
  const auto around = co_await this_task::context();
  detail::group members(around);
  std::vector<std::optional<detail::await_value_t<task<T>>>> values(operations.size());
  try {
    for (std::size_t i = 0; i < operations.size(); ++i) {
      detail::start_one_of_all(members, values[i], operations[i]);
    }
  } catch (...) {  // no memory for a frame
    members.record(std::current_exception());
  }
  co_await members.join();
  members.rethrow_failure();
  if constexpr (!std::is_void_v<T>) {
    std::vector<T> all;
    all.reserve(values.size());
    for (auto& value : values) all.push_back(std::move(*value));
    co_return all;
  }
}

/// What when_any() yields: every value that came, whether or not it came first.
template <class... T>
struct any_result {
  std::size_t index = 0;                   ///< the operation that gave the first value
  std::tuple<std::optional<T>...> values;  ///< of all that completed; std::monostate for void
  std::exception_ptr failure;              ///< of one that failed beside them; null if none
};

namespace detail {

/// Who was first; then everybody else is asked to stop.
class race : public group {
 public:
  using group::group;

  void win(std::size_t index) noexcept {
    std::size_t none = nobody;
    // relaxed: read by the parent after join()
    first_.compare_exchange_strong(none, index, std::memory_order_relaxed);
    cut();
  }
  [[nodiscard]] std::size_t first() const noexcept {
    return first_.load(std::memory_order_relaxed);
  }

  static constexpr std::size_t nobody = static_cast<std::size_t>(-1);

 private:
  std::atomic<std::size_t> first_{nobody};
};

// Losers that can say "cancelled" without an exception do.
template <class A>
child run_one_of_any(race& members, std::size_t index, std::optional<await_value_t<A>>& value,
                     A& operation) {
  try {
    A own = std::move(operation);
    if constexpr (resultful<A>) {
      auto got = co_await as_result(std::move(own));
      if (!got.has_value()) {
        members.fail(got.error());
      } else {
        if constexpr (std::is_void_v<await_result_t<A>>) {
          value.emplace();
        } else {
          value.emplace(std::move(*got));
        }
        members.win(index);
      }
    } else {
      auto got = co_await as_value(std::move(own));
      value.emplace(std::move(got));
      members.win(index);
    }
  } catch (...) {
    members.fail(std::current_exception());
  }
  members.leave();
}

// Once there is a first, the rest need not begin.
template <class A>
void start_one_of_any(race& members, std::size_t index, std::optional<await_value_t<A>>& value,
                      A& operation) {
  if (!members.is_cut()) members.start(run_one_of_any(members, index, value, operation));
}

}  // namespace detail

/// Runs operations at the same time until the first completes, and yields all that completed.
///
/// They begin in the order of the arguments, here and now. The first completion, with a value or
/// a failure, asks the others to stop; those that had not begun do not. when_any() completes when
/// all that began have ended. One that completes in spite of the request gives its value too, so
/// that a recv() that loses the race drops no message.
///
/// Shape:   takes tasks and operations by value. To tell failures apart wrap them:
///          `when_any(as_result(a), as_result(b))`.
/// Errors:  the first failure, if no operation gave a value; otherwise any_result::failure has
///          it. errc::cancelled of those that were asked to stop is no failure.
/// Cancel:  by the stop token, which all operations see; completes when they have.
/// Cost:    one frame, and one for each operation.
template <awaitable... A>
requires(sizeof...(A) > 0)
    [[nodiscard]] task<any_result<detail::await_value_t<A>...>> when_any(A... operations) {
  const auto around = co_await this_task::context();
  detail::race members(around);
  any_result<detail::await_value_t<A>...> result;
  try {
    std::apply(
        [&](auto&... value) {
          std::size_t index = 0;
          (detail::start_one_of_any(members, index++, value, operations), ...);
        },
        result.values);
  } catch (...) {  // no memory for a frame
    members.record(std::current_exception());
  }
  co_await members.join();
  if (members.first() == detail::race::nobody) members.rethrow_failure();
  result.index = members.first();
  result.failure = members.take_failure();
  co_return std::move(result);
}

}  // namespace hawser
