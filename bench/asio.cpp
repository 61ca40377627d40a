// SPDX-License-Identifier: Apache-2.0
// Asio's C++20 coroutines. `asio` is what its tutorials lead to: one async_read and one
// async_write a message. `asio_batched` packs and cuts messages by hand.
#include <asio.hpp>

#include <algorithm>
#include <array>
#include <exception>
#include <stdexcept>
#include <vector>

#include "batch.hpp"
#include "bench.hpp"
#include "sockets.hpp"

namespace {

using asio::awaitable;
using asio::use_awaitable;
using bench::client_seat;
using bench::note;
using bench::server_seat;
using socket = asio::generic::stream_protocol::socket;

using small_message = std::array<std::byte, bench::small_bytes>;

socket adopt(asio::io_context& context, bench::stream_socket made, bench::road via) {
  const auto protocol = via == bench::road::tcp
                            ? asio::generic::stream_protocol(asio::ip::tcp::v4())
                            : asio::generic::stream_protocol(asio::local::stream_protocol());
  return {context, protocol, made.release()};
}

void run(asio::io_context& context, awaitable<void> work) {
  std::exception_ptr failure;
  asio::co_spawn(context, std::move(work), [&](std::exception_ptr why) { failure = why; });
  context.run();
  if (failure) std::rethrow_exception(failure);
}

// A client that leaves ends the server in order.
template <auto Work>
void serve(server_seat& seat) try {
  asio::io_context context(1);
  run(context, Work(adopt(context, accept_client(seat), seat.via())));
} catch (const asio::system_error& problem) {
  if (problem.code() != asio::error::eof) throw;
}

template <auto Work>
void call(client_seat& seat) {
  asio::io_context context(1);
  run(context, Work(adopt(context, connect_to_server(seat), seat.via()), seat));
}

// ---- many connections -------------------------------------------------------------------------

std::vector<socket> adopt_all(asio::io_context& context, std::vector<bench::stream_socket> made,
                              bench::road via) {
  std::vector<socket> sockets;
  for (auto& each : made) sockets.push_back(adopt(context, std::move(each), via));
  return sockets;
}

// Runs all beside each other until all have ended; the first failure is thrown.
void run_all(asio::io_context& context, std::vector<awaitable<void>> works) {
  std::exception_ptr failure;
  for (auto& work : works) {
    asio::co_spawn(context, std::move(work), [&](std::exception_ptr why) {
      if (why && !failure) failure = why;
    });
  }
  context.restart();
  context.run();
  if (failure) std::rethrow_exception(failure);
}

template <auto Work>
void serve_all(server_seat& seat) try {
  asio::io_context context(1);
  std::vector<awaitable<void>> works;
  for (auto& client : adopt_all(context, accept_clients(seat), seat.via())) {
    works.push_back(Work(std::move(client)));
  }
  run_all(context, std::move(works));
} catch (const asio::system_error& problem) {
  if (problem.code() != asio::error::eof) throw;
}

template <auto Work>
void call_all(client_seat& seat) {
  asio::io_context context(1);
  auto servers = adopt_all(context, connect_all_to_server(seat), seat.via());
  while (const auto count = seat.next_round()) {
    std::vector<awaitable<void>> works;
    for (auto& server : servers) {
      const auto share = bench::share_of(count, servers.size(), works.size());
      works.push_back(Work(server, share, seat.asked().in_flight));
    }
    run_all(context, std::move(works));
  }
}

// ---- messages ---------------------------------------------------------------------------------

awaitable<std::size_t> send(socket& to, small_message& message, note written) {
  bench::write_note(message, written);
  return asio::async_write(to, asio::buffer(message), use_awaitable);
}

awaitable<std::size_t> receive(socket& from, small_message& message) {
  return asio::async_read(from, asio::buffer(message), use_awaitable);
}

// ---- echo, a read and a write a message -------------------------------------------------------

awaitable<void> echo(socket client) {
  small_message message{};
  for (;;) {
    co_await receive(client, message);
    co_await asio::async_write(client, asio::buffer(message), use_awaitable);
  }
}

awaitable<void> time_round_trips(socket server, client_seat& seat) {
  small_message message{};
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    auto before = bench::clock::now();
    for (std::uint64_t i = 0; i < count; ++i) {
      co_await send(server, message, {++number, 0});
      co_await receive(server, message);
      bench::expect_number(number, bench::note_in(message).number);
      const auto now = bench::clock::now();
      seat.record(now - before);
      before = now;
    }
  }
}

awaitable<void> echo_messages(socket& server, std::uint64_t count, std::uint64_t in_flight) {
  small_message message{};
  std::uint64_t sent = 0;
  while (sent < std::min(count, in_flight)) co_await send(server, message, {sent++, 0});
  for (std::uint64_t received = 0; received < count; ++received) {
    co_await receive(server, message);
    bench::expect_number(received, bench::note_in(message).number);
    if (sent < count) co_await send(server, message, {sent++, 0});
  }
}

awaitable<void> echo_window(socket server, client_seat& seat) {
  while (const auto count = seat.next_round()) {
    co_await echo_messages(server, count, seat.asked().in_flight);
  }
}

// ---- echo, batched by hand --------------------------------------------------------------------

awaitable<void> echo_batches(socket client) {
  std::vector<std::byte> batch(bench::batch_bytes);
  for (;;) {
    const auto got = co_await client.async_read_some(asio::buffer(batch), use_awaitable);
    co_await asio::async_write(client, asio::buffer(batch, got), use_awaitable);
  }
}

asio::mutable_buffer buffer_of(std::span<std::byte> bytes) {
  return {bytes.data(), bytes.size()};
}
asio::const_buffer buffer_of(std::span<const std::byte> bytes) {
  return {bytes.data(), bytes.size()};
}

