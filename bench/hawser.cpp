// SPDX-License-Identifier: Apache-2.0
// hawser as a user would run it: one coroutine a channel, plain send and recv, credit and headers
// on, default options, one worker in each process.
#include <hawser/hawser.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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

/// How a worker waits: as it does by default, or asleep at once.
enum class waits : std::uint8_t { by_default, asleep };

hawser::executor_config config_of(waits how) {
  hawser::executor_config config{.threads = 1};
  if (how == waits::asleep) config.spin.how = hawser::spin_policy::mode::off;
  return config;
}

/// What a link asks for: how many sockets, and whether its question goes along with its hello.
enum class link_kind : std::uint8_t {
  by_default,
  one_socket,
  one_socket_early,
  without_loans,
  passing_files
};

std::string address_of(const client_seat& seat, link_kind wanted) {
  switch (wanted) {
    case link_kind::by_default:
      break;
    case link_kind::one_socket:
      return seat.address() + "?channels=1";
    case link_kind::one_socket_early:
      return seat.address() + "?channels=1&early=1";
    case link_kind::without_loans:
      return seat.address() + "?arena_bytes=0";
    case link_kind::passing_files:
      return seat.address() + "?pass_files=1";
  }
  return seat.address();
}

// Over unix only sockets are asked for: what becomes of a link by itself is a road of its own.
std::string address_of(const server_seat& seat) {
  switch (seat.via()) {
    case bench::road::tcp:
      break;
    case bench::road::unix_socket:
      return "unix:" + seat.unix_path() + "?share_memory=0";
    case bench::road::shared_memory:
      return "shm:" + seat.unix_path() + "?pass_files=1";  // which the client decides, too
  }
  return "tcp://127.0.0.1:0";
}

hawser::listener listen(hawser::runtime& runtime, const server_seat& seat) {
  auto listener = hawser::listen(runtime, address_of(seat));
  seat.announce(listener.uri());
  return listener;
}

template <auto Serve, waits How = waits::by_default>
void serve_links(server_seat& seat) {
  hawser::runtime runtime(config_of(How));
  hawser::run(runtime, Serve, listen(runtime, seat), std::cref(seat));
}

template <pick Channel, auto Serve>
task<void> serve_channel(hawser::listener listener, const server_seat&) {
  const auto link = co_await listener.accept();
  co_await Serve((link.*Channel)());
}

template <pick Channel, auto Serve, waits How = waits::by_default>
void serve(server_seat& seat) {
  serve_links<serve_channel<Channel, Serve>, How>(seat);
}

template <auto Call, waits How = waits::by_default>
void call_links(client_seat& seat) {
  hawser::runtime runtime(config_of(How));
  hawser::run(runtime, Call, std::ref(seat));
}

template <pick Channel, auto Call, link_kind Wanted>
task<void> call_channel(client_seat& seat) {
  const auto link = co_await hawser::connect(address_of(seat, Wanted));
  co_await Call((link.*Channel)(), seat);
  co_await link.close();
}

template <pick Channel, auto Call, waits How = waits::by_default,
          link_kind Wanted = link_kind::by_default>
void call(client_seat& seat) {
  call_links<call_channel<Channel, Call, Wanted>, How>(seat);
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

task<void> echo_messages(hawser::channel& channel, std::uint64_t count, std::uint64_t in_flight) {
  small_message message{};
  std::uint64_t sent = 0;
  while (sent < std::min(count, in_flight)) co_await send(channel, message, {sent++, 0});
  for (std::uint64_t received = 0; received < count; ++received) {
    const auto answer = co_await channel.recv();
    bench::expect_number(received, note_of(answer).number);
    if (sent < count) co_await send(channel, message, {sent++, 0});
  }
}

task<void> echo_window(hawser::channel& channel, client_seat& seat) {
  while (const auto count = seat.next_round()) {
    co_await echo_messages(channel, count, seat.asked().in_flight);
  }
}

// ---- many links -------------------------------------------------------------------------------

template <pick Channel>
task<void> echo_link(hawser::link link) {
  co_await echo((link.*Channel)());
}

template <pick Channel>
task<void> serve_all(hawser::listener listener, const server_seat& seat) {
  std::vector<task<void>> links;
  while (links.size() < seat.asked().connections) {
    auto link = co_await listener.accept();
    links.push_back(echo_link<Channel>(std::move(link)));
  }
  co_await hawser::when_all(std::move(links));
}

template <pick Channel>
task<void> call_all(client_seat& seat) {
  const auto& asked = seat.asked();
  std::vector<hawser::link> links;
  while (links.size() < asked.connections) {
    auto link = co_await hawser::connect(seat.address());
    links.push_back(std::move(link));
  }
  while (const auto count = seat.next_round()) {
    std::vector<task<void>> parts;
    for (const auto& link : links) {
      const auto share = bench::share_of(count, asked.connections, parts.size());
      parts.push_back(echo_messages((link.*Channel)(), share, asked.in_flight));
    }
    co_await hawser::when_all(std::move(parts));
  }
}

// ---- a link a message -------------------------------------------------------------------------

task<void> serve_newcomers(hawser::scope& clients, hawser::listener listener, const server_seat&) {
  for (;;) {
    auto link = co_await listener.accept();
    clients.serve(echo_link<rpc>(std::move(link)));
  }
}

// An early link asks as raw sockets do: without waiting for a word of the server first.
template <link_kind Wanted>
task<void> call_and_leave(client_seat& seat) {
  const auto address = address_of(seat, Wanted);
  small_message message{};
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto before = bench::clock::now();
      const auto link = co_await hawser::connect(address);
      co_await send(link.rpc(), message, {++number, 0});
      const auto answer = co_await link.rpc().recv();
      seat.record(bench::clock::now() - before);
      bench::expect_number(number, note_of(answer).number);
      co_await link.close();
    }
  }
}

