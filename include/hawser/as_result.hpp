// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <system_error>
#include <type_traits>
#include <utility>

#include "hawser/awaitable.hpp"
#include "hawser/result.hpp"

namespace hawser {

namespace detail {

/// An operation that can say how it ended without throwing.
template <class A>
concept resultful = requires(awaiter_of<A>& awaiter) {
  awaiter.await_result();
};

template <class A>
class result_awaiter final : public awaiter_adaptor<A> {
 public:
  using value = std::remove_cvref_t<await_result_t<A>>;
  using awaiter_adaptor<A>::awaiter_adaptor;

  [[nodiscard]] result<value> await_resume() {
    if constexpr (resultful<A>) {
      return this->inner_.await_result();
    } else {
      try {
        if constexpr (std::is_void_v<value>) {
          this->inner_.await_resume();
          return {};
        } else {
          return result<value>(this->inner_.await_resume());
        }
      } catch (const std::system_error& error) {
        return result<value>(std::in_place_index<1>, failure(error));
      }
    }
  }
};

}  // namespace detail

/// What as_result() returns; await it once.
template <class A>
class [[nodiscard]] result_of {
 public:
  explicit result_of(A&& awaitable) : awaitable_(std::forward<A>(awaitable)) {}

  [[nodiscard]] detail::result_awaiter<A> operator co_await() && {
    return detail::result_awaiter<A>(std::forward<A>(awaitable_));
  }

 private:
  A awaitable_;  // a reference if as_result() was given an lvalue
};

/// `co_await as_result(op)` yields result<T>: the value of `co_await op`, or why it failed.
///
/// Operations of hawser come back without any exception; of tasks and other awaitables
/// std::system_error is caught, all else passes through.
///
/// Shape:   takes any awaitable; a named task by std::move, a named operation as it is.
/// Errors:  what is no std::system_error is thrown as without as_result().
/// Cancel:  as the operation; result::error() is errc::cancelled.
/// Cost:    nothing for operations; an exception of a task is caught once.
template <awaitable A>
[[nodiscard]] result_of<A> as_result(A&& operation) {
  return result_of<A>(std::forward<A>(operation));
}

}  // namespace hawser
