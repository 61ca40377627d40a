// SPDX-License-Identifier: Apache-2.0
// Cap'n Proto RPC: an ordinary call for an echo, a streaming call (`-> stream`) one way, whose
// window the library takes from the socket's send buffer. Large data is referenced, not copied,
// into the message. It sets TCP_NODELAY itself; the buffers are set on its sockets.
#include <capnp/message.h>
#include <capnp/orphan.h>
#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/async-unix.h>
#include <sys/socket.h>

#include <array>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench.hpp"
#include "echo.capnp.h"
#include "offered_load.hpp"
#include "sockets.hpp"

namespace {

using bench::client_seat;
using bench::note;
using bench::server_seat;
using bench::schema::Echo;

using small_message = std::array<std::byte, bench::small_bytes>;

// The words of a call's parameters besides its bytes, and the one object that takes a call.
constexpr capnp::MessageSize small_call_size{bench::small_bytes / sizeof(capnp::word) + 4, 0};

kj::ArrayPtr<const kj::byte> as_kj(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

note note_in(capnp::Data::Reader bytes) {
  return bench::note_in(std::as_bytes(std::span(bytes.begin(), bytes.size())));
}

// ---- the server -------------------------------------------------------------------------------

class echo_server final : public Echo::Server {
 protected:
  kj::Promise<void> call(CallContext context) override {
    context.getResults(small_call_size).setBytes(context.getParams().getBytes());
    return kj::READY_NOW;
  }
  kj::Promise<void> push(PushContext) override {
    ++pushed_;
    return kj::READY_NOW;
  }
  kj::Promise<void> finish(FinishContext context) override {
    context.getResults().setCount(std::exchange(pushed_, 0));
    return kj::READY_NOW;
  }

 private:
  std::uint64_t pushed_ = 0;
};

void set_options(kj::AsyncIoStream& stream, const bench::question& asked, bench::road via) {
  if (!bench::has_large_buffers(asked, via)) return;
  const int bytes = bench::large_buffer_bytes;
  stream.setsockopt(SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  stream.setsockopt(SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}

kj::Promise<void> accept_clients(kj::ConnectionReceiver& receiver, capnp::TwoPartyServer& server,
                                 const server_seat& seat) {
  return receiver.accept().then([&](kj::Own<kj::AsyncIoStream> client) {
    set_options(*client, seat.asked(), seat.via());
    server.accept(kj::mv(client));
    return accept_clients(receiver, server, seat);
  });
}

void serve(server_seat& seat) {
  auto io = kj::setupAsyncIo();
  capnp::TwoPartyServer server(kj::heap<echo_server>());
  const bool tcp = seat.via() == bench::road::tcp;
  const std::string place = tcp ? "127.0.0.1" : "unix:" + seat.unix_path();
  auto receiver =
      io.provider->getNetwork().parseAddress(place.c_str()).wait(io.waitScope)->listen();
  seat.announce(tcp ? place + ":" + std::to_string(receiver->getPort()) : place);
  accept_clients(*receiver, server, seat).wait(io.waitScope);
}

// ---- the client -------------------------------------------------------------------------------

kj::Own<kj::AsyncIoStream> connect_to_server(kj::AsyncIoContext& io, const client_seat& seat) {
  auto& network = io.provider->getNetwork();
  auto address = network.parseAddress(seat.address().c_str()).wait(io.waitScope);
  auto stream = address->connect().wait(io.waitScope);
  set_options(*stream, seat.asked(), seat.via());
  return stream;
}

class connection {
 public:
  connection(kj::AsyncIoContext& io, const client_seat& seat)
      : scope_(&io.waitScope),
        stream_(connect_to_server(io, seat)),
        client_(*stream_),
        echo_(client_.bootstrap().castAs<Echo>()) {}
  connection(const connection&) = delete;
  connection& operator=(const connection&) = delete;

  capnp::RemotePromise<Echo::CallResults> call(note written) {
    auto request = echo_.callRequest(small_call_size);
    fill(request.initBytes(bench::small_bytes), written);
    return request.send();
  }
  /// Blocks while the window is full.
  void push(note written) {
    auto request = echo_.pushRequest(small_call_size);
    fill(request.initBytes(bench::small_bytes), written);
    request.send().wait(*scope_);
  }
  /// The bytes must stay as they are until finish().
  void push_in_place(std::span<const std::byte> bytes) {
    auto request = echo_.pushRequest();
    const auto orphanage =
        capnp::Orphanage::getForMessageContaining(Echo::PushParams::Builder(request));
    request.adoptBytes(orphanage.referenceExternalData(as_kj(bytes)));
    request.send().wait(*scope_);
  }
  /// How many pushes have come.
  std::uint64_t finish() { return echo_.finishRequest().send().wait(*scope_).getCount(); }

 private:
  static void fill(capnp::Data::Builder bytes, note written) {
    bench::write_note(std::as_writable_bytes(std::span(bytes.begin(), bytes.size())), written);
  }

  kj::WaitScope* scope_;
  kj::Own<kj::AsyncIoStream> stream_;
  capnp::TwoPartyClient client_;
  Echo::Client echo_;
};

void call_once(kj::AsyncIoContext& io, connection& server, std::uint64_t number) {
  const auto reply = server.call({number, 0}).wait(io.waitScope);
  bench::expect_number(number, note_in(reply.getBytes()).number);
}

void time_round_trips(client_seat& seat) {
  auto io = kj::setupAsyncIo();
  connection server(io, seat);
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    auto before = bench::clock::now();
    for (std::uint64_t i = 0; i < count; ++i) {
      call_once(io, server, ++number);
      const auto now = bench::clock::now();
      seat.record(now - before);
      before = now;
    }
  }
}

void call_and_leave(client_seat& seat) {
  auto io = kj::setupAsyncIo();
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto before = bench::clock::now();
      connection server(io, seat);
      call_once(io, server, ++number);
      seat.record(bench::clock::now() - before);
    }
  }
}

/// How far a connection is in a round.
struct progress {
  std::uint64_t share = 0;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
};

// One of those that keep a connection busy: a call after the other until its share is sent.
kj::Promise<void> keep_calling(connection& server, progress& at) {
  if (at.sent == at.share) return kj::READY_NOW;
  return server.call({at.sent++, 0}).then([&](capnp::Response<Echo::CallResults>&& reply) {
    bench::expect_number(at.received++, note_in(reply.getBytes()).number);
    return keep_calling(server, at);
  });
}

void echo_window(client_seat& seat) {
  auto io = kj::setupAsyncIo();
  const auto connections = seat.asked().connections;
  std::vector<std::unique_ptr<connection>> servers;
  while (servers.size() < connections) servers.push_back(std::make_unique<connection>(io, seat));
  while (const auto count = seat.next_round()) {
    std::vector<progress> all(connections);
    kj::Vector<kj::Promise<void>> calls;
    for (std::size_t i = 0; i < connections; ++i) {
      all[i].share = bench::share_of(count, connections, i);
      for (std::uint64_t n = 0; n < seat.asked().in_flight; ++n) {
        calls.add(keep_calling(*servers[i], all[i]));
      }
    }
    kj::joinPromises(calls.releaseAsArray()).wait(io.waitScope);
  }
}

// ---- a load by the clock ----------------------------------------------------------------------

/// Sleeps until a time and serves the event loop meanwhile, whose own timers are whole
/// milliseconds.
class sleeper {
 public:
  explicit sleeper(kj::AsyncIoContext& io) : io_(&io) {}