// ---- a load by the clock ----------------------------------------------------------------------

task<void> send_on_time(hawser::channel& channel, const bench::schedule& schedule,
                        std::uint64_t count) {
  small_message message{};
  auto now = bench::clock::now();
  for (std::uint64_t sent = 0; sent < count; ++sent) {
    const auto due = schedule.due(sent);
    if (now < due) now = bench::clock::now();
    if (now < due) {
      co_await hawser::this_task::sleep_until(due);
      now = bench::clock::now();
    }
    co_await send(channel, message, {sent, 0});
  }
}

task<void> record_answers(hawser::channel& channel, const bench::schedule& schedule,
                          std::uint64_t count, client_seat& seat) {
  for (std::uint64_t received = 0; received < count; ++received) {
    const auto answer = co_await channel.recv();
    bench::expect_number(received, note_of(answer).number);
    seat.record(bench::clock::now() - schedule.due(received));
  }
}

task<void> offer_load(hawser::channel& channel, client_seat& seat) {
  while (const auto count = seat.next_round()) {
    const auto schedule = seat.schedule();
    co_await hawser::when_all(send_on_time(channel, schedule, count),
                              record_answers(channel, schedule, count, seat));
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

constexpr std::size_t batch_most = 32;

task<void> count_batches(hawser::channel& channel) {
  small_message reply{};
  bench::tally tally;
  for (;;) {
    const auto batch = co_await channel.recv_batch(4 * batch_most);
    if (batch.empty()) co_return;
    for (const auto& message : batch) {
      const auto answer = tally.add(bench::note_in(message.bytes()));
      if (answer) co_await send(channel, reply, *answer);
    }
  }
}

task<void> send_batches(hawser::channel& channel, client_seat& seat) {
  std::array<small_message, batch_most> messages{};
  std::array<std::span<const std::byte>, batch_most> batch;
  std::copy(messages.begin(), messages.end(), batch.begin());
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count;) {
      std::size_t filled = 0;
      for (; i < count && filled < batch_most; ++i) {
        bench::write_note(messages[filled++], {i, i + 1 == count ? 1U : 0U});
      }
      co_await channel.send_batch(std::span(batch).first(filled));
    }
    const auto answer = co_await channel.recv();
    bench::expect_number(count, note_of(answer).number);
  }
}

// Each in a block of its own.
task<void> send_made_batches(hawser::channel& channel, client_seat& seat) {
  std::vector<hawser::message> batch;
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count;) {
      for (; i < count && batch.size() < batch_most; ++i) {
        hawser::buffer bytes(bench::small_bytes);
        bench::write_note(bytes.bytes(), {i, i + 1 == count ? 1U : 0U});
        batch.emplace_back(hawser::shared_buffer(std::move(bytes)));
      }
      co_await channel.send_batch(batch);
      batch.clear();
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

// Written in the place where the peer reads it: every byte, by both.
task<void> lend_bulk(hawser::channel& channel, client_seat& seat) {
  const auto content = bulk_message({0, 0});
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 1; i <= count; ++i) {
      hawser::buffer lent = co_await channel.loan(bench::bulk_bytes);
      std::memcpy(lent.data(), content.data(), content.size());
      bench::write_note(lent.bytes(), {0, i == count ? 1U : 0U});
      co_await channel.send(std::move(lent));
    }
    const auto answer = co_await channel.recv();
    bench::expect_number(count, note_of(answer).number);
  }
}

