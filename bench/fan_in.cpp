// SPDX-License-Identifier: Apache-2.0
// Many connections on raw sockets and one epoll a process: all that a socket has in one read, all
// answers to it in one write.
#include <sys/epoll.h>

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
using bench::server_seat;
using bench::stream_socket;

/// Watches sockets, and says by their index which have something to read.
class poller {
 public:
  explicit poller(const std::vector<stream_socket>& watched)
      : descriptor_(::epoll_create1(EPOLL_CLOEXEC)) {
    for (std::size_t index = 0; index < watched.size(); ++index) {
      epoll_event readable{};
      readable.events = EPOLLIN;
      readable.data.u64 = index;
      if (::epoll_ctl(descriptor_.descriptor(), EPOLL_CTL_ADD, watched[index].descriptor(),
                      &readable) != 0) {
        throw std::system_error(errno, std::generic_category(), "epoll_ctl");
      }
    }
  }

  /// Blocks until there is one.
  [[nodiscard]] std::span<const epoll_event> wait() {
    const auto most = static_cast<int>(events_.size());
    const int ready = ::epoll_wait(descriptor_.descriptor(), events_.data(), most, -1);
    return std::span(events_).first(static_cast<std::size_t>(std::max(ready, 0)));
  }

 private:
  stream_socket descriptor_;
  std::array<epoll_event, 256> events_{};
};

void serve_echo(server_seat& seat) {
  const auto clients = accept_clients(seat);
  poller poller(clients);
  std::vector<std::byte> batch(bench::batch_bytes);
  for (;;) {
    for (const auto& event : poller.wait()) {
      const auto& client = clients[event.data.u64];
      const auto got = client.receive_now(batch);
      if (got == std::size_t{0}) return;
      client.send_all(std::span(batch).first(got.value_or(0)));
    }
  }
}

/// One connection's part of a round.
class conversation {
 public:
  conversation(const stream_socket& server, std::uint64_t in_flight) noexcept
      : server_(&server), in_flight_(in_flight) {}

  void begin(std::uint64_t count, bench::outbox& outbox) {
    count_ = count;
    sent_ = received_ = 0;
    refill(outbox);
  }
  /// How many answers came; as many new messages leave.
  std::uint64_t advance(bench::outbox& outbox) {
    const auto before = received_;
    const auto got = server_->receive_now(inbox_.room());
    if (got == std::size_t{0}) throw std::runtime_error("the server left");
    inbox_.filled(got.value_or(0));
    while (!inbox_.empty()) bench::expect_number(received_++, inbox_.take().number);
    refill(outbox);
    return received_ - before;
  }

 private:
  void refill(bench::outbox& outbox) {
    while (sent_ < count_ && sent_ - received_ < in_flight_) outbox.add({sent_++, 0});
    server_->send_all(outbox.bytes());
    outbox.clear();
  }

  const stream_socket* server_;
  std::uint64_t in_flight_;
  bench::inbox inbox_{bench::window * bench::small_bytes};
  std::uint64_t count_ = 0;
  std::uint64_t sent_ = 0;
  std::uint64_t received_ = 0;
};

void call_echo(client_seat& seat) {
  const auto servers = connect_all_to_server(seat);
  poller poller(servers);
  bench::outbox outbox;
  std::vector<conversation> conversations;
  for (const auto& server : servers) conversations.emplace_back(server, seat.asked().in_flight);
  while (const auto count = seat.next_round()) {
    for (std::size_t i = 0; i < conversations.size(); ++i) {
      conversations[i].begin(bench::share_of(count, conversations.size(), i), outbox);
    }
    for (std::uint64_t received = 0; received < count;) {
      for (const auto& event : poller.wait()) {
        received += conversations[event.data.u64].advance(outbox);
      }
    }
  }
}

constexpr std::array entries{
    bench::entry{&bench::echo_32, "floor", serve_echo, call_echo},
    bench::entry{&bench::echo_256, "floor", serve_echo, call_echo},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of(argc, argv, entries);
}
