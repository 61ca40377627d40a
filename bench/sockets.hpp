// SPDX-License-Identifier: Apache-2.0
// Connected stream sockets for the peers that bring none of their own, with the options that all
// peers of a table have: no Nagle delay, and 1 MiB of socket buffer each way for bulk and for Unix
// sockets, as hawser asks for by default.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "bench.hpp"

namespace bench {

inline constexpr int large_buffer_bytes = 1 << 20;

/// Whether the sockets of this table get `large_buffer_bytes`.
[[nodiscard]] inline bool has_large_buffers(const question& asked, road via) noexcept {
  return via == road::unix_socket || asked.message_bytes >= bulk_bytes;
}

/// Owns a descriptor.
class stream_socket {
 public:
  explicit stream_socket(int descriptor) noexcept : descriptor_(descriptor) {}
  stream_socket(stream_socket&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)) {}
  stream_socket& operator=(stream_socket&&) = delete;
  ~stream_socket();

  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
  [[nodiscard]] int release() noexcept { return std::exchange(descriptor_, -1); }

  /// Blocks until something has come. 0: the peer has left.
  [[nodiscard]] std::size_t receive(std::span<std::byte> room) const;
  /// Blocks until `room` is full. False: the peer has left.
  [[nodiscard]] bool receive_all(std::span<std::byte> room) const;
  /// Blocks until all is with the system.
  void send_all(std::span<const std::byte> bytes) const;

 private:
  int descriptor_;
};

/// Listens, announces itself and waits for the client.
[[nodiscard]] stream_socket accept_client(const server_seat& seat);
[[nodiscard]] stream_socket connect_to_server(const client_seat& seat);

}  // namespace bench
