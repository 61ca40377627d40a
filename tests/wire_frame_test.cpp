// SPDX-License-Identifier: Apache-2.0
// The bytes of every frame, compared with the page that others write clients from.
#include "wire/frame.hpp"

#include <doctest/doctest.h>

#include <charconv>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "core/msgpack.hpp"
#include "support/environment.hpp"
#include "support/raw_peer.hpp"

namespace {

using hawser::errc;
using test::bytes;
using test::bytes_of;
namespace wire = hawser::wire;

// Every ```hex block of src/wire/README.md that has a name: "```hex name". Comments follow '#'.
std::map<std::string, bytes> golden_blocks() {
  std::ifstream file(std::string(HAWSER_SOURCE_DIR) + "/src/wire/README.md");
  std::map<std::string, bytes> blocks;
  bytes* open = nullptr;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("```")) {
      constexpr std::string_view label = "```hex ";
      open = line.starts_with(label) ? &blocks[line.substr(label.size())] : nullptr;
      continue;
    }
    if (open == nullptr) continue;
    std::istringstream words(line.substr(0, line.find('#')));
    for (std::string word; words >> word;) {
      unsigned value = 256;
      const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value, 16);
      const bool is_byte = word.size() == 2 && error == std::errc() && value < 256;
      REQUIRE_MESSAGE((is_byte && end == word.data() + 2), word);
      open->push_back(static_cast<std::byte>(value));
    }
  }
  return blocks;
}

wire::secret secret_of(unsigned first) {
  wire::secret made;
  for (auto& each : made) each = static_cast<std::byte>(first++);
  return made;
}

wire::limits usual_limits() {
  wire::limits made;
  made.window = {65536, 16384, 262144, 16384, 1048576, 16384, 4194304, 16384};
  return made;
}

wire::hello usual_hello() {
  wire::hello made;
  made.link_id = secret_of(0x10);
  made.incarnation = 1;
  made.limits = usual_limits();
  return made;
}

wire::welcome usual_welcome() {
  wire::welcome made;
  made.link_id = secret_of(0x10);
  made.incarnation = 1;
  made.attach_secret = secret_of(0x20);
  made.resume_secret = secret_of(0x30);
  made.limits = usual_limits();
  return made;
}

