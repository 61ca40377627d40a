// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <span>

#include "hawser/buffer.hpp"
#include "os/reactor.hpp"
#include "reactor.hpp"

namespace hawser {

/// A connected socket on io_uring: at most one receive and one send are with the kernel.
class uring_stream final : public stream, private uring_reporter {
 public:
  uring_stream(uring_reactor& home, platform::native_handle socket, stream_events& owner) noexcept;
  ~uring_stream() override;

  void start_reading() noexcept override;
  [[nodiscard]] bool write(std::span<const platform::io_slice> slices,
                           notice when) noexcept override;
  void close() noexcept override;

  // For hot_streams.
  [[nodiscard]] bool read_inline() noexcept;
  void cool() noexcept;

  // For the reactor.
  /// A send that completes only if it does not go out whole at once.
  static void prepare_silent_send(io_uring_sqe& entry, platform::native_handle socket,
                                  const void* bytes, std::size_t count) noexcept;
  void settle_write() noexcept;

 private:
  friend class uring_reactor;

  // Less than this is cheaper to copy than to cancel a receive for.
  static constexpr std::size_t direct_bytes_min = 16 << 10;
  // Room for the next header; the payload behind it belongs into the owner's memory again.
  static constexpr std::size_t tail_bytes = 512;
  static constexpr unsigned singles_after_direct = 4;
  // A first write of so much leaves with the wait that follows it, a smaller one before: that is
  // one call more, but a third of a microsecond earlier.
  static constexpr std::size_t silent_bytes_min = 1 << 10;

  enum class mode : std::uint8_t { multishot, single, direct };
  template <void (uring_stream::*Handle)(int, unsigned) noexcept>
  struct operation : completion {
    explicit operation(uring_stream& owner) noexcept
        : completion([](completion& self, int result, unsigned flags) noexcept {
            (static_cast<operation&>(self).stream.*Handle)(result, flags);
          }),
          stream(owner) {}
    uring_stream& stream;
    bool active = false;
  };

  void arm_read() noexcept;
  void arm_or_heat() noexcept;
  [[nodiscard]] bool prepare_direct(std::span<std::byte> space) noexcept;
  [[nodiscard]] bool is_found_often() noexcept;
  // Inline: true unless nothing has come.
  [[nodiscard]] bool read_direct_inline(std::span<std::byte> space) noexcept;
  [[nodiscard]] bool read_block_inline() noexcept;
  [[nodiscard]] bool ended_inline(int number) noexcept;
  void arm_block(bool many) noexcept;
  void arm_direct(std::span<std::byte> space) noexcept;
  void on_read(int result, unsigned flags) noexcept;
  [[nodiscard]] static bool is_passing(int number) noexcept;
  void deliver_block(unsigned flags, std::size_t bytes) noexcept;
  void deliver_direct(std::size_t bytes) noexcept;
  void end(std::error_code why) noexcept;

  [[nodiscard]] bool write_inline() noexcept;
  void submit_write(bool silent) noexcept;
  [[nodiscard]] std::size_t unwritten_bytes() const noexcept;
  void on_write(int result, unsigned flags) noexcept;
  /// True: all is written.
  [[nodiscard]] bool advance(std::size_t bytes) noexcept;

  void close_when_idle() noexcept;
  void report() noexcept override;

  platform::native_handle socket_;
  stream_events& owner_;
  operation<&uring_stream::on_read> read_;
  operation<&uring_stream::on_write> write_;
  mode mode_ = mode::multishot;
  bool fresh_ = true;  // nothing was written yet
  bool closing_ = false;
  bool ended_ = false;
  bool cancelling_ = false;
  bool heating_ = false;  // to be read inline once nothing is armed
  bool hot_ = false;      // read inline: nothing is armed
  bool silent_ = false;   // the write under way: no completion says that it has succeeded
  uring_stream* next_silent_ = nullptr;  // the reactor's
  unsigned finds_ = 0;    // by a worker that looked, since it slept
  std::error_code write_error_;  // to be reported
  unsigned singles_left_ = 0;
  std::size_t direct_ = 0;
  detail::block* tail_ = nullptr;
  std::array<iovec, 2> pieces_{};
  msghdr direct_message_{};
  msghdr write_message_{};
  std::size_t first_unwritten_ = 0;
  std::size_t unwritten_count_ = 0;
  std::array<iovec, max_slices> unwritten_;
};

}  // namespace hawser
