// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>
#include <variant>

#include "hawser/errc.hpp"

namespace hawser {

/// A value, or the failure that came instead of it: what `co_await as_result(op)` yields.
///
/// Shape:   never empty; a moved-from result holds a moved-from value or failure.
/// Errors:  value() throws the failure as std::system_error; operator* and error() assume the
///          right alternative.
template <class T>
class [[nodiscard]] result {
 public:
  using value_type = T;

  result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  result(failure why)
    requires(!std::same_as<T, failure>)
      : state_(std::in_place_index<1>, std::move(why)) {}
  /// Says that it failed where T is itself a failure, as in the result of link::ended().
  result(std::in_place_index_t<1> failed, failure why) : state_(failed, std::move(why)) {}

  [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }
  [[nodiscard]] explicit operator bool() const noexcept { return has_value(); }

  [[nodiscard]] T& value() & { return require(), std::get<0>(state_); }
  [[nodiscard]] const T& value() const& { return require(), std::get<0>(state_); }
  [[nodiscard]] T&& value() && { return require(), std::get<0>(std::move(state_)); }
  [[nodiscard]] T& operator*() & noexcept { return *std::get_if<0>(&state_); }
  [[nodiscard]] const T& operator*() const& noexcept { return *std::get_if<0>(&state_); }
  [[nodiscard]] T&& operator*() && noexcept { return std::move(*std::get_if<0>(&state_)); }
  [[nodiscard]] T* operator->() noexcept { return std::get_if<0>(&state_); }
  [[nodiscard]] const T* operator->() const noexcept { return std::get_if<0>(&state_); }

  [[nodiscard]] const failure& error() const noexcept { return *std::get_if<1>(&state_); }

 private:
  void require() const {
    if (!has_value()) error().raise();
  }

  std::variant<T, failure> state_;
};

template <>
class [[nodiscard]] result<void> {
 public:
  using value_type = void;

  result() = default;
  result(failure why) : state_(std::in_place_index<1>, std::move(why)) {}
  result(std::in_place_index_t<1> failed, failure why) : state_(failed, std::move(why)) {}

  [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }
  [[nodiscard]] explicit operator bool() const noexcept { return has_value(); }
  void value() const {
    if (!has_value()) error().raise();
  }
  [[nodiscard]] const failure& error() const noexcept { return *std::get_if<1>(&state_); }

 private:
  std::variant<std::monostate, failure> state_;
};

}  // namespace hawser
