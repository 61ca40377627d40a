// SPDX-License-Identifier: Apache-2.0
// A machine whose peer sends any bytes on any pipe, in any pieces, while its application goes on:
// it ends the link or it goes on, its memory stays bounded, and it comes to an end. It survives its
// connections, which break at any time, and its peer says anything when it comes back.
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "fuzz/input.hpp"
#include "hawser/buffer.hpp"
#include "wire/machine.hpp"

namespace {

using hawser::wire::channel_count;
using hawser::wire::lane_count;
using hawser::wire::machine;
using hawser::wire::pipe_count;
using namespace std::chrono_literals;
namespace wire = hawser::wire;

constexpr std::size_t memory_most = 2 << 20;

wire::settings small() {
  wire::settings made;
  made.local.window.fill(64 << 10);
  made.local.message_bytes.fill(256 << 10);
  made.local.frame_bytes = 64 << 10;
  made.queue_bytes = 64 << 10;
  made.reassembly_bytes = 256 << 10;
  made.pinned_bytes = 64 << 10;
  made.survive = 10s;
  made.resend = {false, true, false, true};
  return made;
}

wire::hello greeting() {
  wire::hello made;
  made.features = wire::feature::resume;
  made.limits = small().local;
  return made;
}

// What a client needs to be open, after its hello.
std::vector<std::byte> welcome() {
  wire::welcome made;
  made.features = wire::feature::resume;
  made.incarnation = 1;
  made.limits = small().local;
  return wire::encode(made);
}

// Another connection, whose peer claims to have received anything.
void reconnect(machine& offline, bool is_client, fuzz::input& from, hawser::clock::time_point now) {
  offline.leave_connection(now);
  if (is_client) {
    static_cast<void>(offline.greet({}, now));
    return;
  }
  wire::hello back = greeting();
  back.incarnation = ~std::uint64_t{0};
  for (auto& each : back.received) each = from.byte();
  offline.welcome_back(back, {}, now);
}

void receive(machine& by, std::size_t pipe, std::span<const std::byte> bytes,
             hawser::clock::time_point now) {
  const auto space = by.direct_space(pipe);
  if (!space.empty()) {
    const std::size_t direct = std::min(space.size(), bytes.size());
    std::memcpy(space.data(), bytes.data(), direct);
    by.receive_direct(pipe, direct, now);
    bytes = bytes.subspan(direct);
  }
  if (bytes.empty()) return;
  hawser::detail::block* const block = hawser::detail::allocate_block(bytes.size());
  std::memcpy(block->data(), bytes.data(), bytes.size());
  by.receive(pipe, block, bytes.size(), now);
}

void write_out(machine& by) {
  for (std::size_t pipe = 0; pipe < pipe_count; ++pipe) {
    for (unsigned i = 0; i < 8 && by.gather(pipe, 64) != 0; ++i) by.written(pipe);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::input from(data, size);
  auto now = hawser::clock::time_point(1h);
  const bool is_client = size != 0 && data[size - 1] % 2 == 1;
  std::optional<machine> made;
  if (is_client) {
    made.emplace(small(), now);
  } else {
    made.emplace(small(), greeting(), now);
  }
  machine& server = *made;
  if (is_client) receive(server, 0, welcome(), now);
  std::vector<wire::inbound> held;
  std::vector<std::byte> payload(2000);
  while (!from.empty()) {
    const std::uint8_t what = from.byte();
    const std::size_t pipe = what % pipe_count;
    const std::size_t channel = what / 16 % channel_count;
    const std::size_t lane = what / 8 % lane_count;
    switch (what / 4 % 4) {
      case 0:
      case 1:
        receive(server, what % 8 < 6 ? 0 : pipe, from.bytes(1 + from.byte() * 4U), now);
        break;
      case 2:
        if (auto taken = server.take(channel)) {
          held.push_back(std::move(*taken));
        } else if (!held.empty()) {
          static_cast<void>(server.release(held.back().lane, held.back().cost,
                                           held.back().reassembled));
          held.pop_back();
        }
        break;
      default:
        if (what % 16 == 15) {
          now += std::chrono::milliseconds(from.byte() * 100);
          server.tick(now);
        } else if (what % 16 == 14) {
          if (server.attach_allowed(1 + channel % 3)) server.attached(1 + channel % 3);
        } else if (what % 16 == 13) {
          server.pipe_ended(pipe, {});
        } else {
          static_cast<void>(server.send(lane, std::span(payload).first(from.byte() * 7U), {}));
        }
    }
    static_cast<void>(server.take_happenings());
    if (server.offline() && !server.greeting() && !server.ended()) {
      reconnect(server, is_client, from, now);
    }
    write_out(server);
    fuzz::require(server.memory_in_use() <= memory_most, "the memory of a link is bounded");
    for (std::size_t each = 0; each < lane_count; ++each) {
      const auto counts = server.counts(each);
      fuzz::require(counts.consumed <= counts.sent && counts.sent <= counts.accepted,
                    "no more is consumed than sent, nor sent than accepted");
      fuzz::require(counts.taken <= counts.received, "no more is taken than was received");
    }
  }
  server.fail(hawser::errc::link_lost, "the end");
  fuzz::require(server.ended(), "it ends");
  while (true) {
    bool any = false;
    for (std::size_t channel = 0; channel < channel_count; ++channel) {
      any = server.take(channel).has_value() || any;
    }
    if (!any) break;
  }
  server.drop_output();
  return 0;
}
