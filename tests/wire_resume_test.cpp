// SPDX-License-Identifier: Apache-2.0
// What a machine says and does between two connections, frame by frame, and what its peer must not
// say then. That two machines understand each other is for the simulation to show.
#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "support/raw_peer.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::wire::kind;
using hawser::wire::settings;
using hawser::wire::verdict;
using test::bytes;
using test::bytes_of;
using test::raw_peer;

namespace wire = hawser::wire;

constexpr std::size_t rpc = 2;     // a lane that does not resend
constexpr std::size_t stream = 4;  // one that does

wire::secret secret_of(int start) {
  wire::secret made{};
  for (std::size_t i = 0; i < made.size(); ++i) made[i] = static_cast<std::byte>(start + i);
  return made;
}

settings surviving() {
  settings made;
  made.local.window.fill(256 << 10);
  made.link_id = secret_of(1);
  made.survive = 30s;
  made.resend = {false, false, true, false};
  return made;
}

wire::welcome usual_welcome(const wire::secret& link_id = secret_of(1)) {
  wire::welcome made;
  made.features = wire::feature::resume;
  made.link_id = link_id;
  made.incarnation = 1;
  made.resume_secret = secret_of(3);
  made.limits.window.fill(256 << 10);
  return made;
}

// A client machine whose handshake is done.
raw_peer open_client(const settings& how = surviving()) {
  auto peer = raw_peer::of_client(how);
  static_cast<void>(peer.frames());
  peer.feed(wire::encode(usual_welcome()));
  static_cast<void>(peer->take_happenings());
  return peer;
}

void send(raw_peer& peer, std::size_t lane, std::string_view text) {
  hawser::message message(hawser::shared_buffer(hawser::buffer::copy_of(bytes_of(text))));
  REQUIRE(peer->send(lane, message) == verdict::accepted);
}

void break_connection(raw_peer& peer) {
  peer->pipe_ended(0, {});
  REQUIRE(peer->take_happenings().broken);
  REQUIRE(peer->offline());
  REQUIRE_FALSE(peer->has_output(0));
  peer->leave_connection(peer.now());
}

wire::hello greet(raw_peer& peer, const wire::secret& fresh_id = secret_of(9)) {
  REQUIRE(peer->greet(fresh_id, peer.now()));
  const auto frames = peer.frames();
  REQUIRE(frames.size() == 1);
  const auto hello = wire::decode_hello(frames[0].header);
  REQUIRE(hello.has_value());
  return *hello;
}

// The server holds the link and has received so much of it.
bytes welcome_back(const wire::lane_numbers& received) {
  auto made = usual_welcome();
  made.incarnation = 2;
  made.received = received;
  return wire::encode(made);
}

wire::resumption usual_resumption() {
  wire::resumption made;
  made.granted.fill(256 << 10);
  return made;
}

std::vector<std::string> texts(const std::vector<test::seen_frame>& frames) {
  std::vector<std::string> made;
  for (const auto& each : frames) {
    if (each.kind != kind::data) continue;
    made.emplace_back(reinterpret_cast<const char*>(each.payload.data()), each.payload.size());
  }
  return made;
}

bytes data(std::uint64_t channel, std::string_view text) {
  wire::data_header header;
  header.channel = channel;
  return test::data_frame(header, bytes_of(text));
}

}  // namespace

