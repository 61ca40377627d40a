// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "hawser/link.hpp"

namespace hawser::detail {

enum class scheme : std::uint8_t { tcp, unix_socket, inproc };

/// An endpoint address, taken apart.
struct endpoint {
  detail::scheme scheme = detail::scheme::tcp;
  std::string host;  ///< tcp; empty: loopback
  std::string port;  ///< tcp
  std::string name;  ///< the path of unix: and shm:, the name of inproc:
  bool must_share = false;  ///< shm: a unix socket whose links share memory
};

/// Reads `tcp://host:port`, `unix:/path`, `shm:/path` or `inproc:name`, and applies what follows
/// `?` to `options`: `name=value`, joined by `&`, percent-encoded, named as the fields of
/// link_options. Four numbers of an array are joined by `,`; one number stands for all four.
///
/// Errors: throws errc::bad_uri or errc::bad_config, naming what was wrong and the whole address.
[[nodiscard]] endpoint parse_uri(std::string_view uri, link_options& options);

/// Errors: throws errc::bad_config naming field, value and accepted range.
void check(const link_options& options);

[[nodiscard]] std::string to_uri(const endpoint& address);

}  // namespace hawser::detail
