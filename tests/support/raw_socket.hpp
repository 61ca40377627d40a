// SPDX-License-Identifier: Apache-2.0
#pragma once

// A blocking socket in the hands of a test: what a peer can be that is no hawser.

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "os/platform.hpp"
#include "support/raw_peer.hpp"

namespace test {

class raw_socket {
 public:
  /// Connects to a `tcp://` or `unix:` address. Errors: throws std::system_error.
  explicit raw_socket(const std::string& uri);
  /// Adopts a connected descriptor.
  explicit raw_socket(int descriptor) noexcept : descriptor_(descriptor) {}
  /// Only the descriptor, for connect() later.
  [[nodiscard]] static raw_socket unconnected(const std::string& uri);
  void connect(const std::string& uri);
  raw_socket(raw_socket&& other) noexcept;
  raw_socket& operator=(raw_socket&& other) noexcept;
  ~raw_socket();

  /// False: the other side has closed.
  bool send(std::span<const std::byte> all);
  /// With handles attached to the first byte.
  bool send(std::span<const std::byte> all, std::span<const hawser::platform::native_handle> with);
  void finish_writing() noexcept;
  /// Waits for one frame. Nothing at the end of the connection.
  [[nodiscard]] std::optional<seen_frame> next();
  /// Reads frames until one is of that kind. Nothing at the end of the connection.
  [[nodiscard]] std::optional<seen_frame> next(hawser::wire::kind what);
  /// Waits for the end of the connection, in order or not.
  void read_to_end();
  void close() noexcept;

 private:
  [[nodiscard]] bool read(std::span<std::byte> all);

  int descriptor_ = -1;
};

/// A socket that listens and does nothing by itself.
class raw_listener {
 public:
  /// Listens at `unix:` or at a tcp port of its own. Errors: throws std::system_error.
  explicit raw_listener(std::string unix_path = {}, int backlog = 64);
  ~raw_listener();
  raw_listener(const raw_listener&) = delete;
  raw_listener& operator=(const raw_listener&) = delete;

  [[nodiscard]] const std::string& uri() const noexcept { return uri_; }
  [[nodiscard]] raw_socket accept();
  void close() noexcept;

 private:
  int descriptor_ = -1;
  std::string uri_;
};

/// The hello of a well-behaved peer, with windows of `window` bytes.
[[nodiscard]] hawser::wire::hello make_hello(std::uint64_t window = 1 << 20);

/// A raw peer after its handshake.
struct raw_link {
  explicit raw_link(const std::string& uri, const hawser::wire::hello& hello = make_hello());

  raw_socket socket;
  hawser::wire::hello hello;
  hawser::wire::welcome welcome;
};

}  // namespace test
