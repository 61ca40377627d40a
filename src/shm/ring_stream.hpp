// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <system_error>

#include "hawser/executor.hpp"
#include "os/reactor.hpp"
#include "shm/ring.hpp"

namespace hawser::shm {

class port;

/// A pair of rings as a stream of bytes: what a write gathers becomes a record, or several.
///
/// What is read is copied out of the ring before anybody looks at it: the peer can write there.
class ring_stream final : public stream, private detail::work {
 public:
  /// What is read at once: then it is answered, so that both sides of a busy link work at the same
  /// time.
  static constexpr std::size_t look_bytes = 4 << 10;

  ring_stream(port& at, std::size_t channel, ring_writer<> to, ring_reader<> from,
              stream_events& owner) noexcept;
  ~ring_stream() override;

  void start_reading() noexcept override;
  [[nodiscard]] bool write(std::span<const platform::io_slice> slices,
                           notice when) noexcept override;
  void close() noexcept override;

  /// Where a small frame may be written in place, to be committed before anything else is done with
  /// the stream; null: write() it.
  [[nodiscard]] std::byte* place(std::size_t bytes) noexcept;
  void commit(std::size_t bytes) noexcept;

  /// Goes on with a write that waits, if there is much room by now. True: it is done, and
  /// on_written() will not be called.
  [[nodiscard]] bool push_on() noexcept;

  // For the port.
  bool look() noexcept;
  [[nodiscard]] bool has_stirred() noexcept;
  void wait_for_room() noexcept;
  void stop_waiting() noexcept;
  [[nodiscard]] std::size_t channel() const noexcept { return channel_; }

 private:
  // Larger writes become several records, so that the reader copies one while the next is written.
  static constexpr std::size_t record_most = 8 << 10;
  // What is written of a large payload when the ring has little room.
  static constexpr std::size_t record_least = 2 << 10;
  // Of a large payload, that goes where it belongs, more: then other streams have their turn.
  static constexpr std::size_t look_bytes_direct = 256 << 10;

  static void run_closed(detail::work& self) noexcept;
  [[nodiscard]] bool put() noexcept;
  [[nodiscard]] std::size_t claim(std::size_t left) noexcept;
  void copy_to(std::byte* to, std::size_t bytes) noexcept;
  [[nodiscard]] ring_reader<>::found look_ahead() noexcept;
  bool take() noexcept;
  /// How much of the limit of a look it has used up.
  std::size_t deliver() noexcept;
  void break_down() noexcept;

  port& port_;
  const std::size_t channel_;
  ring_writer<> to_;
  ring_reader<> from_;
  stream_events& owner_;
  bool reading_ = false;
  bool closing_ = false;
  bool ended_ = false;
  bool blocked_ = false;     // slices are left that the ring has no room for
  std::size_t claimed_ = 0;  // bytes of the last claim
  std::size_t first_ = 0;    // slice that is not written yet
  std::size_t count_ = 0;
  std::size_t left_ = 0;  // bytes of all of them
  std::array<platform::io_slice, max_slices> slices_;
};

}  // namespace hawser::shm
