// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "hawser/executor_config.hpp"
#include "hawser/runtime.hpp"

namespace hawser::detail {

inline constexpr unsigned most_threads = 1024;

/// A field of executor_config that has a text form: what parse(), to_string(), the environment,
/// checked() and every error text know about it.
struct config_field {
  std::string_view name;
  std::string (*accepted)();                         ///< for people: "1..1024"
  bool (*read)(std::string_view, executor_config&);  ///< false: not of this form
  std::string (*write)(const executor_config&);
  bool (*valid)(const executor_config&);  ///< in range, or a zero that means the default
  void (*put_default)(executor_config&);  ///< in the place of zeros
};

[[nodiscard]] std::span<const config_field> config_fields() noexcept;

/// Errors: throws errc::bad_config naming field, value and range.
[[noreturn]] void bad_value(std::string_view field, std::string_view value,
                            std::string_view accepted);

/// Checks every field and puts defaults in the place of zeros.
///
/// Errors: throws errc::bad_config naming field, value and range.
[[nodiscard]] executor_config checked(executor_config config);

/// `config`, which was checked, with what `change` sets.
///
/// Errors: as checked().
[[nodiscard]] executor_config adjusted(executor_config config, const runtime::adjustment& change);

/// How many threads are of use with so many cores and so much CPU time a second, in cores.
[[nodiscard]] unsigned threads_for(unsigned cores, std::optional<double> quota) noexcept;
/// What executor_config::threads is by default.
[[nodiscard]] unsigned default_threads();

}  // namespace hawser::detail