// As fast as memory is read: no sum waits for another.
std::uint64_t sum_of(std::span<const std::uint64_t> numbers) {
  std::array<std::uint64_t, 8> sums{};
  for (std::size_t i = 0; i < numbers.size(); i += sums.size()) {
    for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += numbers[i + j];
  }
  return std::accumulate(sums.begin(), sums.end(), std::uint64_t{0});
}

task<void> read_bulk(hawser::channel& channel) {
  small_message reply{};
  bench::tally tally;
  while (const auto message = co_await channel.recv()) {
    const note read = bench::note_in(message->bytes());
    if (sum_of(message->as<std::uint64_t>()) != read.number + read.last)
      throw std::runtime_error("other bytes than were written");
    const auto answer = tally.add(read);
    if (answer) co_await send(channel, reply, *answer);
  }
}

// The same bytes again and again: only where they lie is sent.
task<void> refer_to_bulk(hawser::channel& channel, client_seat& seat) {
  const auto lent = [&](note written) -> task<hawser::shared_buffer> {
    hawser::buffer bytes = co_await channel.loan(bench::bulk_bytes);
    bench::write_note(bytes.bytes(), written);
    co_return bytes;
  };
  const hawser::shared_buffer message = co_await lent({0, 0});
  const hawser::shared_buffer last = co_await lent({0, 1});
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 1; i < count; ++i) co_await channel.send(message);
    co_await channel.send(last);
    const auto answer = co_await channel.recv();
    bench::expect_number(count, note_of(answer).number);
  }
}

// Of a file that is in memory: read into loans, mapped and sent, or handed over.
task<void> send_file(hawser::channel& channel, client_seat& seat) {
  const bench::bulk_file file;
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 1; i <= count; ++i) {
      const std::uint64_t offset = i == count ? bench::bulk_file::last : bench::bulk_file::first;
      co_await channel.send_file(file.descriptor(), offset, bench::bulk_bytes);
    }
    const auto answer = co_await channel.recv();
    bench::expect_number(count, note_of(answer).number);
  }
}

// ---- pings beside bulk ------------------------------------------------------------------------

task<void> serve_both(hawser::listener listener, const server_seat&) {
  const auto link = co_await listener.accept();
  co_await hawser::when_all(echo(link.rpc()), count_messages(link.bulk()));
}

/// Pings one after the other until done.
struct pinging {
  bool done = false;
  std::vector<bench::clock::duration> times{};
};

task<void> ping(hawser::channel& channel, pinging& state) {
  small_message message{};
  std::uint64_t number = 0;
  do {
    const auto before = bench::clock::now();
    co_await send(channel, message, {++number, 0});
    const auto answer = co_await channel.recv();
    state.times.push_back(bench::clock::now() - before);
    bench::expect_number(number, note_of(answer).number);
  } while (!state.done);
}

task<void> stay_idle(std::chrono::duration<double> length, pinging& state) {
  co_await hawser::this_task::sleep_for(
      std::chrono::duration_cast<bench::clock::duration>(length));
  state.done = true;
}

// `rate` a second; 0: as fast as they go.
task<void> stream_bulk(hawser::channel& channel, std::uint64_t count, double rate,
                       pinging& state) {
  const auto message = bulk_message({0, 0});
  const auto last = bulk_message({0, 1});
  const bench::schedule schedule(rate, bench::clock::now());
  for (std::uint64_t sent = 1; sent <= count; ++sent) {
    if (rate != 0) co_await hawser::this_task::sleep_until(schedule.due(sent));
    co_await channel.send(sent == count ? last : message);
  }
  const auto answer = co_await channel.recv();
  bench::expect_number(count, note_of(answer).number);
  state.done = true;
}

void report_times(client_seat& seat, const std::string& before, const std::string& after,
                  const pinging& pings) {
  seat.report({before + "p50" + after, "us", bench::percentile_us(pings.times, 0.50)});
  seat.report({before + "p99" + after, "us", bench::percentile_us(pings.times, 0.99)});
}

task<void> ping_beside_part(const hawser::link& link, client_seat& seat, unsigned percent,
                            double full_rate) {
  const double rate = full_rate * percent / 100;
  const auto count = static_cast<std::uint64_t>(rate * seat.wanted().count() / 4) + 1;
  pinging pings;
  const auto begin = bench::clock::now();
  co_await hawser::when_all(stream_bulk(link.bulk(), count, rate, pings),
                            ping(link.rpc(), pings));
  const std::chrono::duration<double> taken = bench::clock::now() - begin;
  const auto bytes = static_cast<double>(count * bench::bulk_bytes);
  const auto suffix = "_at_" + std::to_string(percent);
  report_times(seat, "", suffix, pings);
  seat.report({"bandwidth" + suffix, "GB/s", bytes / taken.count() / 1e9});
}

