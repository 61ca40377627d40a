// SPDX-License-Identifier: Apache-2.0
// Two honest machines and what happens between them, in any order: nothing that both ends and the
// network may do makes them break the protocol, reorder a lane, or lose what an orderly end covers.
#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "fuzz/input.hpp"
#include "support/simulated_wire.hpp"

namespace {

using hawser::errc;
using hawser::wire::channel_count;
using hawser::wire::lane_count;
using hawser::wire::machine;
using hawser::wire::settings;
using hawser::wire::verdict;
using test::simulated_wire;

settings read_settings(fuzz::input& from) {
  settings made;
  made.link_id.fill(std::byte{3});
  for (auto& each : made.local.window) each = std::uint64_t{1} << (12 + from.byte() % 9);
  for (auto& each : made.local.message_bytes) each = std::uint64_t{1} << (10 + from.byte() % 11);
  made.queue_bytes = std::size_t{1} << (10 + from.byte() % 11);
  made.reassembly_bytes = std::size_t{1} << (12 + from.byte() % 11);
  if (from.byte() % 4 == 0) made.local.pipes = 1;
  return made;
}

struct side_state {
  std::array<std::uint64_t, lane_count> accepted{};  // numbers given to messages
  std::array<std::uint64_t, lane_count> taken{};     // by the other side
  std::deque<hawser::wire::inbound> held;
};

hawser::wire::hello greeting(const settings& of) {
  hawser::wire::hello made;
  made.link_id = of.link_id;
  made.limits = of.local;
  return made;
}

// Sizes that matter: around nothing, a small frame, a slice, a window.
std::size_t size_of(std::uint8_t kind, std::uint8_t detail) {
  constexpr std::array<std::size_t, 8> around{0,      60,     1000,    4090,
                                              16'000, 65'530, 200'000, 1'000'000};
  return around[kind % around.size()] + detail;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::input from(data, size);
  const settings of_client = read_settings(from);
  const settings of_server = read_settings(from);
  test::wire_habits habits;
  habits.read_max = std::size_t{1} << (from.byte() % 17);
  habits.pipe_bytes = std::size_t{1} << (9 + from.byte() % 12);
  machine client(of_client, test::simulated_start());
  machine server(of_server, greeting(of_client), test::simulated_start());
  simulated_wire wire(client, server, from.number(), habits);
  std::array<std::span<const std::byte>, 4> hello;
  static_cast<void>(client.gather(0, hello));
  client.written(0);

  std::array<side_state, 2> sides;
  bool broken_by_us = false;
  bool closed = false;
  const auto take = [&](std::size_t side, std::size_t channel) {
    auto taken = wire.at(side).take(channel);
    if (!taken) return false;
    const std::size_t lane = taken->lane;
    const std::uint64_t number = sides[1 - side].taken[lane]++;
    fuzz::require(test::has_pattern(taken->payload.bytes(), number * lane_count + lane),
                  "the next message of the lane, with its bytes");
    sides[side].held.push_back(std::move(*taken));
    return true;
  };
  const auto release = [&](std::size_t side) {
    const auto& oldest = sides[side].held.front();
    static_cast<void>(wire.at(side).release(oldest.lane, oldest.cost, oldest.reassembled));
    sides[side].held.pop_front();
  };

  while (!from.empty()) {
    const std::uint8_t what = from.byte();
    const std::size_t side = what & 1U;
    const std::size_t lane = what / 2 % lane_count;
    machine& one = wire.at(side);
    switch (what / 16) {
      case 0: case 1: case 2: case 3: {
        const std::uint8_t kind = from.byte();
        auto& number = sides[side].accepted[lane];
        auto message = test::message_of(number * lane_count + lane, size_of(kind, from.byte()));
        const verdict said = one.send(lane, message);
        if (said == verdict::accepted || said == verdict::started) ++number;
        break;
      }
      case 4: case 5: case 6:
        static_cast<void>(take(side, lane / 2));
        break;
      case 7:
        if (!sides[side].held.empty()) release(side);
        break;
      case 8:
        one.finish(lane / 2);
        break;
      case 9:
        if (what % 8 == 7) {
          one.close(wire.now());
          closed = true;
        }
        break;
      case 10:
        if (lane / 2 != 0 && client.attach_allowed(lane / 2)) wire.attach(lane / 2);
        break;
      case 11:
        if (what % 16 == 15) {
          wire.reset(0);
          broken_by_us = true;
        }
        break;
      case 12:
        static_cast<void>(wire.advance());
        break;
      default:
        for (unsigned i = from.byte(); i != 0 && wire.step(); --i) {
        }
    }
    static_cast<void>(wire.happened(0));
    static_cast<void>(wire.happened(1));
    for (std::size_t each = 0; each < lane_count; ++each) {
      fuzz::require(wire.at(side).available(each) >= 0, "credit is never negative");
    }
  }
  // Everybody takes all there is, and lets go of it: then an orderly end comes about.
  client.close(wire.now());
  closed = true;
  for (unsigned rounds = 0; rounds < 10'000; ++rounds) {
    bool moved = false;
    for (std::size_t side = 0; side < 2; ++side) {
      for (std::size_t channel = 0; channel < channel_count; ++channel) {
        while (take(side, channel)) moved = true;
      }
      while (!sides[side].held.empty()) release(side);
    }
    for (unsigned i = 0; i < 1000 && wire.step(); ++i) moved = true;
    static_cast<void>(wire.happened(0));
    static_cast<void>(wire.happened(1));
    if (client.ended() && server.ended() && !moved) break;
    if (!moved && !wire.advance()) break;
  }
  fuzz::require(client.ended() && server.ended(), "a link that is closed ends");
  for (const machine* each : {&client, &server}) {
    const auto code = each->why().code();
    fuzz::require(code != errc::protocol_violation && code != errc::limit_reached,
                  "no honest peer breaks the protocol");
  }
  if (!broken_by_us && closed && client.why().code() == errc::closed) {
    for (const auto& each : sides) {
      for (std::size_t lane = 0; lane < lane_count; ++lane) {
        fuzz::require(each.taken[lane] <= each.accepted[lane], "no more than was accepted");
      }
    }
  }
  return 0;
}
