// SPDX-License-Identifier: Apache-2.0
// ZeroMQ as its guide pairs its sockets: REQ with REP for one message in flight, DEALER with ROUTER
// for many, PUSH with PULL one way, where the answer takes a second pair. Many connections are a
// DEALER each, because one connects to an address only once. Default options but for the socket
// buffers of the table, and no message limit where more is in flight than it lets through.
#include <zmq.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <list>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench.hpp"
#include "offered_load.hpp"
#include "sockets.hpp"

namespace {

using bench::client_seat;
using bench::note;
using bench::server_seat;

using small_message = std::array<std::byte, bench::small_bytes>;

void require(bool success, const char* call) {
  if (!success) throw std::runtime_error(std::string(call) + ": " + zmq_strerror(errno));
}

class context {
 public:
  context() : handle_(zmq_ctx_new()) {}
  ~context() { zmq_ctx_term(handle_); }
  context(const context&) = delete;
  context& operator=(const context&) = delete;

  [[nodiscard]] void* get() const noexcept { return handle_; }

 private:
  void* handle_;
};

class message {
 public:
  message() { zmq_msg_init(&content_); }
  ~message() { zmq_msg_close(&content_); }
  message(const message&) = delete;
  message& operator=(const message&) = delete;

  [[nodiscard]] zmq_msg_t* get() noexcept { return &content_; }
  [[nodiscard]] std::span<const std::byte> bytes() noexcept {
    return {static_cast<const std::byte*>(zmq_msg_data(&content_)), zmq_msg_size(&content_)};
  }

 private:
  zmq_msg_t content_{};
};

class socket {
 public:
  socket(const context& owner, int kind, const bench::question& asked, bench::road via)
      : handle_(zmq_socket(owner.get(), kind)) {
    require(handle_ != nullptr, "zmq_socket");
    set(ZMQ_LINGER, 0);
    if (&asked == &bench::load || asked.connections > 1) {  // a full ROUTER drops; others wait
      set(ZMQ_SNDHWM, 0);
      set(ZMQ_RCVHWM, 0);
    }
    if (!bench::has_large_buffers(asked, via)) return;
    set(ZMQ_SNDBUF, bench::large_buffer_bytes);
    set(ZMQ_RCVBUF, bench::large_buffer_bytes);
  }
  ~socket() { zmq_close(handle_); }
  socket(const socket&) = delete;
  socket& operator=(const socket&) = delete;

  void bind(const std::string& address) {
    require(zmq_bind(handle_, address.c_str()) == 0, "bind");
  }
  void connect(const std::string& address) {
    require(zmq_connect(handle_, address.c_str()) == 0, "connect");
  }
  [[nodiscard]] std::string bound_to() const {
    std::array<char, 256> address{};
    std::size_t size = address.size();
    require(zmq_getsockopt(handle_, ZMQ_LAST_ENDPOINT, address.data(), &size) == 0, "endpoint");
    return address.data();
  }

  /// False: the server is to end.
  bool receive(message& into) { return zmq_msg_recv(into.get(), handle_, 0) >= 0; }
  void send(message& moved, int flags = 0) {
    require(zmq_msg_send(moved.get(), handle_, flags) >= 0, "send");
  }
  void send(std::span<const std::byte> copied) {
    require(zmq_send(handle_, copied.data(), copied.size(), 0) >= 0, "send");
  }
  /// Without waiting.
  [[nodiscard]] bool receive_now(message& into) {
    return zmq_msg_recv(into.get(), handle_, ZMQ_DONTWAIT) >= 0;
  }
  [[nodiscard]] zmq_pollitem_t readable() const noexcept { return {handle_, 0, ZMQ_POLLIN, 0}; }
  [[nodiscard]] note receive_note() {
    message received;
    require(receive(received), "receive");
    return bench::note_in(received.bytes());
  }

 private:
  void set(int option, int value) {
    require(zmq_setsockopt(handle_, option, &value, sizeof value) == 0, "option");
  }