// What a ping may have to wait for: the largest piece of bulk that leaves at once. See
// src/wire/README.md.
constexpr double slice_bytes(link_kind wanted) {
  return wanted == link_kind::one_socket ? 64 << 10 : 1 << 20;
}

template <link_kind Wanted>
task<void> ping_beside_bulk(client_seat& seat) {
  const auto link = co_await hawser::connect(address_of(seat, Wanted));
  pinging idle;
  co_await hawser::when_all(stay_idle(seat.wanted() / 4, idle), ping(link.rpc(), idle));
  report_times(seat, "idle_", "", idle);

  while (const auto count = seat.next_round()) {
    pinging pings;
    co_await hawser::when_all(stream_bulk(link.bulk(), count, 0, pings), ping(link.rpc(), pings));
    for (const auto time : pings.times) seat.record(time);
  }
  const double full_rate = seat.messages_per_second();
  const double slice_us = slice_bytes(Wanted) / (full_rate * bench::bulk_bytes) * 1e6;
  const double excess = bench::percentile_us(seat.recorded(), 0.99) -
                        bench::percentile_us(idle.times, 0.99);
  seat.report({"slice_us", "us", slice_us});
  seat.report({"excess_slices", "slices", excess / slice_us});

  for (const unsigned percent : {25U, 50U, 75U}) {
    co_await ping_beside_part(link, seat, percent, full_rate);
  }
  co_await link.close();
}

// ---- round trips beside sockets ---------------------------------------------------------------

task<void> serve_memory_and_sockets(hawser::scope& clients, hawser::listener memory,
                                    hawser::listener sockets) {
  auto link = co_await memory.accept();
  clients.serve(echo_link<rpc>(std::move(link)));
  for (std::size_t i = 0; i < bench::sockets_beside; ++i) {
    auto other = co_await sockets.accept();
    clients.serve(echo_link<rpc>(std::move(other)));
  }
}

void serve_both_roads(server_seat& seat) {
  hawser::runtime runtime(config_of(waits::by_default));
  auto memory = hawser::listen(runtime, address_of(seat));
  auto sockets = hawser::listen(runtime, "unix:" + seat.unix_path() + "2?share_memory=0");
  seat.announce(memory.uri() + " " + sockets.uri());
  hawser::run(runtime, serve_memory_and_sockets, std::move(memory), std::move(sockets));
}

/// What is offered to many links until done.
struct offered_beside {
  bool done = false;
  std::uint64_t answered = 0;
};

// Each is due by its own clock, and who is late goes on from there.
task<void> offer_beside(hawser::channel& channel, std::size_t index, offered_beside& state) {
  constexpr bench::clock::duration period = bench::period_beside;
  small_message message{};
  auto due = bench::clock::now() + period * index / bench::sockets_beside;
  for (std::uint64_t number = 0; !state.done; ++number, due += period) {
    co_await hawser::this_task::sleep_until(due);
    co_await send(channel, message, {number, 0});
    const auto answer = co_await channel.recv();
    bench::expect_number(number, note_of(answer).number);
    ++state.answered;
  }
}

task<void> time_beside(hawser::channel& channel, client_seat& seat, offered_beside& state) {
  co_await time_round_trips(channel, seat);
  state.done = true;
}

task<void> ping_beside_sockets(client_seat& seat) {
  const auto& both = seat.address();
  const auto space = both.find(' ');
  const auto link = co_await hawser::connect(both.substr(0, space));
  pinging alone;
  co_await hawser::when_all(stay_idle(seat.wanted() / 4, alone), ping(link.rpc(), alone));
  report_times(seat, "alone_", "", alone);

  std::vector<hawser::link> others;
  while (others.size() < bench::sockets_beside) {
    auto other = co_await hawser::connect(both.substr(space + 1));
    others.push_back(std::move(other));
  }
  offered_beside state;
  std::vector<task<void>> parts;
  for (const auto& other : others) {
    parts.push_back(offer_beside(other.rpc(), parts.size(), state));
  }
  parts.push_back(time_beside(link.rpc(), seat, state));
  const auto begin = bench::clock::now();
  co_await hawser::when_all(std::move(parts));
  const bench::seconds taken = bench::clock::now() - begin;
  seat.report({"achieved", "messages/s", static_cast<double>(state.answered) / taken.count()});
  for (const auto& other : others) co_await other.close();
  co_await link.close();
}

