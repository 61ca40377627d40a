// SPDX-License-Identifier: Apache-2.0
// What a peer must not do, one by one: the link ends with the right code, the peer is told, and
// nothing is kept. Each frame is fed whole and byte by byte. Leaks are for the sanitizer to find.
#include "wire/machine.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/msgpack.hpp"
#include "support/environment.hpp"
#include "support/raw_peer.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::detail::header_writer;
using hawser::wire::data_header;
using hawser::wire::kind;
using hawser::wire::settings;
using hawser::wire::verdict;
using test::bytes;
using test::bytes_of;
using test::data_frame;
using test::frame_of;
using test::operator+;
using test::raw_peer;

namespace wire = hawser::wire;

settings small() {
  settings made;
  made.local.window = {32 << 10, 8 << 10, 128 << 10, 8 << 10,
                       64 << 10, 8 << 10, 256 << 10, 8 << 10};
  made.local.message_bytes = {64 << 10, 1 << 20, 1 << 20, 1 << 20};
  made.local.frame_bytes = 128 << 10;
  made.attach_secret.fill(std::byte{1});
  return made;
}

wire::hello generous_hello() {
  wire::hello made;
  made.limits.window.fill(1 << 20);
  return made;
}

// A header: what `write` puts into an array of `elements`.
bytes header_of(std::size_t elements, const std::function<void(header_writer&)>& write) {
  bytes room(8192);
  header_writer out(room);
  out.array(elements);
  write(out);
  room.resize(out.size());
  return room;
}

bytes numbers(std::initializer_list<std::uint64_t> values) {
  return header_of(values.size(), [&](header_writer& out) {
    for (const auto value : values) out.number(value);
  });
}

bytes control_frame(std::initializer_list<std::uint64_t> values) {
  return frame_of(numbers(values));
}

bytes data(std::uint64_t channel, std::size_t size, std::uint64_t flags = 0,
           std::uint64_t total = 0) {
  data_header header;
  header.channel = channel;
  header.flags = flags;
  header.total = total;
  return data_frame(header, test::pattern(channel, size));
}

bytes close_frame(std::uint64_t code, const wire::lane_numbers& finals) {
  return wire::encode_close(static_cast<errc>(code), "", finals);
}

// A data frame on rpc with one element more, which nobody knows.
bytes data_with_extension(std::span<const std::byte> extension) {
  auto header = numbers({8, 1, 0, 0, 0, 0});
  header[0] = std::byte{0x97};
  return frame_of(std::move(header) + extension, bytes_of("payload."));
}

bytes nested(std::size_t depth) {
  bytes made(depth, std::byte{0x91});
  made.push_back(std::byte{0x01});
  return made;
}

struct offence {
  std::string_view name;
  bytes sent;
  errc code = errc::protocol_violation;
  std::size_t pipe = 0;
};

void expect_end(raw_peer& peer, errc code, std::string_view name) {
  INFO(name);
  REQUIRE(peer->ended());
  CHECK_MESSAGE(peer->why().code() == code, peer->why().text());
  CHECK(peer.close_code() == code);
  CHECK_FALSE(peer->has_output(0));
  CHECK(peer->next_deadline() == hawser::clock::time_point::max());
}

// The server has an attached pipe for the stream, to which its peer has not moved yet.
void commit(const offence& each) {
  for (const std::size_t split : {std::size_t{1} << 30, std::size_t{1}, std::size_t{13}}) {
    auto peer = raw_peer::of_server(small(), generous_hello());
    peer->attached(2);
    peer.feed(each.sent, each.pipe, split);
    expect_end(peer, each.code, each.name);
    const auto received = peer->counts(2).received;
    peer.feed(data(1, 100));  // what comes after the end changes nothing
    CHECK(peer->counts(2).received == received);
  }
}

}  // namespace

