// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <system_error>

namespace hawser {

/// Why an operation failed. Names and numbers are fixed for ever and never reused.
///
/// Every value travels as std::error_code in the category "hawser"; the text of the exception or
/// failure around it says what was wrong and where.
enum class errc : int {
  closed = 1,               ///< this side or the peer has ended the channel or the link in order
  link_lost = 2,            ///< the peer died, fell silent, or the connection broke
  cancelled = 3,            ///< the operation's stop token asked for it
  timed_out = 4,            ///< a deadline passed first
  too_large = 5,            ///< a message, frame or header is above its limit
  protocol_violation = 6,   ///< the peer sent what the wire format does not allow
  refused = 7,              ///< the peer answered and said no
  unauthorized = 8,         ///< wrong user, owner, mode or secret
  limit_reached = 9,        ///< a bound of the configuration was reached
  unsupported = 10,         ///< not offered by this system, build or peer
  bad_config = 11,          ///< a configuration value is out of range
  bad_uri = 12,             ///< an endpoint address cannot be understood
  address_in_use = 13,      ///< another listener lives at the address
  unreachable = 14,         ///< nobody listens at the address, or it does not exist
  resource_exhausted = 15,  ///< the system has no memory, descriptors or space left
};

/// The one error category of the library.
///
/// Threads: any.
[[nodiscard]] const std::error_category& hawser_category() noexcept;

[[nodiscard]] std::error_code make_error_code(errc code) noexcept;

/// An error with the text that says what was wrong and where.
///
/// Shape: `code` is never zero; `detail` may be empty and does not repeat the code's own text.
///        Control characters in it, which may come from a peer or a caller, become `\xNN`: the text
///        is one line, and none of it is lost in a what().
class failure {
 public:
  failure(std::error_code code, std::string detail = {});
  failure(errc code, std::string detail = {});
  /// Takes code and text out of an exception.
  explicit failure(const std::system_error& error);

  [[nodiscard]] std::error_code code() const noexcept { return code_; }
  [[nodiscard]] const std::string& detail() const noexcept { return detail_; }
  /// One line for people: detail, then the text of the code.
  [[nodiscard]] std::string text() const;
  /// Errors: throws this failure as std::system_error.
  [[noreturn]] void raise() const;

 private:
  std::error_code code_;
  std::string detail_;
};

}  // namespace hawser

template <>
struct std::is_error_code_enum<hawser::errc> : std::true_type {};