  void sleep_until(bench::clock::time_point when) {
    if (when <= bench::clock::now()) return;
    alarm_.set(when);
    rings_.whenBecomesReadable().wait(io_->waitScope);
  }

 private:
  kj::AsyncIoContext* io_;
  bench::alarm alarm_;
  kj::UnixEventPort::FdObserver rings_{io_->unixEventPort, alarm_.descriptor(),
                                       kj::UnixEventPort::FdObserver::OBSERVE_READ};
};

kj::Promise<void> call_and_record(connection& server, bench::offered_load& load) {
  return server.call(load.next())
      .then([&load](capnp::Response<Echo::CallResults>&& reply) {
        load.answered(note_in(reply.getBytes()));
      })
      .eagerlyEvaluate(nullptr);
}

void call_by_the_clock(client_seat& seat) {
  auto io = kj::setupAsyncIo();
  connection server(io, seat);
  while (const auto count = seat.next_round()) {
    bench::offered_load load(seat, count);
    sleeper sleeper(io);
    kj::Vector<kj::Promise<void>> answers;
    while (!load.all_sent()) {
      sleeper.sleep_until(load.next_due());
      answers.add(call_and_record(server, load));
    }
    kj::joinPromises(answers.releaseAsArray()).wait(io.waitScope);
  }
}

// ---- one way ----------------------------------------------------------------------------------

void push_small(client_seat& seat) {
  auto io = kj::setupAsyncIo();
  connection server(io, seat);
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) server.push({i, 0});
    bench::expect_number(count, server.finish());
  }
}

void push_bulk(client_seat& seat) {
  const std::vector<std::byte> message(bench::bulk_bytes);
  auto io = kj::setupAsyncIo();
  connection server(io, seat);
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) server.push_in_place(message);
    bench::expect_number(count, server.finish());
  }
}

constexpr std::array entries{
    bench::entry{&bench::echo_rtt, "capnp", serve, time_round_trips},
    bench::entry{&bench::echo_throughput, "capnp", serve, echo_window},
    bench::entry{&bench::echo_32, "capnp", serve, echo_window},
    bench::entry{&bench::echo_256, "capnp", serve, echo_window},
    bench::entry{&bench::oneway_throughput, "capnp", serve, push_small},
    bench::entry{&bench::bulk_1mib, "capnp", serve, push_bulk},
    bench::entry{&bench::connect_reply, "capnp", serve, call_and_leave},
    bench::entry{&bench::load, "capnp", serve, call_by_the_clock},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of(argc, argv, entries);
}
