// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "exec/worker.hpp"
#include "hawser/errc.hpp"
#include "link/socket_owner.hpp"
#include "wire/frame.hpp"

namespace hawser::detail {

/// The first words on a socket that no link owns yet: perhaps finish connecting, perhaps write a
/// few bytes, then read one frame. What has arrived behind it comes along in the same read, and
/// goes with the socket to whichever worker has it afterwards.
///
/// Threads: the worker's it was made on, all members and `done`.
class exchange {
 public:
  struct plan {
    platform::native_handle socket = platform::no_handle;
    bool connecting = false;           ///< wait until writable, then ask for the outcome
    std::vector<std::byte> words;      ///< written first; at most header_bytes_max
    std::vector<platform::native_handle> handles;  ///< that go along with them; the caller's
    bool over_unix = false;                        ///< handles may come along with the frame
    clock::duration limit{};           ///< for all of it
  };
  struct first_words {
    std::vector<std::byte> header;  ///< the first frame after its length
    std::vector<std::byte> rest;    ///< what has arrived behind it
    handle_owners handles;          ///< what came along
  };
  /// The socket and what was read, or why not; the socket is closed then. The exchange may be
  /// destroyed inside. Throws nothing.
  using outcome = std::optional<failure>;
  using function = std::function<void(outcome, platform::native_handle, first_words)>;

  exchange(worker& home, plan what, function done);
  /// Gives up: closes the socket, `done` is not called.
  ~exchange();
  exchange(const exchange&) = delete;
  exchange& operator=(const exchange&) = delete;

  void start() noexcept;

 private:
  class wait;

  void step() noexcept;
  // Each: true if finish() was called; otherwise wait for `wanted_`.
  [[nodiscard]] bool advance();
  [[nodiscard]] bool read_frame();
  void begin_wait();
  void fail(errc code, std::string_view detail) noexcept;
  void finish(outcome why) noexcept;
  static void on_limit(timer& entry) noexcept;

  struct limit_timer : timer {
    explicit limit_timer(exchange& by) noexcept : timer(&exchange::on_limit), owner(by) {}
    exchange& owner;
  };

  worker& home_;
  plan plan_;
  function done_;
  std::vector<std::byte> read_;
  first_words came_;         // from read_, once the frame is whole
  std::size_t written_ = 0;  // of words
  readiness::kind wanted_ = readiness::kind::readable;
  limit_timer timer_;
  wait* wait_ = nullptr;  // outlives us until the reactor lets go of it
};

}  // namespace hawser::detail
