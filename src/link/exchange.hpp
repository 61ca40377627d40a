// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "exec/worker.hpp"
#include "hawser/errc.hpp"
#include "wire/frame.hpp"

namespace hawser::detail {

/// The first words on a socket that no link owns yet: perhaps finish connecting, perhaps write a
/// few bytes, then read exactly one frame and not a byte more. So the socket can be handed to any
/// worker afterwards.
///
/// Threads: the worker's it was made on, all members and `done`.
class exchange {
 public:
  struct plan {
    platform::native_handle socket = platform::no_handle;
    bool connecting = false;           ///< wait until writable, then ask for the outcome
    std::vector<std::byte> words;      ///< written first; at most header_bytes_max
    clock::duration limit{};           ///< for all of it
  };
  /// The socket and the frame after its length, or why not; the socket is closed then. The
  /// exchange may be destroyed inside.
  using outcome = std::optional<failure>;
  using function = std::function<void(outcome, platform::native_handle, std::vector<std::byte>)>;

  exchange(worker& home, plan what, function done);
  /// Gives up: closes the socket, `done` is not called.
  ~exchange();
  exchange(const exchange&) = delete;
  exchange& operator=(const exchange&) = delete;

  void start() noexcept;

 private:
  class wait;

  void step() noexcept;
  [[nodiscard]] bool advance();  // false: wait for `wanted_`
  void finish(outcome why) noexcept;
  static void on_limit(timer& entry) noexcept;

  struct limit_timer : timer {
    explicit limit_timer(exchange& by) noexcept : timer(&exchange::on_limit), owner(by) {}
    exchange& owner;
  };

  worker& home_;
  plan plan_;
  function done_;
  std::vector<std::byte> frame_;
  std::size_t at_ = 0;  // of words, then of frame_
  bool wrote_ = false;
  bool sized_ = false;
  readiness::kind wanted_ = readiness::kind::readable;
  limit_timer timer_;
  wait* wait_ = nullptr;  // outlives us until the reactor lets go of it
};

}  // namespace hawser::detail
