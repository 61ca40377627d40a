// SPDX-License-Identifier: Apache-2.0
#pragma once

// Two wire machines and the pipes between them, in memory, with a clock of their own: everything
// that a network does to a link, decided by a seed.

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "wire/machine.hpp"

namespace test {

/// Numbers that follow from a seed.
class dice {
 public:
  explicit dice(std::uint64_t seed) : engine_(seed) {}

  /// Shape: `end` > 0; the result is below it.
  [[nodiscard]] std::uint64_t below(std::uint64_t end) { return engine_() % end; }
  [[nodiscard]] std::uint64_t between(std::uint64_t low, std::uint64_t high) {
    return low + below(high - low + 1);
  }
  [[nodiscard]] bool one_in(std::uint64_t times) { return below(times) == 0; }
  [[nodiscard]] std::uint64_t any() { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

/// How the simulated pipes treat the bytes.
struct wire_habits {
  std::size_t read_max = 64 << 10;         ///< most bytes that one read delivers
  std::size_t pipe_bytes = 256 << 10;      ///< under way in one direction; then writes stall
  std::chrono::microseconds delay_max{0};  ///< drawn anew for each write
  std::size_t pieces_max = 64;             ///< most pieces that one write gathers
  bool direct = true;                      ///< some reads go where the machine wants the bytes
};

/// Joins two machines as two links would: gathers, splits, delays, delivers, ticks and attaches.
///
/// Shape: one step is one small action of one side, chosen by the dice; advance() moves the clock
///        when nothing more can happen at the present instant.
class simulated_wire {
 public:
  using machine = hawser::wire::machine;
  using time = hawser::clock::time_point;

  static constexpr std::size_t client = 0;
  static constexpr std::size_t server = 1;
  static constexpr std::size_t pipes = hawser::wire::pipe_count;

  simulated_wire(machine& connecting, machine& accepting, std::uint64_t seed, wire_habits habits);

  /// Makes pipe `channel`, as a link does when attaching has succeeded: the server's side first.
  void attach(std::size_t channel);
  /// Gives both sides a segment, as a link does once the server has taken it. Pipes that are made
  /// from now on are rings: the server learns of them by MOVED, and nobody reads one before.
  void share();
  /// Both sides find the pipe broken; what was under way is lost.
  void reset(std::size_t pipe);
  /// What `side` writes from now on goes nowhere, and nobody is told.
  void swallow(std::size_t side) { sides_[side].swallowed = true; }

  /// False: nothing can happen until the clock moves.
  bool step();
  /// To the next instant at which something is due. False: nothing ever will.
  bool advance();
  /// Until nothing can happen at any time but keep-alive.
  void settle();

  [[nodiscard]] time now() const noexcept { return now_; }
  [[nodiscard]] machine& at(std::size_t side) noexcept { return *sides_[side].machine_; }
  /// The side's machine has ended and its last bytes are written.
  [[nodiscard]] bool gone(std::size_t side) const noexcept { return sides_[side].gone; }
  /// What a side's machine reported since the last call.
  [[nodiscard]] hawser::wire::happenings happened(std::size_t side) noexcept;
  /// Bytes that `side` has put into a pipe so far.
  [[nodiscard]] std::uint64_t carried(std::size_t side, std::size_t pipe) const noexcept {
    return sides_[side].out[pipe].carried;
  }

 private:
  struct burst {
    time due;
    std::vector<std::byte> bytes;
    std::size_t taken = 0;
  };
  struct direction {                                  // from one side to the other, in one pipe
    std::vector<std::span<const std::byte>> writing;  // gathered and not yet copied
    bool in_write = false;
    std::deque<burst> under_way;
    std::size_t bytes_under_way = 0;
    std::uint64_t carried = 0;
    bool shut = false;  // the writer is gone: end of file behind what is under way
    bool end_told = false;
  };
  struct side_state {
    machine* machine_ = nullptr;
    std::array<direction, pipes> out;
    std::array<bool, pipes> open{true};       // this side knows the pipe
    std::array<bool, pipes> ring_readable{};  // MOVED was read
    bool swallowed = false;
    bool gone = false;
    hawser::wire::happenings collected;
  };

  bool write(std::size_t side, std::size_t pipe);
  bool read(std::size_t side, std::size_t pipe);
  bool tick(std::size_t side);
  bool leave(std::size_t side);
  void collect(std::size_t side);
  [[nodiscard]] bool has_rings_to_drain(std::size_t side) const;
  [[nodiscard]] bool can_read(std::size_t side, std::size_t pipe) const;
  [[nodiscard]] time next_arrival() const;

  std::array<side_state, 2> sides_;
  std::array<std::optional<time>, pipes> client_attaches_;  // when the client learns of its pipe
  bool shared_ = false;
  wire_habits habits_;
  dice dice_;
  time now_;
};

/// The instant at which simulated time begins.
[[nodiscard]] inline hawser::clock::time_point simulated_start() {
  return hawser::clock::time_point(std::chrono::hours(1));
}

/// Bytes that follow from a number: two messages that differ in it differ in their bytes.
[[nodiscard]] std::vector<std::byte> pattern(std::uint64_t number, std::size_t bytes);
[[nodiscard]] hawser::message message_of(std::uint64_t number, std::size_t bytes,
                                         hawser::message_header header = {});
[[nodiscard]] bool has_pattern(std::span<const std::byte> bytes, std::uint64_t number);

}  // namespace test
