// SPDX-License-Identifier: Apache-2.0
// Raw sockets, written as well as sockets allow without spinning: what hawser is measured against.
// `floor_spin` never sleeps, which is what one core each can reach at best.
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "batch.hpp"
#include "bench.hpp"
#include "sockets.hpp"

namespace {

using bench::client_seat;
using bench::note;
using bench::server_seat;
using bench::stream_socket;

using small_message = std::array<std::byte, bench::small_bytes>;

// ---- one message in flight --------------------------------------------------------------------

void serve_blocking_echo(server_seat& seat) {
  const auto client = accept_client(seat);
  small_message message{};
  while (client.receive_all(message)) client.send_all(message);
}

// The same without ever sleeping in the kernel.
bool spin_receive(const stream_socket& from, small_message& message) {
  std::size_t got = 0;
  while (got < message.size()) {
    const auto now =
        ::recv(from.descriptor(), message.data() + got, message.size() - got, MSG_DONTWAIT);
    if (now > 0) got += static_cast<std::size_t>(now);
    if (now == 0 || (now < 0 && errno != EAGAIN)) return false;
  }
  return true;
}

void serve_spinning_echo(server_seat& seat) {
  const auto client = accept_client(seat);
  small_message message{};
  while (spin_receive(client, message)) client.send_all(message);
}

template <class Receive>
void time_round_trips(client_seat& seat, Receive receive) {
  const auto server = connect_to_server(seat);
  small_message message{};
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    auto before = bench::clock::now();
    for (std::uint64_t i = 0; i < count; ++i) {
      bench::write_note(message, {++number, 0});
      server.send_all(message);
      if (!receive(server, message)) throw std::runtime_error("the server left");
      bench::expect_number(number, bench::note_in(message).number);
      const auto now = bench::clock::now();
      seat.record(now - before);
      before = now;
    }
  }
}

void call_blocking(client_seat& seat) {
  time_round_trips(
      seat, [](const stream_socket& from, small_message& into) { return from.receive_all(into); });
}

void call_spinning(client_seat& seat) {
  time_round_trips(seat, spin_receive);
}

// ---- a window in flight -----------------------------------------------------------------------

/// Waits for one socket as an event loop does: reads first, asks epoll only when there is nothing.
class event_loop {
 public:
  explicit event_loop(const stream_socket& watched)
      : watched_(&watched), poller_(::epoll_create1(EPOLL_CLOEXEC)) {
    epoll_event readable{};
    readable.events = EPOLLIN;
    if (::epoll_ctl(poller_.descriptor(), EPOLL_CTL_ADD, watched.descriptor(), &readable) != 0) {
      throw std::system_error(errno, std::generic_category(), "epoll_ctl");
    }
  }

  /// 0: the peer has left.
  [[nodiscard]] std::size_t receive(std::span<std::byte> room) const {
    for (;;) {
      const auto got = ::recv(watched_->descriptor(), room.data(), room.size(), MSG_DONTWAIT);
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EAGAIN) return 0;
      epoll_event event{};
      static_cast<void>(::epoll_wait(poller_.descriptor(), &event, 1, -1));
    }
  }

 private:
  const stream_socket* watched_;
  stream_socket poller_;
};

void serve_batching_echo(server_seat& seat) {
  const auto client = accept_client(seat);
  const event_loop loop(client);
  std::vector<std::byte> batch(bench::batch_bytes);
  while (const auto got = loop.receive(batch)) client.send_all(std::span(batch).first(got));
}

// Every answer is replaced by a new message; all those of one read leave in one write.
void echo_window(const stream_socket& server, const event_loop& loop, std::uint64_t count) {
  bench::inbox inbox;
  bench::outbox outbox;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  while (received < count) {
    while (sent < count && sent - received < bench::window) outbox.add({sent++, 0});
    server.send_all(outbox.bytes());
    outbox.clear();
    const auto got = loop.receive(inbox.room());
    if (got == 0) throw std::runtime_error("the server left");
    inbox.filled(got);
    while (!inbox.empty()) bench::expect_number(received++, inbox.take().number);
  }
}

void call_batching_echo(client_seat& seat) {
  const auto server = connect_to_server(seat);
  const event_loop loop(server);
  while (const auto count = seat.next_round()) echo_window(server, loop, count);
}

// ---- one way ----------------------------------------------------------------------------------

void answer(const stream_socket& client, note with) {
  small_message message{};
  bench::write_note(message, with);
  client.send_all(message);
}

void expect_answer(const stream_socket& server, std::uint64_t count) {
  small_message message{};
  if (!server.receive_all(message)) throw std::runtime_error("the server left");
  bench::expect_number(count, bench::note_in(message).number);
}

void serve_oneway(server_seat& seat) {
  const auto client = accept_client(seat);
  bench::inbox inbox;
  bench::tally tally;
  while (const auto got = client.receive(inbox.room())) {
    inbox.filled(got);
    while (!inbox.empty()) {
      if (const auto reply = tally.add(inbox.take())) answer(client, *reply);
    }
  }
}

void call_oneway(client_seat& seat) {
  const auto server = connect_to_server(seat);
  bench::outbox outbox;
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const bool last = i + 1 == count;
      outbox.add({i, last ? 1U : 0U});
      if (!outbox.full() && !last) continue;
      server.send_all(outbox.bytes());
      outbox.clear();
    }
    expect_answer(server, count);
  }
}

// ---- 1 MiB messages, each read into memory of its own length ----------------------------------

void serve_bulk(server_seat& seat) {
  const auto client = accept_client(seat);
  std::vector<std::byte> message(bench::bulk_bytes);
  bench::tally tally;
  while (client.receive_all(message)) {
    if (const auto reply = tally.add(bench::note_in(message))) answer(client, *reply);
  }
}

void call_bulk(client_seat& seat) {
  const auto server = connect_to_server(seat);
  std::vector<std::byte> message(bench::bulk_bytes);
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      bench::write_note(message, {i, i + 1 == count ? 1U : 0U});
      server.send_all(message);
    }
    expect_answer(server, count);
  }
}

constexpr std::array entries{
    bench::entry{&bench::echo_rtt, "floor", serve_blocking_echo, call_blocking},
    bench::entry{&bench::echo_rtt, "floor_spin", serve_spinning_echo, call_spinning, 2},
    bench::entry{&bench::echo_throughput, "floor", serve_batching_echo, call_batching_echo},
    bench::entry{&bench::oneway_throughput, "floor", serve_oneway, call_oneway},
    bench::entry{&bench::bulk_1mib, "floor", serve_bulk, call_bulk},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of(argc, argv, entries);
}