awaitable<void> echo_in_batches(socket& server, std::uint64_t count, std::uint64_t in_flight) {
  bench::inbox inbox;
  bench::outbox outbox;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  while (received < count) {
    while (sent < count && sent - received < in_flight) outbox.add({sent++, 0});
    co_await asio::async_write(server, buffer_of(outbox.bytes()), use_awaitable);
    outbox.clear();
    const auto got = co_await server.async_read_some(buffer_of(inbox.room()), use_awaitable);
    inbox.filled(got);
    while (!inbox.empty()) bench::expect_number(received++, inbox.take().number);
  }
}

awaitable<void> echo_window_in_batches(socket server, client_seat& seat) {
  while (const auto count = seat.next_round()) {
    co_await echo_in_batches(server, count, seat.asked().in_flight);
  }
}

// ---- one way ----------------------------------------------------------------------------------

awaitable<void> count_messages(socket client) {
  small_message message{};
  bench::tally tally;
  for (;;) {
    co_await receive(client, message);
    const auto answer = tally.add(bench::note_in(message));
    if (answer) co_await send(client, message, *answer);
  }
}

awaitable<void> send_oneway(socket server, client_seat& seat) {
  small_message message{};
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      co_await send(server, message, {i, i + 1 == count ? 1U : 0U});
    }
    co_await receive(server, message);
    bench::expect_number(count, bench::note_in(message).number);
  }
}

awaitable<void> count_batches(socket client) {
  small_message message{};
  bench::inbox inbox;
  bench::tally tally;
  for (;;) {
    const auto got = co_await client.async_read_some(buffer_of(inbox.room()), use_awaitable);
    inbox.filled(got);
    while (!inbox.empty()) {
      if (const auto answer = tally.add(inbox.take())) co_await send(client, message, *answer);
    }
  }
}

awaitable<void> send_oneway_in_batches(socket server, client_seat& seat) {
  small_message message{};
  bench::outbox outbox;
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const bool last = i + 1 == count;
      outbox.add({i, last ? 1U : 0U});
      if (!outbox.full() && !last) continue;
      co_await asio::async_write(server, buffer_of(outbox.bytes()), use_awaitable);
      outbox.clear();
    }
    co_await receive(server, message);
    bench::expect_number(count, bench::note_in(message).number);
  }
}

// ---- 1 MiB messages ---------------------------------------------------------------------------

awaitable<void> count_bulk(socket client) {
  std::vector<std::byte> message(bench::bulk_bytes);
  small_message reply{};
  bench::tally tally;
  for (;;) {
    co_await asio::async_read(client, asio::buffer(message), use_awaitable);
    const auto answer = tally.add(bench::note_in(message));
    if (answer) co_await send(client, reply, *answer);
  }
}

awaitable<void> send_bulk(socket server, client_seat& seat) {
  std::vector<std::byte> message(bench::bulk_bytes);
  small_message reply{};
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      bench::write_note(message, {i, i + 1 == count ? 1U : 0U});
      co_await asio::async_write(server, asio::buffer(message), use_awaitable);
    }
    co_await receive(server, reply);
    bench::expect_number(count, bench::note_in(reply).number);
  }
}

// ---- a load by the clock ----------------------------------------------------------------------

awaitable<void> send_on_time(socket& server, const bench::schedule& schedule,
                             std::uint64_t count) {
  asio::steady_timer timer(server.get_executor());
  small_message message{};
  auto now = bench::clock::now();
  for (std::uint64_t sent = 0; sent < count; ++sent) {
    const auto due = schedule.due(sent);
    if (now < due) now = bench::clock::now();
    if (now < due) {
      timer.expires_at(due);
      co_await timer.async_wait(use_awaitable);
      now = bench::clock::now();
    }
    co_await send(server, message, {sent, 0});
  }
}

awaitable<void> record_answers(socket& server, const bench::schedule& schedule,
                               std::uint64_t count, client_seat& seat) {
  small_message message{};
  for (std::uint64_t received = 0; received < count; ++received) {
    co_await receive(server, message);
    bench::expect_number(received, bench::note_in(message).number);
    seat.record(bench::clock::now() - schedule.due(received));
  }
}

void offer_load(client_seat& seat) {
  asio::io_context context(1);
  auto server = adopt(context, connect_to_server(seat), seat.via());
  while (const auto count = seat.next_round()) {
    const auto schedule = seat.schedule();
    std::vector<awaitable<void>> works;
    works.push_back(send_on_time(server, schedule, count));
    works.push_back(record_answers(server, schedule, count, seat));
    run_all(context, std::move(works));
  }
}

constexpr std::array entries{
    bench::entry{&bench::echo_rtt, "asio", serve<echo>, call<time_round_trips>},
    bench::entry{&bench::echo_throughput, "asio", serve<echo>, call<echo_window>},
    bench::entry{&bench::echo_throughput, "asio_batched", serve<echo_batches>,
                 call<echo_window_in_batches>},
    bench::entry{&bench::echo_32, "asio_batched", serve_all<echo_batches>,
                 call_all<echo_in_batches>},
    bench::entry{&bench::echo_256, "asio", serve_all<echo>, call_all<echo_messages>},
    bench::entry{&bench::oneway_throughput, "asio", serve<count_messages>, call<send_oneway>},
    bench::entry{&bench::oneway_throughput, "asio_batched", serve<count_batches>,
                 call<send_oneway_in_batches>},
    bench::entry{&bench::bulk_1mib, "asio", serve<count_bulk>, call<send_bulk>},
    bench::entry{&bench::load, "asio", serve<echo>, offer_load},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of(argc, argv, entries);
}