TEST_SUITE("wire_hostile") {
  TEST_CASE("a frame that breaks the rules ends the link and says why") {
    const bytes large_total = data(1, 16 << 10, wire::flag::continued, (1 << 20) + 1);
    const bytes first_slice = data(1, 16 << 10, wire::flag::continued, 40'000);
    bytes long_name(5000, std::byte{'x'});
    const std::vector<offence> offences{
        {"a web browser", bytes_of("GET / HTTP/1.1\r\nHost: here\r\n\r\n"), errc::too_large},
        {"length zero", bytes(8)},
        {"length one", frame_of(bytes(1))},
        {"no array", frame_of(bytes(8, std::byte{0xc0}))},
        {"empty array", frame_of(bytes(2, std::byte{0x90}))},
        {"kind is no number", frame_of(header_of(2,
                                                 [](header_writer& out) {
                                                   out.text("data");
                                                   out.number(1);
                                                 }))},
        {"a frame above the limit", bytes_of({"\x01\x10\x02\x00\x93\x08\x01\x00", 8}),
         errc::too_large},
        {"a frame of four gigabytes", bytes(8, std::byte{0xff}), errc::too_large},
        {"a slice above the limit", data(3, (128 << 10) + 1), errc::too_large},
        {"a message above the limit", data(0, (64 << 10) + 1), errc::too_large},
        {"a total above the limit", large_total, errc::too_large},
        {"a total of 2^64-1", data(1, 16 << 10, wire::flag::continued, ~std::uint64_t{0}),
         errc::too_large},
        {"a control frame above the limit",
         frame_of(numbers({10, 1}) + std::span<const std::byte>(long_name)), errc::too_large},
        {"a control frame far above the limit", frame_of(numbers({10, 1}) + bytes(20'000)),
         errc::too_large},
        {"a data header that is cut", frame_of(bytes_of("\x93\x08"))},
        {"a data header that does not end in its frame", frame_of(bytes_of("\x96\x08\x01"))},
        {"a data header longer than the limit",
         frame_of(bytes_of({"\x97\x08\x01\x00\x00\x00\x00\xc5\x13\x88", 10}) +
                      std::span<const std::byte>(long_name),
                  bytes(20'000))},
        {"a channel that does not exist", control_frame({8, 4, 0})},
        {"a codec that does not fit", control_frame({8, 1, 0, 0, 256})},
        {"a nested extension too deep", data_with_extension(nested(65))},
        {"an array of 2^32-1", data_with_extension(bytes_of("\xdd\xff\xff\xff\xff"))},
        {"a map of 2^32-1", data_with_extension(bytes_of("\xdf\xff\xff\xff\xff"))},
        {"a header of 2^32-1 elements",
         frame_of(bytes_of({"\xdd\xff\xff\xff\xff\x08\x01\x00", 8}))},
        {"text of 2^32-1", data_with_extension(bytes_of("\xdb\xff\xff\xff\xff"))},
        {"a byte that is not msgpack", data_with_extension(bytes_of("\xc1"))},
        {"a slice below the minimum", data(1, (16 << 10) - 1, wire::flag::continued, 40'000)},
        {"a slice of nothing", data(1, 0, wire::flag::continued, 40'000)},
        {"a first slice without a total", data(1, 16 << 10, wire::flag::continued)},
        {"a first slice that is all", data(1, 16 << 10, wire::flag::continued, 16 << 10)},
        {"slices in the urgent lane",
         data(1, 16 << 10, wire::flag::continued | wire::flag::urgent, 40'000)},
        {"a slice beyond the total", first_slice + data(1, 30'000, wire::flag::continued)},
        {"a last slice that is too short", first_slice + data(1, 20'000)},
        {"a last slice that is too long", first_slice + data(1, 30'000)},
        {"more than the credit", data(0, 30'000) + data(0, 30'000)},
        {"more than the urgent credit",
         data(1, 8000, wire::flag::urgent) + data(1, 8000, wire::flag::urgent)},
        {"data after END", control_frame({12, 1, 0, 0}) + data(1, 10)},
        {"urgent data after END", control_frame({12, 1, 7, 0}) + data(1, 10, wire::flag::urgent)},
        {"a second END", control_frame({12, 1, 1, 0}) + control_frame({12, 1, 1, 0})},
        {"END of fewer than have come", data(1, 10) + control_frame({12, 1, 0, 0})},
        {"END of no channel", control_frame({12, 4, 0, 0})},
        {"END that is cut", control_frame({12, 1, 0})},
        {"data after CLOSE", close_frame(0, {}) + data(1, 10)},
        {"data after END, behind data", data(1, 10) + control_frame({12, 1, 1, 0}) + data(1, 10)},
        {"data after CLOSE, behind data", data(1, 10) + close_frame(0, {0, 0, 1}) + data(1, 10)},
        {"a small message amid slices", data(1, 10) + first_slice + data(1, 10)},
        {"data on the old pipe after MOVED, behind data",
         data(2, 10) + wire::encode_moved(2, 2, 2, 1) + data(2, 10)},
        {"another channel's data on a pipe, behind data",
         data(2, 10) + wire::encode_moved(2, 2, 2, 1) + data(1, 10) + data(2, 10)},
        {"a second CLOSE", close_frame(0, {0, 0, 1}) + close_frame(0, {0, 0, 1})},
        {"CLOSE of fewer than have come", data(1, 10) + close_frame(0, {})},
        {"CLOSE that is cut", control_frame({13, 0})},
        {"CLOSED without CLOSE", wire::encode_closed({}, {})},
        {"CLOSED that is cut", control_frame({14})},
        {"MOVED of control", wire::encode_moved(0, 0, 1, 1)},
        {"MOVED to another channel's pipe", wire::encode_moved(2, 3, 1, 1)},
        {"MOVED to a pipe that is not there", wire::encode_moved(3, 3, 1, 1)},
        {"MOVED with a gap", wire::encode_moved(2, 2, 2, 1)},
        {"MOVED with an urgent gap", wire::encode_moved(2, 2, 1, 0)},
        {"MOVED twice", wire::encode_moved(2, 2, 1, 1) + wire::encode_moved(2, 2, 1, 1)},
        {"MOVED beyond all pipes", wire::encode_moved(2, 4, 1, 1)},
        {"data on the old pipe after MOVED", wire::encode_moved(2, 2, 1, 1) + data(2, 10)},
        {"another channel's data on a pipe", data(1, 10), errc::protocol_violation, 2},
        {"another channel's large data on a pipe", data(3, 20'000), errc::protocol_violation, 2},
        {"a control frame on an attached pipe", control_frame({10, 1}), errc::protocol_violation,
         2},
        {"HELLO on an open link", wire::encode(wire::hello{})},
        {"WELCOME on an open link", wire::encode(wire::welcome{})},
        {"REFUSE on an open link", wire::encode(wire::refusal{})},
        {"ATTACH on an open link", wire::encode(wire::attach{})},
        {"ATTACHED on an open link", wire::encode_attached()},
        {"credit for bytes never sent", wire::encode(std::vector<wire::grant>{{2, 0, 0, 1}})},
        {"credit for messages never sent", wire::encode(std::vector<wire::grant>{{2, 0, 1, 0}})},
        {"credit beyond all measure",
         wire::encode(std::vector<wire::grant>{{2, wire::credit_max + 1, 0, 0}})},
        {"credit for no lane", wire::encode(std::vector<wire::grant>{{8, 1, 0, 0}})},
        {"credit for nothing", control_frame({9})},
        {"credit for nine lanes", wire::encode(std::vector<wire::grant>(9))},
        {"credit that is cut", control_frame({9, 1})},
        {"a ping without token", control_frame({10})},
        {"a pong without token", control_frame({11})},
        {"a pong without ping", control_frame({11, 1})},
    };
    for (const auto& each : offences) commit(each);
  }

  TEST_CASE("a low message limit holds for small messages, on both sides") {
    auto modest = small();
    modest.local.message_bytes[2] = 1000;
    auto greeting = generous_hello();
    greeting.limits.message_bytes[2] = 1000;
    auto peer = raw_peer::of_server(modest, greeting);

    CHECK(peer->send(4, test::pattern(1, 1001), {}) == verdict::too_large);
    CHECK(peer->send(4, test::pattern(1, 1000), {}) == verdict::accepted);
    static_cast<void>(peer.frames());
    peer.feed(data(2, 1000));
    CHECK(peer->take(2).has_value());
    peer.feed(data(2, 1001));

    expect_end(peer, errc::too_large, "one byte above the limit");
  }

  TEST_CASE("random bytes end the link or wait for more") {
    test::dice dice(test::seed());
    for (int i = 0; i < 300; ++i) {
      auto peer = raw_peer::of_server(small(), generous_hello());
      bytes garbage(dice.between(1, 600));
      for (auto& each : garbage) each = static_cast<std::byte>(dice.any());
      // Most random lengths are absurd: make some of them small.
      if (garbage.size() > 4 && dice.one_in(2)) garbage[1] = garbage[2] = garbage[3] = std::byte{0};
      peer.feed(garbage, 0, dice.between(1, 700));
      CAPTURE(test::seed());
      if (!peer->ended()) continue;
      const auto code = peer.close_code();
      REQUIRE(code.has_value());
      CHECK((*code == errc::too_large || *code == errc::protocol_violation));
    }
  }

  TEST_CASE("a conversation with one byte changed ends the link or means something else") {
    const bytes talk = data(1, 100) + data(1, 20'000, wire::flag::continued, 40'000) +
                       data(1, 20'000) + control_frame({10, 5}) + control_frame({99, 1}) +
                       wire::encode_moved(2, 2, 1, 1) + control_frame({12, 1, 2, 0}) +
                       close_frame(0, {0, 0, 2});
    test::dice dice(test::seed());
    for (int i = 0; i < 400; ++i) {
      auto peer = raw_peer::of_server(small(), generous_hello());
      peer->attached(2);
      bytes changed = talk;
      const std::size_t edge = dice.one_in(2) ? 300 : changed.size();
      changed[dice.below(edge)] = static_cast<std::byte>(dice.any());
      peer.feed(changed, 0, dice.between(1, 5000));
      while (peer->take(1).has_value()) {
      }
      peer->pipe_ended(0, {});
      CHECK((peer->ended() && peer->why().code() != std::error_code()));
    }
  }

  TEST_CASE("a connection that is cut inside a frame is a lost link") {
    const bytes whole = data(1, 100) + data(1, 20'000) + control_frame({10, 5});
    for (std::size_t cut = 0; cut < whole.size(); cut += cut < 200 ? 1 : 997) {
      auto peer = raw_peer::of_server(small(), generous_hello());
      peer.feed(std::span(whole).first(cut));
      CHECK_FALSE(peer->ended());
      peer->pipe_ended(0, std::make_error_code(std::errc::connection_reset));
      CHECK(peer->why().code() == errc::link_lost);
      CHECK(peer->take(1).has_value() == (cut >= 112));
    }
  }

  TEST_CASE("what is not known is skipped") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    const auto longer = [](bytes frame) {  // one element more: a map with a list in it
      const std::size_t length = wire::load_length(frame.data());
      bytes header(frame.begin() + 4, frame.begin() + 4 + static_cast<std::ptrdiff_t>(length));
      header[0] = static_cast<std::byte>(static_cast<unsigned>(header[0]) + 1);
      return frame_of(std::move(header) +
                      bytes_of({"\x81\xa3key\x92\x01\xcb\0\0\0\0\0\0\0\0", 16}));
    };
    CHECK(peer->send(2, bytes_of("x"), {}) == verdict::accepted);
    static_cast<void>(peer.frames());

    peer.feed(data_with_extension(nested(63)));
    peer.feed(longer(control_frame({10, 77})));
    peer.feed(longer(control_frame({12, 1, 1, 0})));
    peer.feed(longer(wire::encode_closed({}, {})), 0, 1);

    REQUIRE(peer->take(1).has_value());
    CHECK(peer->at_end(1));
    CHECK(peer->why().code() == errc::protocol_violation);  // only CLOSED came too early
  }

  TEST_CASE("unknown limits of a later version are skipped") {
    // A hello whose limits and lists have more numbers than version 1 knows.
    const auto frame = frame_of(header_of(10, [](header_writer& out) {
      out.number(1);
      out.text("hawser");
      out.number(1);
      out.number(7);
      out.number(0);
      out.binary(wire::secret{});
      out.number(1);
      out.array(6);
      out.number(1 << 20);
      out.array(5);
      for (int i = 0; i < 5; ++i) out.number(1 << 20);
      out.array(10);
      for (int i = 0; i < 10; ++i) out.number(1 << 19);
      out.number(20'000);
      out.number(4);
      out.text("something else");
      out.nil();
      out.array(2);
      out.number(1);
      out.number(2);
    }));
    const auto opening = wire::decode_opening(std::span(frame).subspan(4));

    REQUIRE(opening.has_value());
    REQUIRE(opening->hello.has_value());
    CHECK(opening->hello->highest == 7);
    CHECK(opening->hello->limits.window[7] == 1 << 19);
    CHECK(opening->hello->limits.pipes == 4);
  }

  TEST_CASE("an unknown kind is answered politely, but not for ever") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    static_cast<void>(peer.frames());

    for (int i = 0; i < 100; ++i) peer.feed(control_frame({40, 1, 2, 3}));
    const auto answers = peer.frames();

    CHECK_FALSE(peer->ended());
    CHECK(answers.size() == 16);
    for (const auto& each : answers) {
      CHECK(each.kind == kind::unknown);
      CHECK(wire::decode_token(each.header) == 40);
    }
  }

  TEST_CASE("UNKNOWN needs no answer") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    static_cast<void>(peer.frames());
    peer.feed(wire::encode_token(kind::unknown, 40));
    CHECK(peer.frames().empty());
    CHECK_FALSE(peer->ended());
  }

  TEST_CASE("a flood of pings is bounded and ends the link") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    static_cast<void>(peer.frames());

    for (std::uint64_t i = 0; i < 3; ++i) peer.feed(control_frame({10, i}));
    CHECK_FALSE(peer->ended());
    const auto pongs = peer.frames();
    CHECK(pongs.size() == 1);  // the latest is enough
    CHECK(wire::decode_token(pongs.at(0).header) == 2);
    peer.feed(control_frame({10, 3}));

    expect_end(peer, errc::limit_reached, "ping flood");
  }

  TEST_CASE("pings at the pace that the peer announced are answered for ever") {
    auto greeting = generous_hello();
    greeting.limits.keepalive_ms = 100;
    auto peer = raw_peer::of_server(small(), greeting);
    static_cast<void>(peer.frames());

    for (std::uint64_t i = 0; i < 50; ++i) {
      peer.pass(100ms);
      peer.feed(control_frame({10, i}));
      CHECK(peer.only(kind::pong).has_value());
    }
    CHECK_FALSE(peer->ended());
  }

  TEST_CASE("a pipe that nobody moves to holds no more than its credit") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    peer->attached(2);

    std::size_t fed = 0;
    while (!peer->ended() && fed < 64 << 20) {
      peer.feed(data(2, 10'000), 2);
      fed += 10'000;
      CHECK(peer->memory_in_use() < 3 << 20);
    }

    CHECK(fed < 3 << 20);
    expect_end(peer, errc::protocol_violation, "held flood");
  }

  TEST_CASE("a held pipe is read once its channel has moved, from the first byte") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    peer->attached(2);
    const bytes ahead = data(2, 100) + data(2, 20'000) + data(2, 0) + data(2, 33);

    peer.feed(ahead, 2, 7);
    CHECK_FALSE(peer->take(2).has_value());
    peer.feed(wire::encode_moved(2, 2, 1, 1));

    for (const std::size_t size : {100, 20'000, 0, 33}) {
      const auto next = peer->take(2);
      REQUIRE(next.has_value());
      CHECK(next->payload.size() == size);
      CHECK(test::has_pattern(next->payload.bytes(), 2));
    }
    CHECK_FALSE(peer->ended());
  }

  TEST_CASE("the peer's CLOSE with a code is a lost link that says why") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    static_cast<void>(peer.frames());

    peer.feed(wire::encode_close(errc::limit_reached, "too many of you", {}));

    REQUIRE(peer->ended());
    CHECK(peer->why().code() == errc::link_lost);
    CHECK(peer->why().text().find("too many of you") != std::string::npos);
    CHECK(peer.frames().empty());
  }

  TEST_CASE("CLOSED must count what was sent") {
    for (const std::uint64_t count : {0, 2}) {
      auto peer = raw_peer::of_server(small(), generous_hello());
      CHECK(peer->send(2, bytes_of("x"), {}) == verdict::accepted);
      peer->close(peer.now());
      static_cast<void>(peer.frames());
      peer.feed(wire::encode_closed({0, 0, count}, {}));
      expect_end(peer, errc::protocol_violation, "CLOSED counts");
    }
  }

  // ---- the handshake ------------------------------------------------------------------------

  TEST_CASE("a hello of another version is refused") {
    wire::hello greeting;
    greeting.lowest = 2;
    greeting.highest = 3;
    auto peer = raw_peer::of_server(small(), greeting);

    REQUIRE(peer->ended());
    CHECK(peer->why().code() == errc::unsupported);
    const auto answer = peer.only(kind::refuse);
    REQUIRE(answer.has_value());
    const auto said = wire::decode_refusal(answer->header);
    REQUIRE(said.has_value());
    CHECK(said->code == errc::unsupported);
    CHECK(said->text.find("2 to 3") != std::string::npos);
  }

  TEST_CASE("a hello that wants to resume is refused") {
    wire::hello greeting;
    greeting.resume_secret.emplace();
    auto peer = raw_peer::of_server(small(), greeting);

    CHECK(peer->why().code() == errc::refused);
    CHECK(peer.only(kind::refuse).has_value());
  }

  TEST_CASE("a client that is not welcomed fails") {
    wire::welcome later;
    later.version = 2;
    wire::welcome other;
    other.link_id.fill(std::byte{9});
    wire::welcome narrow;
    narrow.limits.frame_bytes = 1000;
    const std::vector<offence> answers{
        {"another version", wire::encode(later), errc::unsupported},
        {"another link", wire::encode(other), errc::protocol_violation},
        {"frames too small", wire::encode(narrow), errc::protocol_violation},
        {"data first", data(1, 10), errc::protocol_violation},
        {"large data first", data(1, 20'000), errc::protocol_violation},
        {"credit first", wire::encode(std::vector<wire::grant>(1)), errc::protocol_violation},
        {"hello", wire::encode(wire::hello{}), errc::protocol_violation},
        {"a cut welcome", control_frame({2, 1, 0}), errc::protocol_violation},
        {"a cut refusal", control_frame({3}), errc::protocol_violation},
    };
    for (const auto& each : answers) {
      auto peer = raw_peer::of_client(small());
      static_cast<void>(peer.frames());
      peer.feed(each.sent);
      expect_end(peer, each.code, each.name);
    }
  }

  TEST_CASE("a refusal reaches the client with its code and text") {
    auto peer = raw_peer::of_client(small());
    static_cast<void>(peer.frames());

    peer.feed(wire::encode(wire::refusal{errc::limit_reached, "too many links"}), 0, 1);

    CHECK(peer->why().code() == errc::limit_reached);
    CHECK(peer->why().text().find("too many links") != std::string::npos);
    CHECK(peer.frames().empty());
  }

  TEST_CASE("a refusal with an unknown code is a refusal") {
    for (const std::uint64_t code : {std::uint64_t{0}, std::uint64_t{99}, ~std::uint64_t{0}}) {
      auto peer = raw_peer::of_client(small());
      peer.feed(frame_of(header_of(3, [&](header_writer& out) {
        out.number(3);
        out.number(code);
        out.text("no");
      })));
      CHECK(peer->why().code() == errc::refused);
    }
  }

  TEST_CASE("a server that hangs up during the handshake has refused") {
    auto peer = raw_peer::of_client(small());
    peer->pipe_ended(0, {});
    CHECK(peer->why().code() == errc::refused);
  }

  // ---- time ---------------------------------------------------------------------------------

  TEST_CASE("a handshake without an answer times out") {
    auto peer = raw_peer::of_client(small());
    static_cast<void>(peer.frames());
    CHECK(peer->next_deadline() == peer.now() + 10s);

    peer.pass(10s - 1ns);
    peer.tick();
    CHECK_FALSE(peer->ended());
    peer.pass(1ns);
    peer.tick();

    expect_end(peer, errc::timed_out, "handshake");
  }

  TEST_CASE("silence is answered with a ping, then the link is lost") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    static_cast<void>(peer.frames());

    peer.pass(20s);
    CHECK(peer->next_deadline() == peer.now());
    peer.tick();
    CHECK(peer.only(kind::ping).has_value());
    CHECK(peer->next_deadline() == peer.now() + 20s);
    peer.pass(20s - 1ns);
    peer.tick();
    CHECK_FALSE(peer->ended());
    peer.pass(1ns);
    peer.tick();

    expect_end(peer, errc::link_lost, "silence");
  }

  TEST_CASE("anything that arrives ends the silence") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    for (int i = 0; i < 10; ++i) {
      peer.pass(20s);
      peer.tick();
      peer.pass(19s);
      const auto pinged = peer.only(kind::ping);
      REQUIRE(pinged.has_value());
      peer.feed(i % 2 == 0 ? control_frame({11, *wire::decode_token(pinged->header)}) : data(1, 1));
      CHECK(peer->next_deadline() == peer.now() + 20s);
    }
    CHECK_FALSE(peer->ended());
  }

  TEST_CASE("a peer that does not finish closing is lost") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    peer->close(peer.now());
    CHECK(peer.frames().back().kind == kind::close);
    CHECK(peer->next_deadline() == peer.now() + 5s);

    peer.pass(5s);
    peer.tick();

    expect_end(peer, errc::link_lost, "close");
  }

  // ---- what is allowed ------------------------------------------------------------------------

  TEST_CASE("all of the credit may be used, and not a byte more") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    const std::size_t window = small().local.window[0];  // control, normal
    const std::size_t largest = window - wire::message_overhead - 8;

    peer.feed(data(0, largest));
    CHECK_FALSE(peer->ended());
    REQUIRE(peer->take(0).has_value());

    peer.feed(data(0, 0));
    expect_end(peer, errc::protocol_violation, "one message more");
    auto other = raw_peer::of_server(small(), generous_hello());
    other.feed(data(0, largest + 1));
    expect_end(other, errc::protocol_violation, "one byte more");
  }

  TEST_CASE("small messages may use all of the credit, and no more") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    constexpr std::size_t size = 1000;
    const std::size_t most = small().local.window[0] / (wire::message_overhead + 8 + size);
    bytes all;
    for (std::size_t i = 0; i < most; ++i) all = std::move(all) + data(0, size);
    peer.feed(all);
    CHECK_FALSE(peer->ended());
    CHECK(peer->counts(0).received == most);
    peer.feed(data(0, size));
    expect_end(peer, errc::protocol_violation, "one message more");
  }

  TEST_CASE("released credit is granted when it is a quarter of the window") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    static_cast<void>(peer.frames());
    const std::size_t window = small().local.window[0];

    std::uint64_t released = 0;
    while (released < window / 4) {
      CHECK(peer.frames().empty());
      peer.feed(data(0, 1000));
      auto next = peer->take(0);
      REQUIRE(next.has_value());
      CHECK(next->cost == 1008 + wire::message_overhead);
      peer->release(next->lane, next->cost, next->reassembled);
      released += next->cost;
    }
    const auto told = peer.only(kind::credit);

    REQUIRE(told.has_value());
    const auto from = wire::decode_credit(told->header);
    REQUIRE(from.has_value());
    CHECK(from->count == 1);
    CHECK(from->entries[0].lane == 0);
    CHECK(from->entries[0].granted == window + released);
    CHECK(from->entries[0].received == released);
    CHECK(from->entries[0].consumed == released / 1072);
  }

  TEST_CASE("late and doubled grants change nothing") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    const auto before = peer->available(0);
    const auto grant = [](std::uint64_t bytes) {
      return wire::encode(std::vector<wire::grant>{{0, bytes, 0, 0}});
    };

    peer.feed(grant(5 << 20) + grant(5 << 20) + grant(2 << 20) + grant(0));

    CHECK(peer->available(0) == before + (4 << 20));
  }

  TEST_CASE("bulk on a shared pipe stops after three slices that were not received") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    static_cast<void>(peer.frames());
    auto large = test::message_of(1, 900'000);
    CHECK(peer->send(6, large) == verdict::accepted);

    std::uint64_t arrived = 0;
    std::size_t slices = 0;
    for (int round = 0; round < 20; ++round) {
      for (const auto& each : peer.frames()) {
        arrived += each.size + (slices++ == 0 ? wire::message_overhead : 0);
        CHECK(each.payload.size() <= wire::slice_bytes_shared);
      }
      if (round == 0) CHECK(slices == 3);
      // Other channels are not held up.
      CHECK(peer->send(2, bytes_of("beside"), {}) == verdict::accepted);
      const auto beside = peer.frames();
      CHECK(beside.size() == 1);
      if (slices == 14) break;
      peer.feed(wire::encode(std::vector<wire::grant>{{6, 0, 0, arrived}}));
    }
    CHECK(slices == 14);
  }

  TEST_CASE("urgent frames pass between the slices of a message") {
    auto peer = raw_peer::of_server(small(), generous_hello());
    static_cast<void>(peer.frames());
    auto large = test::message_of(1, 400'000);
    CHECK(peer->send(2, large) == verdict::accepted);
    std::array<std::span<const std::byte>, 2> pieces;
    CHECK(peer->gather(0, pieces) != 0);  // the first slices are with the system now
    CHECK(peer->send(3, bytes_of("now"), {}) == verdict::accepted);
    peer->written(0);

    // What gather() gave out above is gone; the rest starts inside a slice.
    const bytes rest = peer.output();
    const auto now = data_frame({1, wire::flag::urgent, 0, 0, 0}, bytes_of("now"));
    const auto at = std::search(rest.begin(), rest.end(), now.begin(), now.end());
    REQUIRE(at != rest.end());
    CHECK(at - rest.begin() < 140'000);
    CHECK(rest.end() - at > 200'000);
  }

  TEST_CASE("nothing follows the last word: no ping, no answer to what is not known") {
    settings patient = small();
    patient.keepalive = 1s;
    patient.close_timeout = 10s;
    auto peer = raw_peer::of_server(patient, generous_hello());
    static_cast<void>(peer.frames());
    peer.feed(wire::encode_close(errc{}, "", {}));
    const auto last = peer.frames();
    REQUIRE(last.size() == 2);
    CHECK(last[0].kind == kind::closed);
    CHECK(last[1].kind == kind::close);
    REQUIRE_FALSE(peer->ended());

    peer.pass(3s);
    peer.tick();
    CHECK(peer->next_deadline() > peer.now());
    peer.feed(wire::encode_token(kind::ping, 5));
    peer.feed(control_frame({77, 1}));
    CHECK_FALSE(peer->has_output(0));
    CHECK(peer.frames().empty());

    peer.pass(10s);
    peer.tick();
    REQUIRE(peer->ended());
    CHECK(peer->why().code() == errc::link_lost);
  }
}
