// SPDX-License-Identifier: Apache-2.0
// Two machines joined by a simulated wire, and one machine whose peer is the test.
#include "wire/machine.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "support/environment.hpp"
#include "support/raw_peer.hpp"
#include "support/simulated_wire.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::wire::machine;
using hawser::wire::settings;
using hawser::wire::verdict;
using test::bytes;
using test::bytes_of;
using test::message_of;
using test::operator+;
using test::simulated_wire;

constexpr std::size_t control = 0;
constexpr std::size_t rpc = 2;
constexpr std::size_t stream = 4;
constexpr std::size_t bulk = 6;

settings usual() {
  settings made;
  made.local.window = {64 << 10, 16 << 10, 256 << 10, 16 << 10,
                       1 << 20,  16 << 10, 4 << 20,   16 << 10};
  made.link_id.fill(std::byte{7});
  made.attach_secret.fill(std::byte{8});
  made.resume_secret.fill(std::byte{9});
  return made;
}

// A client and a server, joined; the handshake is done when settle() returns.
struct joined {
  explicit joined(const settings& of_client = usual(), const settings& of_server = usual(),
                  test::wire_habits habits = {})
      : client(of_client, test::simulated_start()),
        server(of_server, greeting(of_client), test::simulated_start()),
        wire(client, server, test::seed(), habits) {
    // The server was made from the hello that the client has written: pass over those bytes.
    std::array<std::span<const std::byte>, 4> pieces;
    static_cast<void>(client.gather(0, pieces));
    client.written(0);
  }
  static hawser::wire::hello greeting(const settings& of_client) {
    hawser::wire::hello made;
    made.link_id = of_client.link_id;
    made.limits = of_client.local;
    return made;
  }

  machine client;
  machine server;
  simulated_wire wire;
};

std::string text_of(const hawser::wire::inbound& from) {
  return {reinterpret_cast<const char*>(from.payload.data()), from.payload.size()};
}

}  // namespace

