// SPDX-License-Identifier: Apache-2.0
// nng as its manual pairs its sockets: req with rep for one message in flight, pair with pair for
// many and one way. It sets TCP_NODELAY itself and has no option for the sockets' buffers: those
// are imposed. Its own queues hold a window of messages.
#include <nng/nng.h>
#include <nng/protocol/pair1/pair.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>

#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>

#include "bench.hpp"
#include "offered_load.hpp"
#include "sockets.hpp"

namespace {

using bench::client_seat;
using bench::note;
using bench::server_seat;

void require(int error, const char* call) {
  if (error != 0) throw std::runtime_error(std::string(call) + ": " + nng_strerror(error));
}

class message {
 public:
  message() = default;
  explicit message(nng_msg* owned) noexcept : content_(owned) {}
  explicit message(std::size_t bytes) { require(nng_msg_alloc(&content_, bytes), "msg_alloc"); }
  message(message&& other) noexcept : content_(other.release()) {}
  message& operator=(message&& other) noexcept {
    std::swap(content_, other.content_);
    return *this;
  }
  ~message() { nng_msg_free(content_); }

  [[nodiscard]] nng_msg* release() noexcept { return std::exchange(content_, nullptr); }
  [[nodiscard]] note read() const noexcept {
    return bench::note_in({static_cast<const std::byte*>(nng_msg_body(content_)), size()});
  }
  void write(note written) noexcept {
    bench::write_note({static_cast<std::byte*>(nng_msg_body(content_)), size()}, written);
  }

 private:
  [[nodiscard]] std::size_t size() const noexcept { return nng_msg_len(content_); }

  nng_msg* content_ = nullptr;
};

/// One operation at a time, used again and again: nng_sendmsg and nng_recvmsg make one a call.
class operation {
 public:
  operation() { require(nng_aio_alloc(&handle_, nullptr, nullptr), "aio_alloc"); }
  ~operation() { nng_aio_free(handle_); }
  operation(const operation&) = delete;
  operation& operator=(const operation&) = delete;

  void send(nng_socket to, message moved) {
    nng_aio_set_msg(handle_, moved.release());
    nng_send_aio(to, handle_);
    nng_aio_wait(handle_);
    if (const int error = nng_aio_result(handle_); error != 0) {
      nng_msg_free(nng_aio_get_msg(handle_));
      require(error, "send");
    }
  }
  [[nodiscard]] message receive(nng_socket from) {
    nng_recv_aio(from, handle_);
    nng_aio_wait(handle_);
    require(nng_aio_result(handle_), "receive");
    return message(nng_aio_get_msg(handle_));
  }

 private:
  nng_aio* handle_ = nullptr;
};

class socket {
 public:
  explicit socket(int (*open)(nng_socket*)) {
    require(open(&handle_), "open");
    require(nng_socket_set_size(handle_, NNG_OPT_RECVMAXSZ, 2 * bench::bulk_bytes), "option");
  }
  ~socket() { nng_close(handle_); }
  socket(const socket&) = delete;
  socket& operator=(const socket&) = delete;

  /// Queues that hold all that is in flight, so that neither side waits for the other's turn.
  void have_window() {
    constexpr int messages = bench::window;
    require(nng_socket_set_int(handle_, NNG_OPT_SENDBUF, messages), "option");
    require(nng_socket_set_int(handle_, NNG_OPT_RECVBUF, messages), "option");
  }
  void listen(const server_seat& seat) {
    const bool tcp = seat.via() == bench::road::tcp;
    std::string address = tcp ? "tcp://127.0.0.1:" : "ipc://" + seat.unix_path();
    nng_listener made{};
    require(nng_listen(handle_, (address + (tcp ? "0" : "")).c_str(), &made, 0), "listen");
    if (tcp) {
      int port = 0;
      require(nng_listener_get_int(made, NNG_OPT_TCP_BOUND_PORT, &port), "port");
      address += std::to_string(port);
    }
    seat.announce(address);
  }
  void dial(const client_seat& seat) {
    require(nng_dial(handle_, seat.address().c_str(), nullptr, 0), "dial");
  }

