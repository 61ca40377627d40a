// SPDX-License-Identifier: Apache-2.0
// Connected stream sockets for the peers that bring none of their own, with the options that all
// peers of a table have: no Nagle delay, and 1 MiB of socket buffer each way, as hawser asks for by
// default.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "bench.hpp"

namespace bench {

inline constexpr int large_buffer_bytes = 1 << 20;

/// Whether the sockets of this table get `large_buffer_bytes`. Where connecting is timed they do
/// not: the system's default is what a plain connect and echo has.
[[nodiscard]] inline bool has_large_buffers(const question& asked, road via) noexcept {
  return via == road::unix_socket || &asked != &connect_reply;
}

/// `Work`, a server or client, in a process whose sockets get what those of this table do.
template <auto Work, class Seat>
void with_large_buffers(Seat& seat) {
  if (has_large_buffers(seat.asked(), seat.via())) impose_socket_buffers(large_buffer_bytes);
  Work(seat);
}

/// An entry of a peer whose library has no option for the buffers of its sockets.
template <auto Serve, auto Call>
[[nodiscard]] constexpr entry imposed_entry(const question& asked, std::string_view impl) noexcept {
  return {&asked, impl, with_large_buffers<Serve>, with_large_buffers<Call>};
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
  /// What has come, without waiting. Nothing: not yet; 0: the peer has left.
  [[nodiscard]] std::optional<std::size_t> receive_now(std::span<std::byte> room) const;
  /// Blocks until all is with the system.
  void send_all(std::span<const std::byte> bytes) const;
  /// How much the system took without waiting.
  [[nodiscard]] std::size_t send_now(std::span<const std::byte> bytes) const;

 private:
  int descriptor_;
};

/// Listens and announces itself.
class listening_socket {
 public:
  explicit listening_socket(const server_seat& seat);

  /// Blocks until a client has come.
  [[nodiscard]] stream_socket accept() const;

 private:
  const server_seat* seat_;
  stream_socket listener_;
};

/// Listens, announces itself and waits for the client.
[[nodiscard]] stream_socket accept_client(const server_seat& seat);
/// As many clients as the question has connections.
[[nodiscard]] std::vector<stream_socket> accept_clients(const server_seat& seat);
[[nodiscard]] stream_socket connect_to_server(const client_seat& seat);
/// As many times as the question has connections.
[[nodiscard]] std::vector<stream_socket> connect_all_to_server(const client_seat& seat);

}  // namespace bench