  void* handle_;
};

// Blocks until there is something to receive.
void poll(std::span<zmq_pollitem_t> items) {
  require(zmq_poll(items.data(), static_cast<int>(items.size()), -1) >= 0, "poll");
}

// The n-th address of a server.
std::string place(const server_seat& seat, int n) {
  if (seat.via() == bench::road::tcp) return "tcp://127.0.0.1:*";
  return "ipc://" + seat.unix_path() + std::to_string(n);
}

void send_note(socket& to, note written) {
  small_message filled{};
  bench::write_note(filled, written);
  to.send(filled);
}

// ---- echo -------------------------------------------------------------------------------------

void serve_replies(server_seat& seat) {
  const context owner;
  socket replies(owner, ZMQ_REP, seat.asked(), seat.via());
  replies.bind(place(seat, 0));
  seat.announce(replies.bound_to());
  message request;
  while (replies.receive(request)) replies.send(request);
}

void call_requests(client_seat& seat) {
  const context owner;
  socket requests(owner, ZMQ_REQ, seat.asked(), seat.via());
  requests.connect(seat.address());
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    auto before = bench::clock::now();
    for (std::uint64_t i = 0; i < count; ++i) {
      send_note(requests, {++number, 0});
      bench::expect_number(number, requests.receive_note().number);
      const auto now = bench::clock::now();
      seat.record(now - before);
      before = now;
    }
  }
}

void serve_router(server_seat& seat) {
  const context owner;
  socket router(owner, ZMQ_ROUTER, seat.asked(), seat.via());
  router.bind(place(seat, 0));
  seat.announce(router.bound_to());
  message client;
  message body;
  while (router.receive(client) && router.receive(body)) {
    router.send(client, ZMQ_SNDMORE);
    router.send(body);
  }
}

void call_dealer(client_seat& seat) {
  const context owner;
  socket dealer(owner, ZMQ_DEALER, seat.asked(), seat.via());
  dealer.connect(seat.address());
  while (const auto count = seat.next_round()) {
    std::uint64_t sent = 0;
    while (sent < std::min(count, bench::window)) send_note(dealer, {sent++, 0});
    for (std::uint64_t received = 0; received < count; ++received) {
      bench::expect_number(received, dealer.receive_note().number);
      if (sent < count) send_note(dealer, {sent++, 0});
    }
  }
}

/// One connection's part of a round.
class conversation {
 public:
  conversation(const context& owner, const client_seat& seat)
      : dealer_(owner, ZMQ_DEALER, seat.asked(), seat.via()), in_flight_(seat.asked().in_flight) {
    dealer_.connect(seat.address());
  }

  [[nodiscard]] zmq_pollitem_t readable() const noexcept { return dealer_.readable(); }
  void begin(std::uint64_t count) {
    count_ = count;
    sent_ = received_ = 0;
    refill();
  }
  /// How many answers were there; as many new messages leave.
  std::uint64_t advance() {
    const auto before = received_;
    message answer;
    while (dealer_.receive_now(answer)) {
      bench::expect_number(received_++, bench::note_in(answer.bytes()).number);
    }
    refill();
    return received_ - before;
  }

 private:
  void refill() {
    while (sent_ < count_ && sent_ - received_ < in_flight_) send_note(dealer_, {sent_++, 0});
  }

  socket dealer_;
  std::uint64_t in_flight_;
  std::uint64_t count_ = 0;
  std::uint64_t sent_ = 0;
  std::uint64_t received_ = 0;
};

void call_many(client_seat& seat) {
  const auto connections = seat.asked().connections;
  const context owner;
  std::list<conversation> conversations;
  std::vector<zmq_pollitem_t> items;
  while (conversations.size() < connections) {
    items.push_back(conversations.emplace_back(owner, seat).readable());
  }
  while (const auto count = seat.next_round()) {
    std::uint64_t index = 0;
    for (auto& with : conversations) with.begin(bench::share_of(count, connections, index++));
    for (std::uint64_t received = 0; received < count;) {
      poll(items);
      auto item = items.begin();
      for (auto& with : conversations) {
        if ((item++)->revents != 0) received += with.advance();
      }
    }
  }
}

// ---- a load by the clock ----------------------------------------------------------------------

