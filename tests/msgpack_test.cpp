// SPDX-License-Identifier: Apache-2.0
#include "core/msgpack.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "support/environment.hpp"
#include "support/raw_peer.hpp"

namespace {

using hawser::detail::header_reader;
using hawser::detail::header_writer;
using test::bytes;
using test::bytes_of;

bytes from_hex(std::string_view digits) {
  bytes made;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
    unsigned value = 0;
    std::from_chars(digits.data() + i, digits.data() + i + 2, value, 16);
    made.push_back(static_cast<std::byte>(value));
  }
  return made;
}

struct known_value {
  std::string kind;
  std::string value;
  std::vector<bytes> encodings;
};

// tests/data/msgpack_encodings.txt
std::vector<known_value> known_values() {
  std::ifstream file(std::string(HAWSER_SOURCE_DIR) + "/tests/data/msgpack_encodings.txt");
  std::vector<known_value> all;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream words(line);
    known_value next;
    words >> next.kind >> next.value;
    for (std::string encoding; words >> encoding;) next.encodings.push_back(from_hex(encoding));
    all.push_back(std::move(next));
  }
  return all;
}

// Does exactly one value lie in these bytes, as far as skip() can see?
bool skips_all(std::span<const std::byte> from) {
  header_reader in(from);
  in.skip();
  return !in.failed() && in.position() == from.size();
}

template <class Write>
bytes written(Write write) {
  bytes room(70'000);
  header_writer out(room);
  write(out);
  REQUIRE_FALSE(out.overflowed());
  room.resize(out.size());
  return room;
}

bytes repeated(std::byte what, std::size_t times, std::span<const std::byte> tail = {}) {
  bytes made(times, what);
  made.insert(made.end(), tail.begin(), tail.end());
  return made;
}

}  // namespace

