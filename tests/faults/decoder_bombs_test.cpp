// SPDX-License-Identifier: Apache-2.0
// What is small and claims to be large: no decoder takes more memory for a claim than for its
// bytes. Counted are all bytes that are ever allocated while it is read.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/msgpack.hpp"
#include "support/allocations.hpp"
#include "support/raw_peer.hpp"
#include "wire/frame.hpp"
#include "wire/machine.hpp"

namespace {

using hawser::errc;
using test::bytes;
using test::raw_peer;
using test::operator+;

namespace wire = hawser::wire;

constexpr std::size_t header_room = wire::header_bytes_max - wire::length_bytes;

constexpr std::uint64_t bound(std::size_t input) {
  return 16 * input + 4096;
}

bytes hex(std::initializer_list<unsigned> values) {
  bytes made;
  for (const unsigned each : values) made.push_back(static_cast<std::byte>(each));
  return made;
}

bytes repeated(std::initializer_list<unsigned> values, std::size_t times) {
  bytes made;
  for (std::size_t i = 0; i < times; ++i) made = std::move(made) + hex(values);
  return made;
}

/// One msgpack value, or the start of one, that claims more than there is.
struct bomb {
  std::string_view name;
  bytes value;
};

std::vector<bomb> bombs() {
  const std::size_t much = header_room - 64;
  return {
      {"array32 of 2^32-1", hex({0xdd, 0xff, 0xff, 0xff, 0xff})},
      {"array16 of 2^16-1", hex({0xdc, 0xff, 0xff})},
      {"array16 of 2^16-1 with some there", hex({0xdc, 0xff, 0xff}) + bytes(much)},
      {"map32 of 2^32-1", hex({0xdf, 0xff, 0xff, 0xff, 0xff})},
      {"map16 of 2^16-1", hex({0xde, 0xff, 0xff})},
      {"map16 of 2^16-1 with some there", hex({0xde, 0xff, 0xff}) + bytes(much)},
      {"str32 of 4 GiB", hex({0xdb, 0xff, 0xff, 0xff, 0xff})},
      {"str16 of 64 KiB", hex({0xda, 0xff, 0xff})},
      {"bin32 of 4 GiB", hex({0xc6, 0xff, 0xff, 0xff, 0xff})},
      {"bin16 of 64 KiB", hex({0xc5, 0xff, 0xff})},
      {"ext32 of 4 GiB", hex({0xc9, 0xff, 0xff, 0xff, 0xff, 0x01})},
      {"ext16 of 64 KiB", hex({0xc8, 0xff, 0xff, 0x01})},
      {"uint64 of 2^64-1", hex({0xcf}) + repeated({0xff}, 8)},
      {"arrays nested as deep as there is room", repeated({0x91}, much)},
      {"maps nested as deep as there is room", repeated({0x81}, much)},
      {"nested array32 of 2^32-1", repeated({0xdd, 0xff, 0xff, 0xff, 0xff}, much / 5)},
      {"nested map32 of 2^32-1", repeated({0xdf, 0xff, 0xff, 0xff, 0xff}, much / 5)},
      {"a text as long as there is room", hex({0xda, 0x0f, 0x00}) + bytes(0x0f00)},
      {"many empty arrays", hex({0xdc, 0x0f, 0x00}) + repeated({0x90}, 0x0f00)},
  };
}

/// A header in order, cut into its elements.
struct pattern {
  std::string_view name;
  std::vector<bytes> elements;
};

std::vector<bytes> elements_of(std::span<const std::byte> frame) {
  const auto header = frame.subspan(wire::length_bytes, wire::load_length(frame.data()));
  std::vector<bytes> found;
  const std::size_t count = std::to_integer<std::size_t>(header[0]) & 0x0f;
  std::size_t at = 1;
  for (std::size_t i = 0; i < count; ++i) {
    hawser::detail::header_reader in(header.subspan(at));
    in.skip();
    const auto element = header.subspan(at, in.position());
    found.emplace_back(element.begin(), element.end());
    at += in.position();
  }
  return found;
}

std::vector<pattern> patterns() {
  wire::hello hello;
  wire::welcome welcome;
  const wire::lane_numbers finals{};
  const std::array<wire::grant, 2> grants{};
  bytes data(wire::data_prefix_max);
  wire::data_header first_slice;
  first_slice.channel = 1;
  first_slice.flags = wire::flag::continued;
  first_slice.total = 100'000;
  data.resize(wire::encode_data_prefix(data, first_slice, 0));
  return {
      {"hello", elements_of(wire::encode(hello))},
      {"welcome", elements_of(wire::encode(welcome))},
      {"refuse", elements_of(wire::encode(wire::refusal{errc::refused, "no"}))},
      {"attach", elements_of(wire::encode(wire::attach{}))},
      {"attached", elements_of(wire::encode_attached())},
      {"data", elements_of(data)},
      {"credit", elements_of(wire::encode(std::span<const wire::grant>(grants)))},
      {"ping", elements_of(wire::encode_token(wire::kind::ping, 1))},
      {"pong", elements_of(wire::encode_token(wire::kind::pong, 0))},
      {"end", elements_of(wire::encode_end(1, 0, 0))},
      {"close", elements_of(wire::encode_close(errc{}, "", finals))},
      {"close with a code", elements_of(wire::encode_close(errc::closed, "why", finals))},
      {"closed", elements_of(wire::encode_closed(finals, finals))},
      {"moved", elements_of(wire::encode_moved(1, 1, 1, 1))},
      {"a kind that nobody knows", {hex({40}), hex({0})}},
  };
}

bytes header_of(std::span<const bytes> elements) {
  bytes made = hex({0x90 | static_cast<unsigned>(elements.size())});
  for (const bytes& each : elements) made = std::move(made) + each;
  made.resize(std::min(made.size(), header_room));
  return made;
}

/// Calls `use(name, header)` for each pattern with each of its elements replaced by each bomb, and
/// with the bomb behind it.
template <class F>
void for_each_input(F use) {
  for (const pattern& each : patterns()) {
    for (const bomb& big : bombs()) {
      for (std::size_t at = 0; at <= each.elements.size(); ++at) {
        std::vector<bytes> changed = each.elements;
        if (at == changed.size()) changed.emplace_back();
        changed[at] = big.value;
        const std::string name = std::string(each.name) + ", element " + std::to_string(at) +
                                 ": " + std::string(big.name);
        use(name, header_of(changed));
      }
    }
  }
}

void decode_all(std::span<const std::byte> header) {
  static_cast<void>(wire::peek_kind(header));
  static_cast<void>(wire::decode_hello(header));
  static_cast<void>(wire::decode_welcome(header));
  static_cast<void>(wire::decode_attach(header));
  static_cast<void>(wire::decode_credit(header));
  static_cast<void>(wire::decode_token(header));
  static_cast<void>(wire::decode_end(header));
  static_cast<void>(wire::decode_closed(header));
  static_cast<void>(wire::decode_moved(header));
  static_cast<void>(wire::decode_data(header));
  static_cast<void>(wire::decode_refusal(header));
  static_cast<void>(wire::decode_close(header));
  static_cast<void>(wire::decode_opening(header));
}

// What the machine allocates while it receives these bytes, `split` at a time.
std::uint64_t cost_of(raw_peer& peer, std::span<const std::byte> input, std::size_t split) {
  std::uint64_t cost = 0;
  while (!input.empty()) {
    const auto part = input.first(std::min(input.size(), split));
    auto* const block = hawser::detail::allocate_block(part.size());
    std::memcpy(block->data(), part.data(), part.size());
    const auto before = test::allocations().bytes;
    peer->receive(0, block, part.size(), peer.now());
    cost += test::allocations().bytes - before;
    input = input.subspan(part.size());
  }
  return cost;
}

wire::hello generous_hello() {
  wire::hello made;
  made.limits.window.fill(1 << 20);
  return made;
}

raw_peer established_server(const wire::settings& settings = {}) {
  auto peer = raw_peer::of_server(settings, generous_hello());
  static_cast<void>(peer.output());  // its welcome
  return peer;
}

// A message on rpc whose header has one element more than is known.
bytes with_nested_element(unsigned depth) {
  const bytes header = hex({0x97, 0x08, 0x01, 0, 0, 0, 0}) + repeated({0x91}, depth) + hex({0x01});
  return test::frame_of(header, test::bytes_of("payload."));
}

}  // namespace