void call_by_the_clock(client_seat& seat) {
  const context owner;
  socket dealer(owner, ZMQ_DEALER, seat.asked(), seat.via());
  dealer.connect(seat.address());
  bench::alarm alarm;
  std::array<zmq_pollitem_t, 2> items{
      {dealer.readable(), {nullptr, alarm.descriptor(), ZMQ_POLLIN, 0}}};
  message answer;
  while (const auto count = seat.next_round()) {
    bench::offered_load load(seat, count);
    while (!load.all_answered()) {
      const auto now = bench::clock::now();
      while (load.is_due(now)) send_note(dealer, load.next());
      if (dealer.receive_now(answer)) {
        load.answered(bench::note_in(answer.bytes()));
        continue;
      }
      if (load.all_sent()) {
        alarm.clear();
      } else {
        alarm.set(load.next_due());
      }
      poll(items);
    }
  }
}

// ---- one way, small or bulk -------------------------------------------------------------------

void serve_pull(server_seat& seat) {
  const context owner;
  socket pull(owner, ZMQ_PULL, seat.asked(), seat.via());
  socket answers(owner, ZMQ_PUSH, seat.asked(), seat.via());
  pull.bind(place(seat, 0));
  answers.bind(place(seat, 1));
  seat.announce(pull.bound_to() + " " + answers.bound_to());
  bench::tally tally;
  message received;
  while (pull.receive(received)) {
    if (const auto answer = tally.add(bench::note_in(received.bytes()))) {
      send_note(answers, *answer);
    }
  }
}

/// The two sockets of a client that sends one way.
class pusher {
 public:
  pusher(const context& owner, const client_seat& seat)
      : push_(owner, ZMQ_PUSH, seat.asked(), seat.via()),
        answers_(owner, ZMQ_PULL, seat.asked(), seat.via()) {
    const auto& both = seat.address();
    const auto space = both.find(' ');
    push_.connect(both.substr(0, space));
    answers_.connect(both.substr(space + 1));
  }

  [[nodiscard]] socket& push() noexcept { return push_; }
  void expect_answer(std::uint64_t count) {
    bench::expect_number(count, answers_.receive_note().number);
  }

 private:
  socket push_;
  socket answers_;
};

void call_push(client_seat& seat) {
  const context owner;
  pusher server(owner, seat);
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      send_note(server.push(), {i, i + 1 == count ? 1U : 0U});
    }
    server.expect_answer(count);
  }
}

// The bytes stay where they are: both ends of a round use memory that outlives it.
void send_in_place(socket& to, std::vector<std::byte>& bytes) {
  zmq_msg_t borrowed;
  const auto keep = [](void*, void*) {};
  require(zmq_msg_init_data(&borrowed, bytes.data(), bytes.size(), keep, nullptr) == 0, "init");
  message sent;
  zmq_msg_move(sent.get(), &borrowed);
  to.send(sent);
}

void push_bulk(client_seat& seat) {
  const context owner;
  std::vector<std::byte> message_bytes(bench::bulk_bytes);
  std::vector<std::byte> last_bytes(bench::bulk_bytes);
  bench::write_note(last_bytes, {0, 1});
  pusher server(owner, seat);
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 1; i < count; ++i) send_in_place(server.push(), message_bytes);
    send_in_place(server.push(), last_bytes);
    server.expect_answer(count);
  }
}

constexpr std::array entries{
    bench::entry{&bench::echo_rtt, "zeromq", serve_replies, call_requests, 1, bench::all_roads},
    bench::entry{&bench::echo_throughput, "zeromq", serve_router, call_dealer, 1, bench::all_roads},
    bench::entry{&bench::echo_32, "zeromq", serve_router, call_many},
    bench::entry{&bench::oneway_throughput, "zeromq", serve_pull, call_push, 1, bench::all_roads},
    bench::entry{&bench::bulk_1mib, "zeromq", serve_pull, push_bulk, 1, bench::all_roads},
    bench::entry{&bench::load, "zeromq", serve_router, call_by_the_clock},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of(argc, argv, entries);
}
