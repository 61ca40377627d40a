// SPDX-License-Identifier: Apache-2.0
#include "hawser/result.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

namespace hawser {
namespace {

class category final : public std::error_category {
 public:
  [[nodiscard]] const char* name() const noexcept override { return "hawser"; }
  [[nodiscard]] std::string message(int code) const override;
  [[nodiscard]] std::error_condition default_error_condition(int code) const noexcept override;
};

std::string category::message(int code) const {
  switch (static_cast<errc>(code)) {
    case errc::closed:
      return "closed";
    case errc::link_lost:
      return "link lost";
    case errc::cancelled:
      return "cancelled";
    case errc::timed_out:
      return "timed out";
    case errc::too_large:
      return "too large";
    case errc::protocol_violation:
      return "protocol violation";
    case errc::refused:
      return "refused by the peer";
    case errc::unauthorized:
      return "unauthorized";
    case errc::limit_reached:
      return "limit reached";
    case errc::unsupported:
      return "unsupported";
    case errc::bad_config:
      return "bad configuration";
    case errc::bad_uri:
      return "bad address";
    case errc::address_in_use:
      return "address in use";
    case errc::unreachable:
      return "unreachable";
    case errc::resource_exhausted:
      return "system resources exhausted";
  }
  return "unknown error " + std::to_string(code);
}

// So that `code == std::errc::timed_out` is true of ours as of the system's.
std::error_condition category::default_error_condition(int code) const noexcept {
  switch (static_cast<errc>(code)) {
    case errc::cancelled:
      return std::errc::operation_canceled;
    case errc::timed_out:
      return std::errc::timed_out;
    case errc::too_large:
      return std::errc::message_size;
    case errc::protocol_violation:
      return std::errc::protocol_error;
    case errc::unauthorized:
      return std::errc::permission_denied;
    case errc::unsupported:
      return std::errc::not_supported;
    case errc::address_in_use:
      return std::errc::address_in_use;
    default:
      return {code, *this};
  }
}

// what() of a system_error is the text given to it, ": ", and the text of the code.
std::string detail_of(const std::system_error& error) {
  std::string_view text = error.what();
  const std::string meaning = error.code().message();
  if (!text.ends_with(meaning)) return std::string(text);
  text.remove_suffix(meaning.size());
  if (text.ends_with(": ")) text.remove_suffix(2);
  return std::string(text);
}

bool is_control(char byte) noexcept {
  return static_cast<unsigned char>(byte) < ' ' || byte == '\x7f';
}

std::string printable(std::string text) {
  if (std::none_of(text.begin(), text.end(), is_control)) return text;
  constexpr std::string_view digits = "0123456789abcdef";
  std::string shown;
  for (const char each : text) {
    if (is_control(each)) {
      const auto byte = static_cast<unsigned char>(each);
      shown.append({'\\', 'x', digits[byte / 16], digits[byte % 16]});
    } else {
      shown.push_back(each);
    }
  }
  return shown;
}

}  // namespace

const std::error_category& hawser_category() noexcept {
  static const category only;
  return only;
}

std::error_code make_error_code(errc code) noexcept {
  return {static_cast<int>(code), hawser_category()};
}

failure::failure(std::error_code code, std::string detail)
    : code_(code), detail_(printable(std::move(detail))) {}

failure::failure(errc code, std::string detail)
    : failure(make_error_code(code), std::move(detail)) {}

failure::failure(const std::system_error& error) : failure(error.code(), detail_of(error)) {}

std::string failure::text() const {
  return detail_.empty() ? code_.message() : detail_ + ": " + code_.message();
}

void failure::raise() const {
  if (detail_.empty()) throw std::system_error(code_);
  throw std::system_error(code_, detail_);
}

}  // namespace hawser