TEST_SUITE("wire_resume") {
  TEST_CASE("what did not arrive is sent again where it was kept, and counted as lost elsewhere") {
    auto peer = open_client();
    for (const auto* text : {"a", "b", "c"}) {
      send(peer, rpc, text);
      send(peer, stream, text);
    }
    CHECK(texts(peer.frames()).size() == 6);
    peer.feed(data(1, "heard"));
    break_connection(peer);

    const auto hello = greet(peer);
    CHECK(hello.link_id == secret_of(1));
    CHECK(hello.incarnation == 2);
    CHECK(hello.features == wire::feature::resume);
    CHECK(hello.resume_secret == secret_of(3));
    CHECK(hello.received[rpc] == 1);
    CHECK_FALSE(peer->take_happenings().established);
    peer.feed(welcome_back({0, 0, 1, 0, 1, 0, 0, 0}));
    const auto said = peer.only(kind::resumed);
    REQUIRE(said.has_value());
    const auto resumed = wire::decode_resumed(said->header);
    REQUIRE(resumed.has_value());
    CHECK(resumed->lost[rpc] == 2);
    CHECK(resumed->lost[stream] == 0);
    CHECK(resumed->received[rpc] == 80);
    CHECK(resumed->granted[rpc] == 256 << 10);
    CHECK(peer->offline());  // until the peer has said the same

    peer.feed(wire::encode(usual_resumption()));
    CHECK_FALSE(peer->offline());
    CHECK(peer->resumed());
    CHECK(peer->connections() == 2);
    CHECK(texts(peer.frames()) == std::vector<std::string>{"b", "c"});
    send(peer, rpc, "d");
    CHECK(texts(peer.frames()) == std::vector<std::string>{"d"});
    CHECK(peer->counts(rpc).accepted == 4);
    CHECK(peer->counts(rpc).sent == 4);
    CHECK(peer->counts(rpc).lost == 2);
    CHECK(peer->counts(stream).lost == 0);
    CHECK(peer->counts(stream).accepted == 3);
  }

  TEST_CASE("losses add up over connections, and the peer is told of all together") {
    auto peer = open_client();
    for (std::uint64_t round = 1; round <= 3; ++round) {
      send(peer, rpc, "x");
      static_cast<void>(peer.frames());
      break_connection(peer);
      static_cast<void>(greet(peer));
      auto back = usual_welcome();
      back.received.emplace();
      peer.feed(wire::encode(back));
      CHECK(wire::decode_resumed(peer.only(kind::resumed)->header)->lost[rpc] == round);
      auto theirs = usual_resumption();
      theirs.lost[rpc] = 10 * round;
      peer.feed(wire::encode(theirs));
      CHECK(peer->counts(rpc).missed == 10 * round);
    }
    CHECK(peer->counts(rpc).lost == 3);
    CHECK(peer->counts(rpc).accepted == 3);
  }

  TEST_CASE("what is kept is let go when it is consumed, and holds the sender back until then") {
    auto how = surviving();
    how.queue_bytes = 64 << 10;
    auto peer = open_client(how);
    const std::string large(30'000, 'x');
    send(peer, stream, large);
    static_cast<void>(peer.frames());
    send(peer, stream, large);
    static_cast<void>(peer.frames());
    send(peer, stream, large);
    static_cast<void>(peer.frames());
    hawser::message next(hawser::shared_buffer(hawser::buffer::copy_of(bytes_of("next"))));
    CHECK(peer->send(stream, next) == verdict::blocked);
    CHECK(peer->memory_in_use() > 90'000);

    static_cast<void>(peer->take_happenings());
    peer.feed(wire::encode(std::vector<wire::grant>{{stream, 256 << 10, 2, 60'000}}));
    CHECK(peer->take_happenings().writable == 1U << stream / 2);
    CHECK(peer->memory_in_use() < 40'000);
    CHECK(peer->send(stream, next) == verdict::accepted);
  }

  TEST_CASE("a message that was half sent begins anew, and waits for credit like any other") {
    auto peer = open_client();
    const std::string large(200'000, 'x');
    send(peer, rpc, large);
    std::array<std::span<const std::byte>, 1> piece;
    REQUIRE(peer->gather(0, piece) == 1);  // its first slice, or a part of it
    break_connection(peer);
    static_cast<void>(greet(peer));
    peer.feed(welcome_back({}));
    static_cast<void>(peer.frames());
    auto theirs = usual_resumption();
    theirs.received[rpc] = 1000;
    theirs.granted[rpc] = 1000 + 40'000;
    peer.feed(wire::encode(theirs));

    std::size_t payload = 0;
    for (const auto& frame : peer.frames()) payload += frame.payload.size();
    CHECK(payload > 16'384);
    CHECK(payload <= 40'000);
    hawser::message next(hawser::shared_buffer(hawser::buffer::copy_of(bytes_of("next"))));
    CHECK(peer->send(rpc, next) == verdict::blocked);
    peer.feed(wire::encode(std::vector<wire::grant>{{rpc, 256 << 10, 0, 1000}}));
    for (const auto& frame : peer.frames()) payload += frame.payload.size();
    CHECK(payload == large.size());
    CHECK(peer->send(rpc, next) == verdict::accepted);
    CHECK(peer->counts(rpc).lost == 0);
  }

  TEST_CASE("a server that does not hold the link is asked for a new one") {
    auto peer = open_client();
    for (const auto* text : {"a", "b"}) {
      send(peer, rpc, text);
      send(peer, stream, text);
    }
    static_cast<void>(peer.frames());
    peer.feed(wire::encode(std::vector<wire::grant>{{stream, 256 << 10, 1, 80},
                                                    {rpc, 256 << 10, 1, 80}}));
    break_connection(peer);
    static_cast<void>(greet(peer));
    peer.feed(wire::encode(wire::refusal{errc::refused, "not held"}));
    REQUIRE(peer->take_happenings().broken);
    peer->leave_connection(peer.now());
    CHECK_FALSE(peer->ended());
    CHECK_FALSE(peer->resumable());

    const auto hello = greet(peer, secret_of(9));
    CHECK(hello.link_id == secret_of(9));
    CHECK(hello.incarnation == 1);
    CHECK_FALSE(hello.resume_secret.has_value());
    peer.feed(wire::encode(usual_welcome(secret_of(9))));
    CHECK_FALSE(peer->offline());
    CHECK_FALSE(peer->resumed());
    CHECK(texts(peer.frames()) == std::vector<std::string>{"b"});
    CHECK(peer->counts(rpc).accepted == 2);
    CHECK(peer->counts(rpc).consumed == 1);
    CHECK(peer->counts(rpc).lost == 1);
    CHECK(peer->counts(stream).lost == 0);
    CHECK(peer->resumable());
  }

  TEST_CASE("what the application has not let go of bounds how many sessions may begin") {
    auto peer = open_client();
    std::vector<hawser::wire::inbound> held;
    const auto begin_anew = [&] {
      peer.feed(data(1, "unread"));
      held.push_back(*peer->take(1));
      break_connection(peer);
      static_cast<void>(greet(peer));
      peer.feed(wire::encode(wire::refusal{errc::refused, "not held"}));
      peer->leave_connection(peer.now());
    };
    begin_anew();
    static_cast<void>(greet(peer, secret_of(9)));
    peer.feed(wire::encode(usual_welcome(secret_of(9))));
    begin_anew();
    CHECK_FALSE(peer->greet(secret_of(10), peer.now()));
    peer->release(held[0].lane, held[0].cost, false);
    CHECK(peer->greet(secret_of(10), peer.now()));
    CHECK(peer->counts(rpc).received == 2);
    CHECK(peer->counts(rpc).taken == 2);
  }

  TEST_CASE("a link that was offline for too long is lost, and so is one that closes then") {
    for (const bool closes : {false, true}) {
      auto peer = open_client();
      break_connection(peer);
      CHECK(peer->next_deadline() == peer.now() + 30s);
      static_cast<void>(greet(peer));
      peer.pass(10s);
      peer.tick();  // the handshake has taken too long
      CHECK(peer->take_happenings().broken);
      peer->leave_connection(peer.now());
      CHECK_FALSE(peer->ended());
      if (closes) {
        peer->close(peer.now());
      } else {
        peer.pass(20s);
        peer.tick();
      }
      REQUIRE(peer->ended());
      CHECK(peer->why().code() == errc::link_lost);
      CHECK_FALSE(peer->has_output(0));
    }
  }

  TEST_CASE("silence and a peer that gives up for silence break a connection, not the link") {
    auto silent = open_client();
    silent.pass(20s);
    silent.tick();
    silent.pass(20s);
    silent.tick();
    CHECK(silent->offline());
    auto told = open_client();
    told.feed(wire::encode_close(errc::link_lost, "silence", {}));
    CHECK(told->offline());
    auto accused = open_client();
    accused.feed(wire::encode_close(errc::protocol_violation, "second END", {}));
    CHECK(accused->ended());
  }

  TEST_CASE("who does not survive, or has begun to close, ends with its connection") {
    auto how = surviving();
    how.survive = 0s;
    auto plain = open_client(how);
    plain->pipe_ended(0, {});
    CHECK(plain->ended());
    auto closing = open_client();
    closing->close(closing.now());
    closing->pipe_ended(0, {});
    CHECK(closing->ended());
    // A client that has not asked for it would never come back.
    auto server = raw_peer::of_server(surviving());
    server->pipe_ended(0, {});
    CHECK(server->ended());
  }

  TEST_CASE("a server holds a link for a client that asks, and only it may come back, once") {
    wire::hello hello;
    hello.features = wire::feature::resume;
    hello.link_id = secret_of(1);
    hello.incarnation = 1;
    auto how = surviving();
    how.resume_secret = secret_of(3);
    auto peer = raw_peer::of_server(how, hello);
    const auto welcome = wire::decode_welcome(peer.only(kind::welcome)->header);
    CHECK(welcome->features == wire::feature::resume);
    break_connection(peer);
    CHECK_FALSE(peer->may_resume(hello));  // that is the one before
    hello.incarnation = 2;
    hello.resume_secret = secret_of(3);
    REQUIRE(peer->may_resume(hello));
    peer->welcome_back(hello, secret_of(5), peer.now());
    const auto frames = peer.frames();
    REQUIRE(frames.size() == 2);
    const auto back = wire::decode_welcome(frames[0].header);
    CHECK(back->received.has_value());
    CHECK(back->incarnation == 2);
    CHECK(back->attach_secret == secret_of(5));
    CHECK(frames[1].kind == kind::resumed);
    CHECK(peer->offline());
    peer.feed(wire::encode(usual_resumption()));
    CHECK_FALSE(peer->offline());
    CHECK(peer->resumed());
  }

  TEST_CASE("a server does not wait for ever for the rest of a handshake") {
    wire::hello hello;
    hello.features = wire::feature::resume;
    hello.incarnation = 1;
    auto peer = raw_peer::of_server(surviving(), hello);
    static_cast<void>(peer.frames());
    break_connection(peer);
    hello.incarnation = 2;
    peer->welcome_back(hello, {}, peer.now());
    peer.pass(10s);
    CHECK(peer->next_deadline() <= peer.now());
    peer.tick();
    CHECK(peer->take_happenings().broken);
  }

  TEST_CASE("what a peer must not say when it resumes") {
    struct offence {
      const char* name;
      std::function<void(raw_peer&)> commit;
      errc code = errc::protocol_violation;
    };
    const auto resume = [](raw_peer& peer, const wire::resumption& said) {
      peer.feed(welcome_back({0, 0, 2, 0, 2, 0, 0, 0}));
      static_cast<void>(peer.frames());
      peer.feed(wire::encode(said));
    };
    const std::vector<offence> offences{
        {"more than was sent", [](raw_peer& p) { p.feed(welcome_back({0, 0, 4, 0, 0, 0, 0, 0})); }},
        {"less than was consumed", [](raw_peer& p) { p.feed(welcome_back({})); }},
        {"a new link", [](raw_peer& p) { p.feed(wire::encode(usual_welcome())); }},
        {"another link",
         [](raw_peer& p) {
           auto other = usual_welcome(secret_of(7));
           other.received.emplace();
           p.feed(wire::encode(other));
         }},
        {"data before RESUMED",
         [](raw_peer& p) {
           p.feed(welcome_back({0, 0, 2, 0, 2, 0, 0, 0}));
           p.feed(data(1, "early"));
         }},
        {"credit before RESUMED",
         [](raw_peer& p) {
           p.feed(welcome_back({0, 0, 2, 0, 2, 0, 0, 0}));
           p.feed(wire::encode(std::vector<wire::grant>{{2, 1 << 20, 0, 0}}));
         }},
        {"more consumed than arrived",
         [&](raw_peer& p) {
           auto said = usual_resumption();
           said.consumed[rpc] = 3;
           resume(p, said);
         }},
        {"more spent than granted",
         [&](raw_peer& p) {
           auto said = usual_resumption();
           said.received[rpc] = said.granted[rpc] + 1;
           resume(p, said);
         }},
        {"RESUMED twice",
         [&](raw_peer& p) {
           resume(p, usual_resumption());
           REQUIRE_FALSE(p->ended());
           p.feed(wire::encode(usual_resumption()));
         }},
        {"a version that nobody offered",
         [](raw_peer& p) {
           auto back = usual_welcome();
           back.version = 9;
           p.feed(wire::encode(back));
         },
         errc::unsupported},
        {"refused for good",
         [](raw_peer& p) { p.feed(wire::encode(wire::refusal{errc::unsupported, "too old"})); },
         errc::unsupported},
    };
    for (const auto& each : offences) {
      INFO(each.name);
      auto peer = open_client();
      for (const auto* text : {"a", "b", "c"}) {
        send(peer, rpc, text);
        send(peer, stream, text);
      }
      static_cast<void>(peer.frames());
      peer.feed(wire::encode(std::vector<wire::grant>{{rpc, 256 << 10, 1, 80}}));
      break_connection(peer);
      static_cast<void>(greet(peer));
      each.commit(peer);
      REQUIRE(peer->ended());
      CHECK_MESSAGE(peer->why().code() == each.code, peer->why().text());
    }
  }

  TEST_CASE("a new session with a peer that takes less than before is refused") {
    auto peer = open_client();
    break_connection(peer);
    static_cast<void>(greet(peer));
    peer.feed(wire::encode(wire::refusal{errc::refused, "not held"}));
    peer->leave_connection(peer.now());
    static_cast<void>(greet(peer, secret_of(9)));
    auto smaller = usual_welcome(secret_of(9));
    smaller.limits.message_bytes[1] = 1000;
    peer.feed(wire::encode(smaller));
    REQUIRE(peer->ended());
    CHECK(peer->why().code() == errc::unsupported);
  }
}
