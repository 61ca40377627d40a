// SPDX-License-Identifier: Apache-2.0
// hawser in an io_context: the same echo as hawser.cpp, but Asio's coroutines send and receive, on
// both ends, by hawser/asio.hpp. Nothing spins there, so it stands beside hawser with spin off.
#include <hawser/asio.hpp>
#include <hawser/hawser.hpp>

#include <array>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/use_awaitable.hpp>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "bench.hpp"

namespace {

using asio::awaitable;
using asio::use_awaitable;
using bench::client_seat;
using bench::server_seat;
using hawser::asio_runtime;
using hawser::async_start;

using small_message = std::array<std::byte, bench::small_bytes>;

void run(asio::io_context& context, awaitable<void> work) {
  std::exception_ptr failure;
  asio::co_spawn(context, std::move(work), [&](std::exception_ptr why) { failure = why; });
  context.run();
  if (failure) std::rethrow_exception(failure);
}

// ---- the server -------------------------------------------------------------------------------

awaitable<void> echo(asio_runtime& runtime, hawser::listener listener) {
  const auto link = co_await async_start(runtime, listener.accept(), use_awaitable);
  for (;;) {
    auto message = co_await async_start(runtime, link.rpc().recv(), use_awaitable);
    if (!message) break;
    co_await async_start(runtime, link.rpc().send(std::move(*message)), use_awaitable);
  }
}

void serve(server_seat& seat) {
  asio::io_context context(1);
  asio_runtime runtime(context, {.threads = 1});
  const bool tcp = seat.via() == bench::road::tcp;
  auto listener = hawser::listen(runtime, tcp ? "tcp://127.0.0.1:0" : "unix:" + seat.unix_path());
  seat.announce(listener.uri());
  run(context, echo(runtime, std::move(listener)));
}

// ---- the client -------------------------------------------------------------------------------

awaitable<void> time_round_trips(asio_runtime& runtime, client_seat& seat) {
  const auto link =
      co_await async_start(runtime, hawser::connect(seat.address()), use_awaitable);
  small_message message{};
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    auto before = bench::clock::now();
    for (std::uint64_t i = 0; i < count; ++i) {
      bench::write_note(message, {++number, 0});
      co_await async_start(runtime, link.rpc().send(message), use_awaitable);
      const auto answer = co_await async_start(runtime, link.rpc().recv(), use_awaitable);
      if (!answer) throw std::runtime_error("the server finished the channel");
      bench::expect_number(number, bench::note_in(answer->bytes()).number);
      const auto now = bench::clock::now();
      seat.record(now - before);
      before = now;
    }
  }
  co_await async_start(runtime, link.close(), use_awaitable);
}

void call(client_seat& seat) {
  asio::io_context context(1);
  asio_runtime runtime(context, {.threads = 1});
  run(context, time_round_trips(runtime, seat));
}

constexpr std::array entries{
    bench::entry{&bench::echo_rtt_sleeping, "hawser_asio", serve, call, 2},
    bench::entry{&bench::echo_rtt_one_core, "hawser_asio", serve, call},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of(argc, argv, entries);
}
