// SPDX-License-Identifier: Apache-2.0
#pragma once

// A wire machine whose peer is a test that writes its frames by hand.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "support/simulated_wire.hpp"
#include "wire/machine.hpp"

namespace test {

using bytes = std::vector<std::byte>;

[[nodiscard]] bytes bytes_of(std::string_view text);
[[nodiscard]] bytes operator+(bytes left, std::span<const std::byte> right);

/// A frame of any header: the length, the header as given, the payload where it belongs, padding.
[[nodiscard]] bytes frame_of(std::span<const std::byte> header,
                             std::span<const std::byte> payload = {});
/// A data frame.
[[nodiscard]] bytes data_frame(const hawser::wire::data_header& header,
                               std::span<const std::byte> payload);

/// A frame that the machine has written.
struct seen_frame {
  hawser::wire::kind kind{};
  bytes header;   // from after the length, padding included
  bytes payload;  // of data
  hawser::wire::data_header data;
  std::size_t size = 0;  // in the pipe
};

class raw_peer {
 public:
  using machine = hawser::wire::machine;

  /// The machine under test has been connected to, by the test.
  static raw_peer of_server(const hawser::wire::settings& settings,
                            const hawser::wire::hello& greeting = {});
  /// The machine under test connects, to the test. Its hello waits in frames().
  static raw_peer of_client(const hawser::wire::settings& settings);

  [[nodiscard]] machine& under_test() noexcept { return *machine_; }
  machine* operator->() noexcept { return machine_.get(); }

  /// The machine receives these bytes, `split` at a time.
  void feed(std::span<const std::byte> from, std::size_t pipe = 0,
            std::size_t split = std::size_t{1} << 30);
  void pass(hawser::clock::duration time) { now_ += time; }
  /// The clock of feed() and tick().
  [[nodiscard]] hawser::clock::time_point now() const noexcept { return now_; }
  void tick() { machine_->tick(now_); }
  /// Everything the machine wants to write on the pipe now, as written.
  [[nodiscard]] std::vector<seen_frame> frames(std::size_t pipe = 0);
  /// The same as bytes.
  [[nodiscard]] bytes output(std::size_t pipe = 0);
  /// The only frame of the kind among frames(), or nothing.
  [[nodiscard]] std::optional<seen_frame> only(hawser::wire::kind what);
  /// The code of the CLOSE that is the last frame the machine writes, or nothing.
  [[nodiscard]] std::optional<hawser::errc> close_code();

 private:
  explicit raw_peer(std::unique_ptr<machine> under_test) : machine_(std::move(under_test)) {}

  std::unique_ptr<machine> machine_;
  hawser::clock::time_point now_ = simulated_start();
};

/// Splits what was written on a pipe into frames.
[[nodiscard]] std::vector<seen_frame> parse_frames(std::span<const std::byte> all);

}  // namespace test