TEST_SUITE("wire") {
  TEST_CASE("a message arrives with its bytes, id and codec") {
    joined both;
    both.wire.settle();

    CHECK(both.client.send(rpc, bytes_of("question"), {42, hawser::codec::json}) ==
          verdict::accepted);
    both.wire.settle();

    const auto arrived = both.server.take(1);
    REQUIRE(arrived.has_value());
    CHECK(text_of(*arrived) == "question");
    CHECK(arrived->header.id == 42);
    CHECK(arrived->header.encoding == hawser::codec::json);
    CHECK_FALSE(both.server.take(1).has_value());
  }

  TEST_CASE("messages sent right behind the hello arrive") {
    joined both;

    CHECK(both.client.send(control, bytes_of("early"), {}) == verdict::accepted);
    CHECK(both.client.send(rpc, bytes_of("bird"), {}) == verdict::accepted);
    CHECK(both.client.send(stream, bytes_of("too early"), {}) == verdict::blocked);
    both.wire.settle();

    const auto first = both.server.take(0);
    REQUIRE(first.has_value());
    CHECK(text_of(*first) == "early");
    CHECK(both.server.take(1).has_value());
    CHECK((both.wire.happened(simulated_wire::client).writable & 1U << 2) != 0);
    CHECK(both.client.established());
  }

  TEST_CASE("a large message travels in slices and arrives as one") {
    joined both;
    both.wire.settle();
    auto sent = message_of(1, 10'000'000, {5, hawser::codec::msgpack});

    CHECK(both.client.send(bulk, sent) == verdict::started);
    CHECK(both.client.growing(bulk));
    both.wire.settle();

    CHECK_FALSE(both.client.growing(bulk));
    CHECK(both.client.accepted(bulk) == 1);
    auto arrived = both.server.take(3);
    REQUIRE(arrived.has_value());
    CHECK(arrived->payload.size() == 10'000'000);
    CHECK(test::has_pattern(arrived->payload.bytes(), 1));
    CHECK(arrived->header.id == 5);
    both.server.release(bulk, arrived->cost, arrived->reassembled);
    both.wire.settle();
    CHECK(both.client.available(bulk) >= (4 << 20) * 3 / 4);
  }

  TEST_CASE("a pipe that comes while a link closes leaves nothing that is due for ever") {
    unsigned tried = 0;
    for (unsigned steps = 0;; ++steps) {
      joined link;
      link.wire.settle();
      link.client.close(link.wire.now());
      link.server.close(link.wire.now());
      for (unsigned i = 0; i < steps; ++i) link.wire.step();
      if (link.client.ended()) break;
      link.client.attached(1);
      std::array<std::span<const std::byte>, 64> pieces;
      for (unsigned i = 0; i < 3 && link.client.gather(0, pieces) != 0; ++i) link.client.written(0);
      CHECK_FALSE(link.client.has_output(0));
      ++tried;
    }
    CHECK(tried > 2);
  }

  TEST_CASE("closing exchanges the final sequences and ends both sides") {
    joined both;
    both.wire.settle();

    CHECK(both.client.send(stream, bytes_of("last words"), {}) == verdict::accepted);
    both.client.close(both.wire.now());
    both.wire.settle();

    REQUIRE(both.client.ended());
    REQUIRE(both.server.ended());
    CHECK(both.client.why().code() == errc::closed);
    CHECK(both.server.why().code() == errc::closed);
    CHECK(both.server.take(2).has_value());
    CHECK(both.server.at_end(2));
  }

  TEST_CASE("what makes a lane unusual holds for the next small message") {
    const auto small = [](const char* text) { return bytes_of(text); };
    joined both;
    both.wire.settle();
    const auto send = [&](const char* text) { return both.client.send(rpc, small(text), {}); };
    std::vector<std::string> expected;
    const auto accepted = [&](const char* text) {
      expected.emplace_back(text);
      return send(text) == verdict::accepted;
    };

    CHECK(accepted("usual"));
    auto large = message_of(1, 100'000);
    CHECK(both.client.send(rpc, large) == verdict::accepted);
    expected.emplace_back("large");
    CHECK(accepted("behind a large one"));
    both.wire.settle();
    CHECK(accepted("usual again"));
    both.wire.attach(1);
    CHECK(accepted("before it has moved"));
    both.wire.settle();
    CHECK(accepted("on its own pipe"));
    both.client.finish(1);
    CHECK(send("too late") == verdict::ended);
    both.wire.settle();

    for (const auto& each : expected) {
      const auto next = both.server.take(1);
      REQUIRE(next.has_value());
      CHECK((each == "large" ? next->payload.size() == 100'000 : text_of(*next) == each));
    }
    CHECK(both.server.at_end(1));
    CHECK(both.client.send(control, small("open"), {}) == verdict::accepted);
    both.client.close(both.wire.now());
    CHECK(both.client.send(control, small("closing"), {}) == verdict::ended);
  }

  TEST_CASE("small messages are blocked when the credit or the queue is used up") {
    auto narrow = usual();
    narrow.queue_bytes = 4096;
    for (const bool by_queue : {false, true}) {
      joined both(by_queue ? narrow : usual());
      both.wire.settle();
      std::uint64_t cost = 0;
      while (both.client.send(control, bytes_of("12345678"), {}) == verdict::accepted) cost += 80;
      CHECK(both.client.available(control) >= 0);
      CHECK(cost <= (by_queue ? (4096 / 16 + 1) * 80 : 64 << 10));
      CHECK(cost + 80 > (by_queue ? 4096 / 16 * 80 : 64 << 10));
      both.wire.settle();
      CHECK(both.server.counts(control).received == cost / 80);
    }
  }

  TEST_CASE("who waits for a write to be done: a sender, memory, more output, the end; or nobody") {
    settings few = usual();
    few.queue_bytes = 1000;
    joined link(few);
    link.wire.settle();
    machine& client = link.client;
    const std::vector<std::byte> small(100);
    const auto writes = [](machine& from) {
      std::array<std::span<const std::byte>, 4> pieces;
      REQUIRE(from.gather(0, pieces) != 0);
      const bool awaited = from.awaits_written(0);
      from.written(0);
      return awaited;
    };
    const auto write = [&] { return writes(client); };

    CHECK(client.send(rpc, small, {}) == verdict::accepted);
    CHECK_FALSE(write());

    while (client.send(rpc, small, {}) == verdict::accepted) {
    }
    CHECK(write());
    CHECK(client.send(rpc, small, {}) == verdict::accepted);
    CHECK_FALSE(write());

    auto owned = message_of(1, 8000);
    CHECK(client.send(rpc, owned) == verdict::accepted);
    CHECK(write());
    CHECK(client.send(rpc, small, {}) == verdict::accepted);
    CHECK_FALSE(write());

    auto more_than_pieces = message_of(2, 200'000);
    CHECK(client.send(bulk, more_than_pieces) == verdict::accepted);
    CHECK(write());
    while (client.has_output(0)) CHECK(write());

    machine& server = link.server;
    server.close(test::simulated_start());
    CHECK(writes(server));
  }

  TEST_CASE("what is sent at once is blocked instead of started") {
    joined both;
    both.wire.settle();
    const auto large = test::pattern(1, 6 << 20);
    CHECK(both.client.send_at_once(bulk, large, {}) == verdict::blocked);
    CHECK_FALSE(both.client.growing(bulk));
    CHECK(both.client.send_at_once(bulk, bytes_of("small"), {}) == verdict::accepted);
    CHECK(both.client.send(bulk, large, {}) == verdict::started);
    both.wire.settle();
    CHECK(both.client.accepted(bulk) == 2);
  }

  TEST_CASE("a message that its credit does not cover is accepted once the rest is granted") {
    joined both;
    both.wire.settle();
    auto first = message_of(1, 3 << 20);
    CHECK(both.client.send(bulk, first) == verdict::accepted);
    auto second = message_of(2, 6 << 20);
    CHECK(both.client.send(bulk, second) == verdict::started);
    CHECK(second.size() == 0);
    CHECK(both.client.send(bulk, bytes_of("third"), {}) == verdict::blocked);
    static_cast<void>(both.wire.happened(simulated_wire::client));

    both.wire.settle();

    CHECK(both.client.accepted(bulk) == 2);
    CHECK((both.wire.happened(simulated_wire::client).writable & 1U << 3) != 0);
    CHECK(both.client.send(bulk, bytes_of("third"), {}) == verdict::accepted);
    both.wire.settle();
    for (const std::size_t size : {3UL << 20, 6UL << 20, 5UL}) {
      const auto next = both.server.take(3);
      REQUIRE(next.has_value());
      CHECK(next->payload.size() == size);
    }
  }

  TEST_CASE("a message that closing finds half accepted is given up, and no other") {
    auto poor = usual();
    poor.reassembly_bytes = 1 << 20;
    joined both(usual(), poor);
    both.wire.settle();
    auto blocker = message_of(1, 8 << 20);  // takes the budget while nobody reads it
    CHECK(both.client.send(stream, blocker) == verdict::started);
    both.wire.settle();
    CHECK(both.client.accepted(stream) == 1);
    auto stuck = message_of(2, 8 << 20);
    CHECK(both.client.send(bulk, stuck) == verdict::started);
    both.wire.settle();
    CHECK(both.client.growing(bulk));

    both.client.close(both.wire.now());
    both.wire.settle();

    CHECK_FALSE(both.client.growing(bulk));
    CHECK(both.client.abandoned(bulk));
    CHECK_FALSE(both.client.abandoned(stream));
    CHECK(both.client.why().code() == errc::closed);
    CHECK(both.server.why().code() == errc::closed);
    CHECK(both.server.take(2).has_value());
    CHECK_FALSE(both.server.take(3).has_value());
    CHECK(both.server.at_end(3));
    CHECK(both.client.counts(bulk).accepted == 0);
  }

  TEST_CASE("the start of a message given up may come in behind END and CLOSE, on its own pipe") {
    auto poor = usual();
    poor.local.window[bulk] = 64 << 10;
    joined both(usual(), poor);
    both.wire.settle();
    both.wire.attach(3);
    both.wire.settle();
    auto large = message_of(1, 1 << 20);
    CHECK(both.client.send(bulk, large) == verdict::started);
    both.client.finish(3);
    std::array<std::span<const std::byte>, 16> pieces;
    bytes start;
    const std::size_t count = both.client.gather(3, pieces);
    for (const auto piece : std::span(pieces).first(count)) start = std::move(start) + piece;
    both.client.written(3);
    CHECK(start.size() > 16 << 10);

    both.client.close(both.wire.now());
    while (!both.server.closing()) REQUIRE(both.wire.step());
    auto* const block = hawser::detail::allocate_block(start.size());
    std::memcpy(block->data(), start.data(), start.size());
    both.server.receive(3, block, start.size(), both.wire.now());
    both.wire.settle();

    CHECK_MESSAGE(both.client.why().code() == errc::closed, both.client.why().text());
    CHECK_MESSAGE(both.server.why().code() == errc::closed, both.server.why().text());
    CHECK(both.server.at_end(3));
  }

  TEST_CASE("large messages wait for the reassembly budget in turn, and for nothing else") {
    auto poor = usual();
    poor.reassembly_bytes = 1 << 20;
    joined both(usual(), poor);
    both.wire.settle();
    for (const std::size_t lane : {stream, bulk}) {
      auto large = message_of(lane, 8 << 20);
      CHECK(both.client.send(lane, large) == verdict::started);
    }

    std::size_t arrived = 0;
    for (int round = 0; round < 4; ++round) {
      both.wire.settle();
      CHECK(both.server.memory_in_use() < 20 << 20);
      for (const std::size_t channel : {2, 3}) {
        auto next = both.server.take(channel);
        if (!next.has_value()) continue;
        ++arrived;
        CHECK(test::has_pattern(next->payload.bytes(), 2 * channel));
        both.server.release(next->lane, next->cost, next->reassembled);
      }
    }
    CHECK(arrived == 2);
  }

  TEST_CASE("the last quarter of a window is never waited for") {
    // What is released but not worth a grant may be just what a message would need.
    for (const std::size_t ahead : {0, 5000, 16'000}) {
      joined both;
      both.wire.settle();
      CHECK(both.client.send(control, test::pattern(1, ahead), {}) == verdict::accepted);
      both.wire.settle();
      auto next = both.server.take(0);
      REQUIRE(next.has_value());
      both.server.release(next->lane, next->cost, next->reassembled);
      both.wire.settle();

      auto large = message_of(2, 64'000);
      const auto said = both.client.send(control, large);
      CHECK((said == verdict::accepted || said == verdict::started));
      both.wire.settle();

      const auto arrived = both.server.take(0);
      REQUIRE(arrived.has_value());
      CHECK(test::has_pattern(arrived->payload.bytes(), 2));
      CHECK(both.client.accepted(control) == 2);
    }
  }

  TEST_CASE("what the peer would not take is too large, and harms nothing") {
    joined both;
    both.wire.settle();

    CHECK(both.client.send(control, test::pattern(1, (64 << 10) + 1), {}) == verdict::too_large);
    CHECK(both.client.send(control + 1, test::pattern(1, 12'288), {}) == verdict::too_large);
    CHECK(both.client.send(control + 1, test::pattern(1, 12'200), {}) == verdict::accepted);
    auto huge = message_of(1, (16 << 20) + 1);
    CHECK(both.client.send(bulk, huge) == verdict::too_large);
    CHECK(huge.size() == (16 << 20) + 1);
    both.wire.settle();
    CHECK_FALSE(both.client.ended());
  }

  TEST_CASE("a lane with a window too small for slices takes small messages only") {
    auto narrow = usual();
    narrow.local.window[stream] = 8 << 10;
    joined both(usual(), narrow);
    both.wire.settle();

    CHECK(both.client.send(stream, test::pattern(1, 6000), {}) == verdict::accepted);
    CHECK(both.client.send(stream, test::pattern(1, 6200), {}) == verdict::too_large);
    CHECK(both.client.send(stream, test::pattern(1, 100'000), {}) == verdict::too_large);
  }

  TEST_CASE("a finished channel takes no more sends and ends on the other side") {
    joined both;
    both.wire.settle();
    CHECK(both.client.send(rpc, bytes_of("last"), {}) == verdict::accepted);
    both.client.finish(1);

    CHECK(both.client.finished(1));
    CHECK(both.client.send(rpc, bytes_of("late"), {}) == verdict::ended);
    CHECK(both.client.send(rpc + 1, bytes_of("late"), {}) == verdict::ended);
    CHECK(both.client.send(stream, bytes_of("other"), {}) == verdict::accepted);
    both.wire.settle();

    CHECK_FALSE(both.server.at_end(1));
    CHECK(both.server.take(1).has_value());
    CHECK(both.server.at_end(1));
    CHECK_FALSE(both.server.at_end(2));
    CHECK(both.server.send(rpc, bytes_of("answer"), {}) == verdict::accepted);
    both.wire.settle();
    CHECK(both.client.take(1).has_value());
  }

  TEST_CASE("an END that finds nothing to read is told") {
    joined both;
    both.wire.settle();
    static_cast<void>(both.wire.happened(simulated_wire::server));
    both.client.finish(2);
    both.wire.settle();
    CHECK((both.wire.happened(simulated_wire::server).readable & 1U << 2) != 0);
    CHECK(both.server.at_end(2));
  }

  TEST_CASE("sent counts what the system has, also across a move to another pipe") {
    joined both;
    both.wire.settle();
    std::array<std::span<const std::byte>, 1> one;
    auto large = message_of(1, 100'000);
    CHECK(both.client.send(stream, large) == verdict::accepted);
    // A system that takes one piece at a time does not have all of it after a write.
    CHECK(both.client.gather(0, one) == 1);
    both.client.written(0);
    CHECK(both.client.sent(stream) == 0);
    both.client.attached(2);
    auto behind = message_of(2, 100'000);  // in the same pipe, behind MOVED
    CHECK(both.client.send(bulk, behind) == verdict::accepted);

    while (both.client.gather(0, one) != 0) both.client.written(0);

    CHECK(both.client.sent(stream) == 1);
    CHECK((both.wire.happened(simulated_wire::client).flushed & 1U << 2) != 0);
  }

  TEST_CASE("a channel that is used asks for a pipe, once, if both sides want several") {
    for (const bool several : {true, false}) {
      auto single = usual();
      single.local.pipes = 1;
      joined both(usual(), several ? usual() : single);
      both.wire.settle();
      static_cast<void>(both.wire.happened(simulated_wire::client));

      CHECK(both.client.send(control, bytes_of("x"), {}) == verdict::accepted);
      CHECK(both.wire.happened(simulated_wire::client).attach_wanted == 0);
      CHECK(both.client.send(stream, bytes_of("x"), {}) == verdict::accepted);
      CHECK(both.wire.happened(simulated_wire::client).attach_wanted == (several ? 1U << 2 : 0));
      CHECK(both.client.send(stream, bytes_of("x"), {}) == verdict::accepted);
      CHECK(both.wire.happened(simulated_wire::client).attach_wanted == 0);
      CHECK(both.server.attach_allowed(2) == several);
      CHECK_FALSE(both.server.attach_allowed(0));
      CHECK_FALSE(both.server.attach_allowed(4));
    }
  }

  TEST_CASE("attached pipes carry their channels, and closing in order works over four") {
    joined both;
    both.wire.settle();
    for (const std::size_t channel : {1, 2, 3}) both.wire.attach(channel);
    both.wire.settle();
    CHECK(both.client.pipes() == 4);
    CHECK(both.server.pipes() == 4);
    CHECK_FALSE(both.server.attach_allowed(1));

    const auto before = both.wire.carried(simulated_wire::client, 0);
    for (const std::size_t lane : {rpc, rpc + 1, stream, bulk}) {
      CHECK(both.client.send(lane, test::pattern(lane, 5000), {}) == verdict::accepted);
    }
    both.wire.settle();
    CHECK(both.wire.carried(simulated_wire::client, 0) == before);
    CHECK(both.wire.carried(simulated_wire::client, 1) > 10'000);
    CHECK(both.wire.carried(simulated_wire::client, 2) > 5'000);
    both.server.close(both.wire.now());
    both.wire.settle();

    CHECK(both.client.why().code() == errc::closed);
    CHECK(both.server.why().code() == errc::closed);
    for (const std::size_t lane : {rpc + 1, rpc, stream, bulk}) {  // urgent first
      const auto next = both.server.take(lane / 2);
      REQUIRE(next.has_value());
      CHECK(next->lane == lane);
      CHECK(test::has_pattern(next->payload.bytes(), lane));
    }
  }

  TEST_CASE("bulk does not starve and does not hold up the channels before it") {
    auto equal = usual();
    equal.local.window.fill(1 << 20);
    joined both(usual(), equal);
    both.wire.settle();
    // All compete for the control pipe; the peer reads and releases everything.
    std::array<std::uint64_t, 4> delivered{};
    std::uint64_t rounds = 0;
    for (; rounds < 3000; ++rounds) {
      for (const std::size_t lane : {rpc, stream, bulk}) {
        auto next = message_of(1, 60'000);
        static_cast<void>(both.client.send(lane, next));
      }
      static_cast<void>(both.wire.step());
      for (std::size_t channel = 0; channel < 4; ++channel) {
        auto next = both.server.take(channel);
        if (!next.has_value()) continue;
        ++delivered[channel];
        both.server.release(next->lane, next->cost, next->reassembled);
      }
    }
    CHECK(delivered[3] > 5);
    CHECK(delivered[1] > 2 * delivered[2]);
    CHECK(delivered[2] > 2 * delivered[3]);
  }

  TEST_CASE("blocks that messages keep alive are bounded; beyond, messages are copied out") {
    for (const std::size_t budget : {0, 1 << 20}) {
      auto thrifty = usual();
      thrifty.pinned_bytes = budget;
      auto peer = test::raw_peer::of_server(thrifty, joined::greeting(usual()));
      const bytes frame = test::data_frame({1, 0, 0, 0, 0}, test::pattern(1, 50));
      auto* const block = hawser::detail::allocate_block(1 << 16);
      std::memcpy(block->data(), frame.data(), frame.size());
      const std::byte* const where = block->data();

      peer->receive(0, block, frame.size(), peer.now());

      const auto next = peer->take(1);
      REQUIRE(next.has_value());
      const bool shared = next->payload.data() == where + 8;
      CHECK(shared == (budget != 0));
      CHECK(test::has_pattern(next->payload.bytes(), 1));
    }
  }

  TEST_CASE("a payload outlives its machine") {
    std::optional<hawser::wire::inbound> kept;
    {
      auto peer = test::raw_peer::of_server(usual(), joined::greeting(usual()));
      peer.feed(test::data_frame({1, 0, 0, 0, 0}, test::pattern(1, 50)));
      kept = peer->take(1);
    }
    REQUIRE(kept.has_value());
    CHECK(test::has_pattern(kept->payload.bytes(), 1));
  }

  TEST_CASE("a link that is lost gives what had arrived, and says so to everybody who waits") {
    joined both;
    both.wire.settle();
    CHECK(both.client.send(rpc, bytes_of("arrived"), {}) == verdict::accepted);
    both.wire.settle();
    static_cast<void>(both.wire.happened(simulated_wire::server));

    both.wire.reset(0);

    const auto news = both.wire.happened(simulated_wire::server);
    CHECK(news.ended);
    CHECK(news.readable == 15);
    CHECK(news.writable == 15);
    CHECK(news.flushed == 15);
    CHECK(both.server.why().code() == errc::link_lost);
    CHECK(both.server.take(1).has_value());
    CHECK_FALSE(both.server.at_end(1));
    CHECK(both.server.send(rpc, bytes_of("x"), {}) == verdict::ended);
    CHECK(both.server.next_deadline() == hawser::clock::time_point::max());
  }

  TEST_CASE("a pipe that ends after both have said CLOSE does not lose the link") {
    joined both;
    both.wire.settle();
    both.wire.attach(3);
    both.wire.settle();
    both.server.close(both.wire.now());
    while (!both.client.closing()) REQUIRE((both.wire.step() || both.wire.advance()));

    both.client.pipe_ended(3, {});
    CHECK_FALSE(both.client.ended());
    both.wire.settle();

    CHECK(both.client.why().code() == errc::closed);
  }

  TEST_CASE("forwarding a received message returns its credit when it has left") {
    joined both;
    both.wire.settle();
    auto large = message_of(1, 50'000);
    CHECK(both.client.send(rpc, large) == verdict::accepted);
    CHECK(large.size() == 0);  // its bytes are the machine's until they are written
    CHECK(both.client.memory_in_use() >= 50'000);
    both.wire.settle();
    CHECK(both.client.memory_in_use() == 0);
  }

  TEST_CASE("a link that has ended lets go of what is half sent and half received") {
    joined both;
    both.wire.settle();
    for (machine* const side : {&both.client, &both.server}) {
      auto large = message_of(1, 10 << 20);
      CHECK(side->send(bulk, large) == verdict::started);
      CHECK(side->send(rpc, test::pattern(2, 50'000), {}) == verdict::accepted);
    }
    for (int i = 0; i < 20; ++i) static_cast<void>(both.wire.step());
    both.wire.reset(0);

    for (machine* const side : {&both.client, &both.server}) {
      CHECK(side->memory_in_use() >= 10 << 20);
      side->drop_output();
      CHECK(side->memory_in_use() == 0);
      CHECK_FALSE(side->has_output(0));
    }
  }

  TEST_CASE("closing before the handshake is done closes once it is") {
    joined both;
    CHECK(both.client.send(rpc, bytes_of("early"), {}) == verdict::accepted);
    both.client.close(both.wire.now());
    CHECK(both.client.send(rpc, bytes_of("late"), {}) == verdict::ended);
    both.wire.settle();

    CHECK(both.client.why().code() == errc::closed);
    CHECK(both.server.take(1).has_value());
  }
}