constexpr auto asleep = waits::asleep;
using bench::all_roads;
constexpr auto in_memory = bench::only(bench::road::shared_memory);

constexpr std::array entries{
    bench::entry{&bench::echo_rtt, "hawser", serve<rpc, echo>, call<rpc, time_round_trips>, 1,
                 all_roads},
    bench::entry{&bench::echo_rtt_sleeping, "hawser", serve<rpc, echo, asleep>,
                 call<rpc, time_round_trips, asleep>, 2, all_roads},
    bench::entry{&bench::echo_rtt_one_core, "hawser", serve<rpc, echo, asleep>,
                 call<rpc, time_round_trips, asleep>, 1, all_roads},
    bench::entry{&bench::echo_rtt_one_core, "hawser_default", serve<rpc, echo>,
                 call<rpc, time_round_trips>},
    bench::entry{&bench::echo_throughput, "hawser", serve<stream, echo>, call<stream, echo_window>,
                 1, all_roads},
    bench::entry{&bench::echo_throughput, "hawser_sleeping", serve<stream, echo, asleep>,
                 call<stream, echo_window, asleep>},
    bench::entry{&bench::echo_busy, "hawser", serve<stream, echo>, call<stream, echo_window>},
    bench::entry{&bench::echo_busy, "hawser_sleeping", serve<stream, echo, asleep>,
                 call<stream, echo_window, asleep>},
    bench::entry{&bench::echo_32, "hawser", serve_links<serve_all<stream>>,
                 call_links<call_all<stream>>, 1, all_roads},
    bench::entry{&bench::echo_256, "hawser", serve_links<serve_all<rpc>>,
                 call_links<call_all<rpc>>},
    bench::entry{&bench::oneway_throughput, "hawser", serve<stream, count_messages>,
                 call<stream, send_oneway>, 1, all_roads},
    bench::entry{&bench::bulk_1mib, "hawser", serve<bulk, count_messages>, call<bulk, send_bulk>, 1,
                 all_roads},
    bench::entry{&bench::oneway_throughput, "hawser_batch32", serve<stream, count_batches>,
                 call<stream, send_batches>, 1, all_roads},
    bench::entry{&bench::oneway_throughput, "hawser_made32", serve<stream, count_batches>,
                 call<stream, send_made_batches>, 1, all_roads},
    bench::entry{&bench::bulk_1mib, "hawser_copied", serve<bulk, count_messages>,
                 call<bulk, send_bulk, waits::by_default, link_kind::without_loans>, 1, in_memory},
    bench::entry{&bench::bulk_1mib, "hawser_loan", serve<bulk, read_bulk>, call<bulk, lend_bulk>, 1,
                 in_memory},
    bench::entry{&bench::bulk_1mib, "hawser_reference", serve<bulk, count_messages>,
                 call<bulk, refer_to_bulk>, 1, in_memory},
    bench::entry{&bench::bulk_1mib, "hawser_file", serve<bulk, count_messages>,
                 call<bulk, send_file>, 1, all_roads},
    bench::entry{&bench::bulk_1mib, "hawser_file_passed", serve<bulk, count_messages>,
                 call<bulk, send_file, waits::by_default, link_kind::passing_files>, 1, in_memory},
    bench::entry{&bench::connect_reply, "hawser", serve_links<serve_newcomers>,
                 call_links<call_and_leave<link_kind::by_default>>},
    bench::entry{&bench::connect_reply, "hawser_one", serve_links<serve_newcomers>,
                 call_links<call_and_leave<link_kind::one_socket_early>>},
    bench::entry{&bench::connect_reply, "hawser_one_welcomed", serve_links<serve_newcomers>,
                 call_links<call_and_leave<link_kind::one_socket>>},
    bench::entry{&bench::ping_beside_bulk, "hawser", serve_links<serve_both>,
                 call_links<ping_beside_bulk<link_kind::by_default>>},
    bench::entry{&bench::ping_beside_bulk, "hawser_one", serve_links<serve_both>,
                 call_links<ping_beside_bulk<link_kind::one_socket>>},
    bench::entry{&bench::echo_rtt_beside_sockets, "hawser", serve_both_roads,
                 call_links<ping_beside_sockets>, 1, in_memory},
    bench::entry{&bench::load, "hawser", serve<stream, echo>, call<stream, offer_load>},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of(argc, argv, entries);
}