  void send(message moved) { sending_.send(handle_, std::move(moved)); }
  [[nodiscard]] message receive() { return receiving_.receive(handle_); }

 private:
  nng_socket handle_{};
  operation sending_;
  operation receiving_;
};

void send_note(socket& to, message filled, note written) {
  filled.write(written);
  to.send(std::move(filled));
}

// ---- echo -------------------------------------------------------------------------------------

void serve_replies(server_seat& seat) {
  socket replies(nng_rep0_open);
  replies.listen(seat);
  for (;;) replies.send(replies.receive());
}

void call_requests(client_seat& seat) {
  socket requests(nng_req0_open);
  requests.dial(seat);
  message used(bench::small_bytes);
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    auto before = bench::clock::now();
    for (std::uint64_t i = 0; i < count; ++i) {
      send_note(requests, std::move(used), {++number, 0});
      used = requests.receive();
      bench::expect_number(number, used.read().number);
      const auto now = bench::clock::now();
      seat.record(now - before);
      before = now;
    }
  }
}

void call_and_leave(client_seat& seat) {
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto before = bench::clock::now();
      socket requests(nng_req0_open);
      requests.dial(seat);
      send_note(requests, message(bench::small_bytes), {++number, 0});
      bench::expect_number(number, requests.receive().read().number);
      seat.record(bench::clock::now() - before);
    }
  }
}

void serve_pair(server_seat& seat) {
  socket pair(nng_pair1_open);
  pair.have_window();
  pair.listen(seat);
  for (;;) pair.send(pair.receive());
}

void call_pair(client_seat& seat) {
  socket pair(nng_pair1_open);
  pair.have_window();
  pair.dial(seat);
  while (const auto count = seat.next_round()) {
    std::uint64_t sent = 0;
    while (sent < std::min(count, bench::window)) {
      send_note(pair, message(bench::small_bytes), {sent, 0});
      ++sent;
    }
    for (std::uint64_t received = 0; received < count; ++received) {
      auto used = pair.receive();
      bench::expect_number(received, used.read().number);
      if (sent < count) send_note(pair, std::move(used), {sent++, 0});
    }
  }
}

// ---- a load by the clock ----------------------------------------------------------------------

void call_by_the_clock(client_seat& seat) {
  socket pair(nng_pair1_open);
  pair.have_window();
  pair.dial(seat);
  while (const auto count = seat.next_round()) {
    bench::offered_load load(seat, count);
    bench::offer_on_two_threads(
        load, [&] { send_note(pair, message(bench::small_bytes), load.next()); },
        [&] { load.answered(pair.receive().read()); });
  }
}

// ---- one way, small or bulk -------------------------------------------------------------------

void count_messages(server_seat& seat) {
  socket pair(nng_pair1_open);
  pair.have_window();
  pair.listen(seat);
  bench::tally tally;
  for (;;) {
    auto used = pair.receive();
    if (const auto answer = tally.add(used.read())) send_note(pair, std::move(used), *answer);
  }
}

void send_oneway(client_seat& seat) {
  socket pair(nng_pair1_open);
  pair.have_window();
  pair.dial(seat);
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      send_note(pair, message(seat.asked().message_bytes), {i, i + 1 == count ? 1U : 0U});
    }
    bench::expect_number(count, pair.receive().read().number);
  }
}

constexpr std::array entries{
    bench::imposed_entry<serve_replies, call_requests>(bench::echo_rtt, "nng"),
    bench::imposed_entry<serve_pair, call_pair>(bench::echo_throughput, "nng"),
    bench::imposed_entry<count_messages, send_oneway>(bench::oneway_throughput, "nng"),
    bench::imposed_entry<count_messages, send_oneway>(bench::bulk_1mib, "nng"),
    bench::imposed_entry<serve_replies, call_and_leave>(bench::connect_reply, "nng"),
    bench::imposed_entry<serve_pair, call_by_the_clock>(bench::load, "nng"),
};

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of(argc, argv, entries);
}