// The frames of the page, by the names it gives them.
std::map<std::string, bytes> golden_frames() {
  std::map<std::string, bytes> made;
  made["hello"] = wire::encode(usual_hello());
  made["welcome"] = wire::encode(usual_welcome());
  auto resuming = usual_hello();
  resuming.incarnation = 2;
  resuming.resume_secret = secret_of(0x30);
  resuming.received = {3, 0, 500, 1, 0, 0, 0, 0};
  made["hello that resumes"] = wire::encode(resuming);
  made["refuse"] = wire::encode(wire::refusal{errc::limit_reached, "too many links"});
  made["attach"] = wire::encode(wire::attach{secret_of(0x10), secret_of(0x20), 3});
  made["attached"] = wire::encode_attached();
  made["share"] = wire::encode(wire::share{
      secret_of(0x10), secret_of(0x20), 1, {262'144, 262'144, 1'048'576, 65'536}, 16'777'216});
  made["returned"] = wire::encode_returned(std::vector<std::uint64_t>{0, 1'048'576});
  made["lent data"] = test::data_frame({3, wire::flag::lent, 0, 0, 1'000'000, 65'536}, {});
  made["data"] = test::data_frame({1, 0, 0, 0, 0}, bytes_of("hello"));
  made["data with id and codec"] =
      test::data_frame({2, 0, 1000, 1, 0}, bytes_of("\x93\x01\x02\x03"));
  made["urgent data"] = test::data_frame({0, wire::flag::urgent, 7, 0, 0}, bytes_of("stop"));
  made["empty data"] = test::data_frame({0, 0, 0, 0, 0}, {});
  bytes slice(wire::data_prefix_max);
  slice.resize(wire::encode_data_prefix(slice, {3, wire::flag::continued, 0, 0, 100'000}, 65'536));
  made["start of a first slice"] = slice;
  slice.resize(wire::data_prefix_max);
  slice.resize(wire::encode_data_prefix(slice, {3, 0, 0, 0, 0}, 34'464));
  made["start of a last slice"] = slice;
  made["credit"] =
      wire::encode(std::vector<wire::grant>{{2, 327'680, 12, 70'000}, {6, 4'194'304, 0, 65'632}});
  made["ping"] = wire::encode_token(wire::kind::ping, 1);
  made["pong"] = wire::encode_token(wire::kind::pong, 1);
  made["end"] = wire::encode_end(2, 300, 0);
  made["close"] = wire::encode_close(errc{}, "", {4, 0, 12, 0, 300, 0, 1, 0});
  made["close with a code"] = wire::encode_close(errc::protocol_violation, "second END", {});
  made["closed"] = wire::encode_closed({4, 0, 12, 0, 300, 0, 1, 0}, {4, 0, 12, 0, 290, 0, 0, 0});
  made["moved"] = wire::encode_moved(3, 3, 2, 1);
  made["moved to the main ring"] = wire::encode_moved(0, 4, 3, 1);
  made["unknown"] = wire::encode_token(wire::kind::unknown, 40);
  auto resumed = usual_welcome();
  resumed.features = wire::feature::resume;
  resumed.incarnation = 2;
  resumed.received = {0, 0, 12, 0, 0, 0, 0, 0};
  made["welcome that resumes"] = wire::encode(resumed);
  made["resumed"] = wire::encode(wire::resumption{{0, 0, 2, 0, 0, 0, 0, 0},
                                                  {65'536, 0, 327'680, 0, 0, 0, 0, 0},
                                                  {0, 0, 70'000, 0, 0, 0, 0, 0},
                                                  {0, 0, 10, 0, 0, 0, 0, 0}});
  return made;
}

std::string hex(const bytes& from) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string made;
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (i != 0) made.push_back(i % 16 == 0 ? '\n' : ' ');
    made.push_back(digits[static_cast<unsigned>(from[i]) >> 4]);
    made.push_back(digits[static_cast<unsigned>(from[i]) & 15U]);
  }
  return made;
}

std::span<const std::byte> header_of(const bytes& frame) {
  return std::span(frame).subspan(wire::length_bytes, wire::load_length(frame.data()));
}

// Feeds every decoder. What they make of it does not matter, only that they come back.
void decode_all(std::span<const std::byte> header) {
  static_cast<void>(wire::peek_kind(header));
  static_cast<void>(wire::decode_opening(header));
  static_cast<void>(wire::decode_hello(header));
  static_cast<void>(wire::decode_welcome(header));
  static_cast<void>(wire::decode_refusal(header));
  static_cast<void>(wire::decode_attach(header));
  static_cast<void>(wire::decode_share(header));
  static_cast<void>(wire::decode_returned(header));
  static_cast<void>(wire::decode_credit(header));
  static_cast<void>(wire::decode_token(header));
  static_cast<void>(wire::decode_end(header));
  static_cast<void>(wire::decode_close(header));
  static_cast<void>(wire::decode_closed(header));
  static_cast<void>(wire::decode_moved(header));
  static_cast<void>(wire::decode_resumed(header));
  static_cast<void>(wire::decode_data(header));
}

// The decoder that belongs to the kind: does it take this header?
bool decodes(wire::kind what, std::span<const std::byte> header) {
  switch (what) {
    case wire::kind::hello:
      return wire::decode_hello(header).has_value();
    case wire::kind::welcome:
      return wire::decode_welcome(header).has_value();
    case wire::kind::refuse:
      return wire::decode_refusal(header).has_value();
    case wire::kind::attach:
      return wire::decode_attach(header).has_value();
    case wire::kind::attached:
      return wire::peek_kind(header).has_value();
    case wire::kind::share:
      return wire::decode_share(header).has_value();
    case wire::kind::returned:
      return wire::decode_returned(header).has_value();
    case wire::kind::data:
      return wire::decode_data(header).has_value();
    case wire::kind::credit:
      return wire::decode_credit(header).has_value();
    case wire::kind::ping:
    case wire::kind::pong:
    case wire::kind::unknown:
      return wire::decode_token(header).has_value();
    case wire::kind::end:
      return wire::decode_end(header).has_value();
    case wire::kind::close:
      return wire::decode_close(header).has_value();
    case wire::kind::closed:
      return wire::decode_closed(header).has_value();
    case wire::kind::moved:
      return wire::decode_moved(header).has_value();
    case wire::kind::resumed:
      return wire::decode_resumed(header).has_value();
  }
  return false;
}

}  // namespace

TEST_SUITE("wire_frame") {
  TEST_CASE("the bytes of every frame are those of src/wire/README.md") {
    const auto page = golden_blocks();
    const auto code = golden_frames();

    for (const auto& [name, frame] : code) {
      const auto found = page.find(name);
      const bool same = found != page.end() && found->second == frame;
      CHECK_MESSAGE(same, "```hex " << name << "\n" << hex(frame));
    }
    for (const auto& [name, frame] : page) CHECK_MESSAGE(code.count(name) == 1, name);
  }

  TEST_CASE("every frame is padded to 8 bytes with zeros, and its length says what it says") {
    for (const auto& [name, frame] : golden_frames()) {
      CAPTURE(name);
      CHECK(frame.size() % 8 == 0);
      if (name.starts_with("start of")) continue;
      const std::size_t end = wire::length_bytes + wire::load_length(frame.data());
      CHECK(wire::align8(end) == frame.size());
      for (std::size_t i = end; i < frame.size(); ++i) CHECK(frame[i] == std::byte{0});
    }
  }

  TEST_CASE("decoding gives back what was encoded") {
    const auto frames = golden_frames();

    const auto hello = wire::decode_hello(header_of(frames.at("hello that resumes")));
    REQUIRE(hello.has_value());
    CHECK(hello->link_id == secret_of(0x10));
    CHECK(hello->incarnation == 2);
    CHECK(hello->limits.window[6] == 4194304);
    CHECK(hello->limits.message_bytes[0] == 65536);
    CHECK(hello->limits.keepalive_ms == 20'000);
    CHECK(hello->resume_secret == secret_of(0x30));
    CHECK(hello->received[2] == 500);
    const auto welcome = wire::decode_welcome(header_of(frames.at("welcome")));
    REQUIRE(welcome.has_value());
    CHECK(welcome->attach_secret == secret_of(0x20));
    CHECK(welcome->resume_secret == secret_of(0x30));
    CHECK_FALSE(welcome->received.has_value());
    auto resumed = usual_welcome();
    resumed.received = {1, 2, 3, 4, 5, 6, 7, 8};
    CHECK(wire::decode_welcome(header_of(wire::encode(resumed)))->received == resumed.received);
    const auto refusal = wire::decode_refusal(header_of(frames.at("refuse")));
    REQUIRE(refusal.has_value());
    CHECK(refusal->code == errc::limit_reached);
    CHECK(refusal->text == "too many links");
    const auto attach = wire::decode_attach(header_of(frames.at("attach")));
    REQUIRE(attach.has_value());
    CHECK(attach->secret == secret_of(0x20));
    CHECK(attach->channel == 3);
    const auto opening = wire::decode_opening(header_of(frames.at("attach")));
    CHECK((opening.has_value() && opening->attach.has_value() && !opening->hello.has_value()));
    CHECK_FALSE(wire::decode_opening(header_of(frames.at("ping"))).has_value());
    const auto data = wire::decode_data(header_of(frames.at("data with id and codec")));
    REQUIRE(data.has_value());
    CHECK(data->header.channel == 2);
    CHECK(data->header.id == 1000);
    CHECK(data->header.codec == 1);
    CHECK(data->header_bytes == 8);
    const auto credit = wire::decode_credit(header_of(frames.at("credit")));
    REQUIRE(credit.has_value());
    CHECK(credit->count == 2);
    CHECK(credit->entries[0].granted == 327'680);
    CHECK(credit->entries[1].received == 65'632);
    const auto end = wire::decode_end(header_of(frames.at("end")));
    REQUIRE(end.has_value());
    CHECK(end->normal == 300);
    const auto close = wire::decode_close(header_of(frames.at("close with a code")));
    REQUIRE(close.has_value());
    CHECK(close->code == 6);
    CHECK(close->text == "second END");
    const auto closed = wire::decode_closed(header_of(frames.at("closed")));
    REQUIRE(closed.has_value());
    CHECK(closed->received[4] == 300);
    CHECK(closed->consumed[4] == 290);
    const auto moved = wire::decode_moved(header_of(frames.at("moved")));
    REQUIRE(moved.has_value());
    CHECK(moved->next_normal == 2);
  }

  TEST_CASE("a header that is cut at any byte is malformed") {
    for (const auto& [name, frame] : golden_frames()) {
      if (name.starts_with("start of")) continue;
      const auto header = header_of(frame);
      const auto start = wire::peek_kind(header);
      REQUIRE(start.has_value());
      CAPTURE(name);
      CHECK(decodes(start->kind, header));
      // Data ends before its payload does.
      const auto data = wire::decode_data(header);
      const std::size_t end =
          start->kind == wire::kind::data && data.has_value() ? data->header_bytes : header.size();
      for (std::size_t cut = 0; cut < end; ++cut) {
        const bytes part(header.begin(), header.begin() + static_cast<std::ptrdiff_t>(cut));
        CHECK_FALSE(decodes(start->kind, part));
        decode_all(part);
      }
    }
  }

  TEST_CASE("no decoder minds bytes that were changed") {
    test::dice dice(test::seed());
    for (const auto& [name, frame] : golden_frames()) {
      for (int i = 0; i < 500; ++i) {
        if (name.starts_with("start of")) break;  // its payload is not there
        const auto header = header_of(frame);
        bytes changed(header.begin(), header.end());
        for (std::uint64_t changes = dice.between(1, 4); changes != 0 && !changed.empty();
             --changes) {
          const std::size_t at = dice.below(changed.size());
          switch (dice.below(3)) {
            case 0:
              changed[at] = static_cast<std::byte>(dice.any());
              break;
            case 1:
              changed.erase(changed.begin() + static_cast<std::ptrdiff_t>(at));
              break;
            default:
              changed.insert(changed.begin() + static_cast<std::ptrdiff_t>(at),
                             static_cast<std::byte>(dice.any()));
          }
        }
        changed.shrink_to_fit();  // so that a sanitizer sees one byte too far
        decode_all(changed);
      }
    }
  }

  TEST_CASE("a prefix is as long as it was said to be, whatever the numbers") {
    for (const std::uint64_t id : {0ULL, 1ULL, 127ULL, 128ULL, 255ULL, 256ULL, 65'535ULL, 65'536ULL,
                                   0xffff'ffffULL, 0x1'0000'0000ULL, ~0ULL}) {
      for (const std::uint64_t codec : {0, 1, 127, 128, 255}) {
        for (const std::uint64_t total : {0ULL, 16'385ULL, 0xffff'ffffULL, ~0ULL}) {
          const wire::data_header header{3, 1, id, codec, total};
          bytes room(wire::data_prefix_max);
          const std::size_t prefix = wire::encode_data_prefix(room, header, 100);
          CHECK(prefix == wire::data_prefix_bytes(header));
          CHECK(prefix <= wire::data_prefix_max);
          CHECK(prefix % 8 == 0);
          CHECK(wire::load_length(room.data()) == prefix - 4 + 100);
          const auto back = wire::decode_data(std::span(room).subspan(4, prefix - 4));
          REQUIRE(back.has_value());
          CHECK(back->header.id == id);
          CHECK(back->header.codec == codec);
          CHECK(back->header.total == total);
          CHECK(wire::align8(4 + back->header_bytes) == prefix);
        }
      }
    }
  }

  TEST_CASE("the text of a close is cut between characters") {
    const std::string text = std::string(511, 'x') + "\xc3\xa9 and more";
    const auto close = wire::decode_close(header_of(wire::encode_close(errc::closed, text, {})));
    REQUIRE(close.has_value());
    CHECK(close->text == std::string(511, 'x'));
    const auto refusal = wire::decode_refusal(
        header_of(wire::encode(wire::refusal{errc::refused, std::string(5000, 'y')})));
    REQUIRE(refusal.has_value());
    CHECK(refusal->text.size() == 512);
  }

  TEST_CASE("limits that nobody could live with are malformed") {
    auto narrow = usual_hello();
    narrow.limits.frame_bytes = wire::frame_bytes_min - 1;
    CHECK_FALSE(wire::decode_hello(header_of(wire::encode(narrow))).has_value());
    auto nowhere = usual_hello();
    nowhere.limits.pipes = 0;
    CHECK_FALSE(wire::decode_hello(header_of(wire::encode(nowhere))).has_value());
    auto endless = usual_hello();
    endless.limits.window[3] = wire::credit_max + 1;
    CHECK_FALSE(wire::decode_hello(header_of(wire::encode(endless))).has_value());
    auto backwards = usual_hello();
    backwards.lowest = 2;
    CHECK_FALSE(wire::decode_hello(header_of(wire::encode(backwards))).has_value());
  }

  TEST_CASE("the size of an opening frame is known from its length, if it is small enough") {
    const auto size = [](std::size_t length) {
      std::array<std::byte, 4> from{};
      for (std::size_t i = 0; i < 4; ++i) from[i] = static_cast<std::byte>(length >> (8 * i));
      return wire::opening_bytes(from);
    };
    CHECK_FALSE(size(0).has_value());
    CHECK_FALSE(size(1).has_value());
    CHECK(size(2) == 8);
    CHECK(size(5) == 16);
    CHECK(size(4092) == 4096);
    CHECK_FALSE(size(4093).has_value());
    CHECK_FALSE(size(0xffff'ffff).has_value());
  }

  TEST_CASE("a window is as large as its largest single frame needs, and no larger") {
    for (std::uint64_t cost = 72; cost < 5000; ++cost) {
      const std::uint64_t window = wire::window_for(cost);
      CHECK(wire::single_cost_max(window) >= cost);
      CHECK(wire::single_cost_max(window - 1) < cost);
    }
  }

  TEST_CASE("no message in slices costs more than its bound") {
    for (const std::uint64_t total :
         {16'385ULL, 65'537ULL, 100'000ULL, 4'194'304ULL, 4'194'305ULL}) {
      for (const std::size_t slice : {wire::slice_bytes_min, wire::slice_bytes_min + 1,
                                      wire::slice_bytes_shared, wire::slice_bytes_own}) {
        std::uint64_t cost = wire::message_overhead;
        for (std::uint64_t at = 0; at < total; at += slice) {
          const std::size_t here =
              static_cast<std::size_t>(std::min<std::uint64_t>(slice, total - at));
          const wire::data_header header{3, at + here < total ? 1U : 0U, at == 0 ? ~0ULL : 0,
                                         at == 0 ? 255U : 0U, at == 0 ? total : 0};
          cost += wire::frame_cost(wire::data_prefix_bytes(header), here);
        }
        CHECK(cost <= wire::message_cost_bound(total));
      }
    }
  }
}
