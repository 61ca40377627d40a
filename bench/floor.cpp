// SPDX-License-Identifier: Apache-2.0
// Raw sockets, written as well as sockets allow without spinning: what hawser is measured against.
// `floor_spin` never sleeps, which is what one core each can reach at best. Many connections are in
// fan_in.cpp and uring.cpp.
#include <poll.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "batch.hpp"
#include "bench.hpp"
#include "offered_load.hpp"
#include "sockets.hpp"

namespace {

using namespace std::chrono_literals;

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

// Between two looks that found nothing. Without it the looks hold up what they look for: they lock
// the socket, and a segment that arrives meanwhile has to wait.
void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// The same without ever sleeping in the kernel.
bool spin_receive(const stream_socket& from, small_message& message) {
  std::size_t got = 0;
  while (got < message.size()) {
    const auto now = from.receive_now(std::span(message).subspan(got));
    if (now == std::size_t{0}) return false;
    if (!now) pause();
    got += now.value_or(0);
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
      const auto got = watched_->receive_now(room);
      if (got) return *got;
      epoll_event event{};
      static_cast<void>(::epoll_wait(poller_.descriptor(), &event, 1, -1));
    }
  }

 private:
  const stream_socket* watched_;
  stream_socket poller_;
};

/// The same without ever sleeping.
class spinning_loop {
 public:
  explicit spinning_loop(const stream_socket& watched) noexcept : watched_(&watched) {}

  [[nodiscard]] std::size_t receive(std::span<std::byte> room) const {
    for (;;) {
      const auto got = watched_->receive_now(room);
      if (got) return *got;
      pause();
    }
  }

 private:
  const stream_socket* watched_;
};

template <class Loop>
void serve_batching_echo(server_seat& seat) {
  const auto client = accept_client(seat);
  const Loop loop(client);
  std::vector<std::byte> batch(bench::batch_bytes);
  while (const auto got = loop.receive(batch)) client.send_all(std::span(batch).first(got));
}

// Every answer is replaced by a new message; all those of one read leave in one write.
template <class Loop>
void echo_window(const stream_socket& server, const Loop& loop, std::uint64_t count) {
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

template <class Loop>
void call_batching_echo(client_seat& seat) {
  const auto server = connect_to_server(seat);
  const Loop loop(server);
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

// The system copies from its own copy of the file to the socket.
void call_sendfile(client_seat& seat) {
  const auto server = connect_to_server(seat);
  const bench::bulk_file file;
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 1; i <= count; ++i) {
      off_t from = i == count ? bench::bulk_file::last : bench::bulk_file::first;
      for (std::size_t left = bench::bulk_bytes; left != 0;) {
        const ssize_t sent = ::sendfile(server.descriptor(), file.descriptor(), &from, left);
        if (sent <= 0) throw std::system_error(errno, std::generic_category(), "sendfile");
        left -= static_cast<std::size_t>(sent);
      }
    }
    expect_answer(server, count);
  }
}

// ---- a connection a message -------------------------------------------------------------------

void serve_connections(server_seat& seat) {
  const bench::listening_socket listener(seat);
  small_message message{};
  for (;;) {
    const auto client = listener.accept();
    while (client.receive_all(message)) client.send_all(message);
  }
}

void call_and_leave(client_seat& seat) {
  small_message message{};
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      bench::write_note(message, {++number, 0});
      const auto before = bench::clock::now();
      const auto server = connect_to_server(seat);
      server.send_all(message);
      if (!server.receive_all(message)) throw std::runtime_error("the server left");
      seat.record(bench::clock::now() - before);
      bench::expect_number(number, bench::note_in(message).number);
    }
  }
}

// ---- a load by the clock ----------------------------------------------------------------------

// Until there is something to read, or to write if `writing`, or `limit` has come.
void wait_for(const stream_socket& server, bool writing, bench::clock::time_point limit) {
  pollfd watched{server.descriptor(), POLLIN, 0};
  if (writing) watched.events |= POLLOUT;
  const auto left = std::max(limit - bench::clock::now(), bench::clock::duration::zero());
  const auto whole = std::chrono::floor<std::chrono::seconds>(left);
  const timespec most{static_cast<std::time_t>(whole.count()),
                      static_cast<long>(std::chrono::nanoseconds(left - whole).count())};
  static_cast<void>(::ppoll(&watched, 1, &most, nullptr));
}

void offer_load(client_seat& seat, const stream_socket& server, std::uint64_t count) {
  bench::offered_load load(seat, count);
  bench::inbox inbox;
  bench::outbox outbox;
  while (!load.all_answered()) {
    const auto now = bench::clock::now();
    while (!outbox.full() && load.is_due(now)) outbox.add(load.next());
    if (!outbox.empty()) outbox.drop(server.send_now(outbox.bytes()));
    const auto got = server.receive_now(inbox.room());
    if (!got) {
      wait_for(server, !outbox.empty(), load.all_sent() ? now + 1s : load.next_due());
      continue;
    }
    if (*got == 0) throw std::runtime_error("the server left");
    inbox.filled(*got);
    const auto arrived = bench::clock::now();
    while (!inbox.empty()) load.answered(inbox.take(), arrived);
  }
}

void call_by_the_clock(client_seat& seat) {
  const auto server = connect_to_server(seat);
  while (const auto count = seat.next_round()) offer_load(seat, server, count);
}

constexpr std::array entries{
    bench::entry{&bench::echo_rtt, "floor", serve_blocking_echo, call_blocking, 1,
                 bench::all_roads},
    bench::entry{&bench::echo_rtt, "floor_spin", serve_spinning_echo, call_spinning, 2},
    bench::entry{&bench::echo_rtt_sleeping, "floor", serve_blocking_echo, call_blocking, 2,
                 bench::all_roads},
    bench::entry{&bench::echo_rtt_one_core, "floor", serve_blocking_echo, call_blocking, 1,
                 bench::all_roads},
    bench::entry{&bench::echo_throughput, "floor", serve_batching_echo<event_loop>,
                 call_batching_echo<event_loop>, 1, bench::all_roads},
    bench::entry{&bench::echo_throughput, "floor_spin", serve_batching_echo<spinning_loop>,
                 call_batching_echo<spinning_loop>, 2},
    bench::entry{&bench::oneway_throughput, "floor", serve_oneway, call_oneway, 1,
                 bench::all_roads},
    bench::entry{&bench::bulk_1mib, "floor", serve_bulk, call_bulk, 1, bench::all_roads},
    bench::entry{&bench::bulk_1mib, "floor_sendfile", serve_bulk, call_sendfile},
    bench::entry{&bench::connect_reply, "floor", serve_connections, call_and_leave},
    bench::entry{&bench::load, "floor", serve_batching_echo<event_loop>, call_by_the_clock},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of(argc, argv, entries);
}
