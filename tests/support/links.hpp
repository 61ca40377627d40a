// SPDX-License-Identifier: Apache-2.0
#pragma once

// Both ends of a link in one runtime, over every transport.

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/hawser.hpp"
#include "support/config.hpp"
#include "support/folder.hpp"
#include "support/watchdog.hpp"

namespace test {

enum class transport : std::uint8_t { tcp, unix_socket, inproc, shared_memory };

inline constexpr std::array transports{transport::tcp, transport::unix_socket, transport::inproc,
                                       transport::shared_memory};
/// Those whose channels get sockets of their own.
inline constexpr std::array socket_transports{transport::tcp, transport::unix_socket,
                                              transport::inproc};

[[nodiscard]] std::string name_of(transport which);

/// All channels of a link.
inline constexpr std::array kinds{hawser::priority::control, hawser::priority::rpc,
                                  hawser::priority::stream, hawser::priority::bulk};

/// Where to listen; each call names another place in `where`.
[[nodiscard]] std::string address_of(transport which, const folder& where);

/// An address with an option more.
[[nodiscard]] std::string with_option(std::string uri, std::string_view option);

/// What distinguishes a test's link from any other.
struct habits {
  unsigned threads = 1;
  hawser::link_options client = {};
  hawser::listen_options server = {};
};

/// A runtime with a listener and one link, both ends of it.
///
/// Shape: the order of the members is the order of their beginning; a test may let go of any link.
struct linked {
  explicit linked(transport over, const habits& how = {},
                  std::chrono::seconds limit = std::chrono::seconds(60),
                  const char* file = __builtin_FILE(), int line = __builtin_LINE());

  /// One more link through the same listener.
  void connect(hawser::link& connected, hawser::link& accepted);

  watchdog guard;
  log_book log;
  folder place;
  habits how;
  hawser::runtime runtime;
  hawser::listener listener;
  hawser::link client;
  hawser::link server;
};

/// The configuration of config() with a log.
[[nodiscard]] hawser::executor_config config(unsigned threads, log_book& log);

/// A question on control, and its answer.
///
/// Errors: those of the channel; errc::closed if one of them does not come.
[[nodiscard]] hawser::task<void> ask(hawser::link from, hawser::link to);

/// Talks both ways until both ends have moved into shared memory, if they do.
[[nodiscard]] hawser::task<void> settle(linked& ends);

/// Connects to `from`, and accepts there.
[[nodiscard]] hawser::task<void> join(hawser::listener& from, std::string uri,
                                      hawser::link_options options, hawser::link& connected,
                                      hawser::link& accepted);

/// The next message of a channel on which there is one.
///
/// Errors: those of recv(); errc::closed if there is none.
[[nodiscard]] hawser::task<hawser::message> next(hawser::channel& from);

/// Of a link that is alive, read where it lives.
[[nodiscard]] hawser::channel_counts counts_of(hawser::runtime& where, const hawser::link& link,
                                               hawser::priority kind);

/// Sleeps on the runtime in small steps until `reached` says so; a watchdog must be on guard.
void wait_until(hawser::runtime& where, const std::function<bool()>& reached);

/// True once an event of the area has text with all of these in it.
[[nodiscard]] bool has_event(const log_book& log, std::string_view area,
                             std::initializer_list<std::string_view> texts);

/// What an action throws, as code and text; clear code: it throws nothing.
[[nodiscard]] hawser::result<void> outcome_of(const std::function<void()>& action);

/// Descriptors that this process has open.
[[nodiscard]] std::size_t open_descriptors();

/// Bytes that follow from a number, checked with is_pattern().
[[nodiscard]] hawser::buffer make_pattern(std::uint64_t number, std::size_t bytes);
[[nodiscard]] bool is_pattern(const hawser::message& message, std::uint64_t number,
                              std::size_t bytes);

}  // namespace test
