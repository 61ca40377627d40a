// SPDX-License-Identifier: Apache-2.0
// hawser as a user would run it: one coroutine a channel, plain send and recv, credit and headers
// on, default options, one worker in each process.
#include <hawser/hawser.hpp>

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "bench.hpp"

namespace {

using bench::client_seat;
using bench::note;
using bench::server_seat;
using hawser::task;

using small_message = std::array<std::byte, bench::small_bytes>;
using pick = hawser::channel& (hawser::link::*)() const noexcept;

constexpr pick rpc = &hawser::link::rpc;
constexpr pick stream = &hawser::link::stream;
constexpr pick bulk = &hawser::link::bulk;

// A plain send: the channel copies the bytes before the await suspends or completes.
auto send(hawser::channel& to, small_message& message, note written) {
  bench::write_note(message, written);
  return to.send(message);
}

note note_of(const std::optional<hawser::message>& received) {
  if (!received) throw std::runtime_error("the server finished the channel");
  return bench::note_in(received->bytes());
}

// ---- the two processes ------------------------------------------------------------------------

template <pick Channel, auto Serve>
task<void> serve_link(hawser::listener listener) {
  const auto link = co_await listener.accept();
  co_await Serve((link.*Channel)());
}

template <pick Channel, auto Serve>
void serve(server_seat& seat) {
  hawser::runtime runtime({.threads = 1});
  const bool tcp = seat.via() == bench::road::tcp;
  auto listener = hawser::listen(runtime, tcp ? "tcp://127.0.0.1:0" : "unix:" + seat.unix_path());
  seat.announce(listener.uri());
  hawser::run(runtime, serve_link<Channel, Serve>, std::move(listener));
}

template <pick Channel, auto Call>
task<void> call_link(client_seat& seat) {
  const auto link = co_await hawser::connect(seat.address());
  co_await Call((link.*Channel)(), seat);
  co_await link.close();
}

template <pick Channel, auto Call>
void call(client_seat& seat) {
  hawser::runtime runtime({.threads = 1});
  hawser::run(runtime, call_link<Channel, Call>, std::ref(seat));
}

// ---- echo -------------------------------------------------------------------------------------

task<void> echo(hawser::channel& channel) {
  while (auto message = co_await channel.recv()) co_await channel.send(std::move(*message));
}

task<void> time_round_trips(hawser::channel& channel, client_seat& seat) {
  small_message message{};
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    auto before = bench::clock::now();
    for (std::uint64_t i = 0; i < count; ++i) {
      co_await send(channel, message, {++number, 0});
      const auto answer = co_await channel.recv();
      bench::expect_number(number, note_of(answer).number);
      const auto now = bench::clock::now();
      seat.record(now - before);
      before = now;
    }
  }
}

task<void> echo_window(hawser::channel& channel, client_seat& seat) {
  small_message message{};
  while (const auto count = seat.next_round()) {
    std::uint64_t sent = 0;
    while (sent < std::min(count, bench::window)) co_await send(channel, message, {sent++, 0});
    for (std::uint64_t received = 0; received < count; ++received) {
      const auto answer = co_await channel.recv();
      bench::expect_number(received, note_of(answer).number);
      if (sent < count) co_await send(channel, message, {sent++, 0});
    }
  }
}

// ---- one way ----------------------------------------------------------------------------------

task<void> count_messages(hawser::channel& channel) {
  small_message reply{};
  bench::tally tally;
  while (const auto message = co_await channel.recv()) {
    const auto answer = tally.add(bench::note_in(message->bytes()));
    if (answer) co_await send(channel, reply, *answer);
  }
}

task<void> send_oneway(hawser::channel& channel, client_seat& seat) {
  small_message message{};
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      co_await send(channel, message, {i, i + 1 == count ? 1U : 0U});
    }
    const auto answer = co_await channel.recv();
    bench::expect_number(count, note_of(answer).number);
  }
}

hawser::shared_buffer bulk_message(note written) {
  hawser::buffer message(bench::bulk_bytes);
  std::ranges::fill(message.bytes(), std::byte{});
  bench::write_note(message.bytes(), written);
  return message;
}

// The payload is shared with the channel, so that nobody copies it in user space.
task<void> send_bulk(hawser::channel& channel, client_seat& seat) {
  const auto message = bulk_message({0, 0});
  const auto last = bulk_message({0, 1});
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 1; i < count; ++i) co_await channel.send(message);
    co_await channel.send(last);
    const auto answer = co_await channel.recv();
    bench::expect_number(count, note_of(answer).number);
  }
}

constexpr std::array entries{
    bench::entry{&bench::echo_rtt, "hawser", serve<rpc, echo>, call<rpc, time_round_trips>},
    bench::entry{&bench::echo_throughput, "hawser", serve<stream, echo>, call<stream, echo_window>},
    bench::entry{&bench::oneway_throughput, "hawser", serve<stream, count_messages>,
                 call<stream, send_oneway>},
    bench::entry{&bench::bulk_1mib, "hawser", serve<bulk, count_messages>, call<bulk, send_bulk>},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of(argc, argv, entries);
}