TEST_SUITE("msgpack") {
  TEST_CASE("skip passes every encoding of the conformance suite, and no cut one") {
    const auto all = known_values();
    REQUIRE(all.size() == 85);
    for (const auto& each : all) {
      for (const auto& encoding : each.encodings) {
        CAPTURE(each.kind);
        CAPTURE(each.value);
        CHECK(skips_all(encoding));
        for (std::size_t cut = 0; cut < encoding.size(); ++cut) {
          header_reader in({encoding.data(), cut});
          in.skip();
          CHECK(in.failed());
        }
      }
    }
  }

  TEST_CASE("what the conformance suite says a value is, the reader reads and the writer writes") {
    for (const auto& each : known_values()) {
      CAPTURE(each.kind);
      CAPTURE(each.value);
      const bytes content = each.value == "-" ? bytes() : from_hex(each.value);
      const std::string_view text(reinterpret_cast<const char*>(content.data()), content.size());
      const auto& shortest = each.encodings.front();
      if (each.kind == "number") {
        const std::uint64_t value = std::stoull(each.value);
        const bytes made = written([&](header_writer& out) { out.number(value); });
        CHECK(std::count(each.encodings.begin(), each.encodings.end(), made) == 1);
        for (const auto& encoding : each.encodings) {
          const auto tag = static_cast<unsigned>(encoding[0]);
          const bool is_unsigned = tag < 0x80 || (tag >= 0xcc && tag <= 0xcf);
          header_reader in(encoding);
          CHECK((in.number() == value && !in.failed()) == is_unsigned);
          if (is_unsigned) CHECK(made.size() <= encoding.size());
        }
      } else if (each.kind == "text") {
        CHECK(written([&](header_writer& out) { out.text(text); }) == shortest);
        for (const auto& encoding : each.encodings) {
          header_reader in(encoding);
          CHECK(in.text() == text);
          CHECK_FALSE(in.failed());
        }
      } else if (each.kind == "binary") {
        CHECK(written([&](header_writer& out) { out.binary(content); }) == shortest);
        for (const auto& encoding : each.encodings) {
          header_reader in(encoding);
          CHECK(std::ranges::equal(in.binary(), content));
          CHECK_FALSE(in.failed());
        }
      } else if (each.kind == "array") {
        for (const auto& encoding : each.encodings) {
          header_reader in(encoding);
          CHECK(in.array() == std::stoull(each.value));
          CHECK_FALSE(in.failed());
        }
      } else if (each.kind == "nil") {
        header_reader in(shortest);
        CHECK(in.nil());
        CHECK(written([](header_writer& out) { out.nil(); }) == shortest);
      }
    }
  }

  TEST_CASE("what was written is read back") {
    const std::string long_text(300, 't');
    const bytes long_binary(66'000 - 1000, std::byte{5});
    const bytes made = written([&](header_writer& out) {
      out.array(15);
      out.array(16);
      out.array(65'535);
      out.number(std::numeric_limits<std::uint64_t>::max());
      out.text("short");
      out.text(std::string_view(long_text).substr(0, 40));
      out.text(long_text);
      out.binary(std::span(long_binary).first(3));
      out.binary(long_binary);
      out.nil();
    });
    header_reader in(made);

    CHECK(in.array() == 15);
    CHECK(in.array() == 16);
    CHECK(in.array() == 65'535);
    CHECK(in.number() == std::numeric_limits<std::uint64_t>::max());
    CHECK(in.text() == "short");
    CHECK(in.text().size() == 40);
    CHECK(in.text() == long_text);
    CHECK(in.binary().size() == 3);
    CHECK(std::ranges::equal(in.binary(), long_binary));
    CHECK_FALSE(in.failed());
    CHECK(in.nil());
    CHECK_FALSE(in.nil());
    CHECK(in.position() == made.size());
  }

  TEST_CASE("a writer without room says so and writes nothing more") {
    for (std::size_t size = 0; size < 12; ++size) {
      bytes room(size);
      header_writer out(room);
      out.array(2);
      out.number(1'000'000);
      out.text("hello");
      CHECK(out.overflowed());
      CHECK(out.size() <= size);
    }
  }

  TEST_CASE("the first mistake makes all further reads empty") {
    const bytes from = bytes_of("\x01\xa1x\x01");
    header_reader in(from);

    CHECK(in.text().empty());
    CHECK(in.failed());
    CHECK(in.number() == 0);
    CHECK(in.array() == 0);
    CHECK(in.binary().empty());
    CHECK_FALSE(in.nil());
    in.skip();
    CHECK(in.failed());
  }

  TEST_CASE("every read refuses every other type") {
    for (unsigned tag = 0; tag <= 0xff; ++tag) {
      bytes from(64, std::byte{0});
      from[0] = static_cast<std::byte>(tag);
      CAPTURE(tag);
      header_reader number(from);
      static_cast<void>(number.number());
      CHECK(number.failed() == !(tag < 0x80 || (tag >= 0xcc && tag <= 0xcf)));
      header_reader text(from);
      static_cast<void>(text.text());
      CHECK(text.failed() == !((tag >= 0xa0 && tag < 0xc0) || (tag >= 0xd9 && tag <= 0xdb)));
      header_reader binary(from);
      static_cast<void>(binary.binary());
      CHECK(binary.failed() == !(tag >= 0xc4 && tag <= 0xc6));
      header_reader array(from);
      static_cast<void>(array.array());
      CHECK(array.failed() == !((tag >= 0x90 && tag < 0xa0) || tag == 0xdc || tag == 0xdd));
      header_reader any(from);
      any.skip();
      CHECK(any.failed() == (tag == 0xc1));
    }
  }

  TEST_CASE("skip goes 64 containers deep and not deeper") {
    const bytes one(1, std::byte{1});
    CHECK(skips_all(repeated(std::byte{0x91}, 64, one)));
    CHECK_FALSE(skips_all(repeated(std::byte{0x91}, 65, one)));
    // A map needs a key at every level.
    bytes maps;
    for (int i = 0; i < 64; ++i) maps.insert(maps.end(), {std::byte{0x81}, std::byte{0xc0}});
    maps.push_back(std::byte{0xc0});
    CHECK(skips_all(maps));
    CHECK_FALSE(skips_all(repeated(std::byte{0x91}, 1'000'000, one)));
    CHECK_FALSE(skips_all(repeated(std::byte{0xdd}, 1'000'000)));
    // Depth is what is open at once, not what has been open.
    bytes wide{std::byte{0xdc}, std::byte{0x03}, std::byte{0xe8}};
    for (int i = 0; i < 1000; ++i) wide.insert(wide.end(), {std::byte{0x91}, std::byte{0x90}});
    CHECK(skips_all(wide));
  }

  TEST_CASE("a count that the bytes cannot hold fails at once") {
    for (const char* const bomb : {"ddffffffff", "dfffffffff", "dcffff", "deffff", "dbffffffff",
                                   "c6ffffffff", "c9ffffffff01", "df80000000", "9f", "8f"}) {
      CAPTURE(bomb);
      CHECK_FALSE(skips_all(from_hex(bomb)));
      bytes longer = from_hex(bomb);
      longer.resize(longer.size() + 10, std::byte{0xc0});
      header_reader in(longer);
      in.skip();
      CHECK(in.failed());
    }
    // 2 * 2^31 children would overflow 32 bits.
    bytes overflow = from_hex("df80000000");
    overflow.resize(100, std::byte{0});
    CHECK_FALSE(skips_all(overflow));
  }

  TEST_CASE("random bytes are read to their end and never beyond") {
    test::dice dice(test::seed());
    for (int i = 0; i < 20'000; ++i) {
      bytes from(dice.below(40));
      for (auto& each : from) each = static_cast<std::byte>(dice.any());
      if (!from.empty() && dice.one_in(2))
        from[0] = static_cast<std::byte>(dice.between(0x80, 0xdf));
      const std::vector<std::byte> exact(from);  // on the heap: a sanitizer sees one byte too far
      header_reader in(exact);
      while (!in.failed() && in.position() < exact.size()) {
        const std::size_t before = in.position();
        in.skip();
        CHECK((in.failed() || in.position() > before));
      }
      CHECK(in.position() <= exact.size());
    }
  }
}
