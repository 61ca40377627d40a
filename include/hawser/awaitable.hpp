// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <coroutine>
#include <type_traits>
#include <utility>
#include <variant>

namespace hawser {

namespace detail {

template <class T>
concept awaiter = requires(T& one) {
  { one.await_ready() } -> std::convertible_to<bool>;
  one.await_resume();
};

template <class T>
concept has_member_co_await = requires(T&& one) {
  std::forward<T>(one).operator co_await();
};
template <class T>
concept has_free_co_await = requires(T&& one) {
  operator co_await(std::forward<T>(one));
};

/// What `co_await` calls await_ready, await_suspend and await_resume of.
template <class T>
[[nodiscard]] decltype(auto) get_awaiter(T&& awaitable) {
  if constexpr (has_member_co_await<T>) {
    return std::forward<T>(awaitable).operator co_await();
  } else if constexpr (has_free_co_await<T>) {
    return operator co_await(std::forward<T>(awaitable));
  } else {
    return std::forward<T>(awaitable);
  }
}

template <class T>
using awaiter_of = decltype(get_awaiter(std::declval<T>()));

}  // namespace detail

/// What can be awaited: tasks, the operations of channels, anything with the three await_
/// functions or operator co_await.
template <class T>
concept awaitable = std::move_constructible<std::remove_cvref_t<T>> &&
    detail::awaiter<std::remove_reference_t<detail::awaiter_of<T>>>;

namespace detail {

/// The type of `co_await` on a T.
template <class T>
using await_result_t = decltype(std::declval<awaiter_of<T>&>().await_resume());

/// The same as something that can be stored: void becomes std::monostate.
template <class T>
using await_value_t = std::conditional_t<std::is_void_v<await_result_t<T>>, std::monostate,
                                         std::remove_cvref_t<await_result_t<T>>>;

/// The awaiter of `A`, for those who only change what await_resume() says.
///
/// Shape: the awaitable must outlive it.
template <class A>
class awaiter_adaptor {
 public:
  explicit awaiter_adaptor(A&& awaitable) : inner_(get_awaiter(std::forward<A>(awaitable))) {}
  awaiter_adaptor(const awaiter_adaptor&) = delete;
  awaiter_adaptor& operator=(const awaiter_adaptor&) = delete;

  [[nodiscard]] bool await_ready() { return static_cast<bool>(inner_.await_ready()); }
  template <class Promise>
  [[nodiscard]] auto await_suspend(std::coroutine_handle<Promise> waiter) {
    return inner_.await_suspend(waiter);
  }

 protected:
  ~awaiter_adaptor() = default;

  awaiter_of<A&&> inner_;  // a reference where the awaitable is its own awaiter
};

/// Awaits and yields a value always: std::monostate where there is none.
template <class A>
class value_awaiter final : public awaiter_adaptor<A> {
 public:
  using awaiter_adaptor<A>::awaiter_adaptor;

  [[nodiscard]] decltype(auto) await_resume() {
    if constexpr (std::is_void_v<await_result_t<A>>) {
      this->inner_.await_resume();
      return std::monostate();
    } else {
      return this->inner_.await_resume();
    }
  }
};

template <class A>
[[nodiscard]] value_awaiter<A> as_value(A&& awaitable) {
  return value_awaiter<A>(std::forward<A>(awaitable));
}

}  // namespace detail

}  // namespace hawser