TEST_SUITE("decoder_bombs") {
  TEST_CASE("no header makes its decoder allocate more than its bytes") {
    std::size_t inputs = 0;
    for_each_input([&](const std::string& name, const bytes& header) {
      const auto before = test::allocations().bytes;
      decode_all(header);
      const auto cost = test::allocations().bytes - before;
      CHECK_MESSAGE(cost <= bound(header.size()), name);
      ++inputs;
    });
    CHECK(inputs > 1000);
  }

  TEST_CASE("no frame makes a link allocate more than its bytes, whole or byte by byte") {
    for (const std::size_t split : {std::size_t{1} << 20, std::size_t{1}}) {
      for_each_input([&](const std::string& name, const bytes& header) {
        const bytes frame = test::frame_of(header);
        auto server = established_server();
        CHECK_MESSAGE(cost_of(server, frame, split) <= bound(frame.size()), name);
        auto client = raw_peer::of_client({});
        static_cast<void>(client.output());  // its hello
        CHECK_MESSAGE(cost_of(client, frame, split) <= bound(frame.size()), name);
      });
    }
  }

  TEST_CASE("a length that nothing follows costs nothing") {
    for (const std::uint32_t length : {0xffffffffU, 0x7fffffffU, 1U << 20, 4093U, 1U, 0U}) {
      auto peer = established_server();
      bytes start(8);
      std::memcpy(start.data(), &length, sizeof length);
      CHECK(cost_of(peer, start, 1) <= bound(start.size()));
    }
  }

  // Beyond the limit nothing is reserved; within it what is announced is, but no more than that and
  // than the credit that was granted for it.
  TEST_CASE("a message that is announced too large is refused before there is room for it") {
    for (const std::uint64_t total : {std::uint64_t{1} << 63, ~std::uint64_t{0},
                                      std::uint64_t{1} << 32, (std::uint64_t{16} << 20) + 1}) {
      auto peer = established_server();
      wire::data_header header;
      header.channel = 1;
      header.flags = wire::flag::continued;
      header.total = total;
      const bytes frame = test::data_frame(header, bytes(16 << 10));
      CHECK(cost_of(peer, frame, frame.size()) <= bound(frame.size()));
      REQUIRE(peer->ended());
      CHECK(peer->why().code() == errc::too_large);
    }
  }

  TEST_CASE("the start of a large frame takes no more than its lane may still send") {
    constexpr std::size_t granted = 1 << 20;
    wire::settings settings;
    settings.local.window[wire::lane_of(2, false)] = granted;
    auto peer = established_server(settings);
    wire::data_header header;
    header.channel = 2;
    const bytes frame = test::data_frame(header, bytes(512 << 10));

    CHECK(cost_of(peer, std::span(frame).first(200), 200) <= granted + bound(200));
    CHECK_FALSE(peer->ended());
  }

  TEST_CASE("64 containers in each other are skipped, and 65 refused") {
    auto allowed = established_server();
    auto refused = established_server();

    CHECK(cost_of(allowed, with_nested_element(64), 1 << 20) <= bound(90));
    CHECK(cost_of(refused, with_nested_element(65), 1 << 20) <= bound(90));

    CHECK_FALSE(allowed->ended());
    REQUIRE(refused->ended());
    CHECK(refused->why().code() == errc::protocol_violation);
  }

  TEST_CASE("many small frames that mean nothing leave nothing behind") {
    auto peer = established_server();
    const bytes frame = test::frame_of(hex({0x92, 40, 0}));
    static_cast<void>(cost_of(peer, repeated({0}, 0), 1));
    for (int i = 0; i < 100; ++i) {
      static_cast<void>(cost_of(peer, frame, frame.size()));
      static_cast<void>(peer.output());
    }
    const auto before = test::allocations().outstanding_bytes;
    for (int i = 0; i < 100'000; ++i) {
      static_cast<void>(cost_of(peer, frame, frame.size()));
    }
    CHECK(test::allocations().outstanding_bytes == before);
    CHECK_FALSE(peer->ended());
  }
}
