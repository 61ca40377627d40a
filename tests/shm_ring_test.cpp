// SPDX-License-Identifier: Apache-2.0
#include "shm/ring.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "shm/bell.hpp"
#include "support/environment.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::shm::record_header;
using hawser::shm::record_kind;
using reader = hawser::shm::ring_reader<>;
using writer = hawser::shm::ring_writer<>;

constexpr std::size_t small = hawser::shm::ring_bytes_min;

/// Both ends of a ring, over one mapping.
template <std::size_t Bytes = small>
struct ends {
  hawser::shm::ring_state<> state;
  alignas(8) std::array<std::byte, Bytes> bytes{};
  writer to{state, hawser::shm::ring_bytes(bytes)};
  reader from{state, hawser::shm::ring_bytes(bytes)};
  bool gave_back = false;  // with the last record taken

  bool put(std::span<const std::byte> payload) {
    const std::size_t at = to.claim(payload.size());
    if (at == writer::no_room) return false;
    if (!payload.empty()) std::memcpy(to.memory().at(at), payload.data(), payload.size());
    to.commit(payload.size());
    return true;
  }
  bool put(std::uint64_t number) { return put(std::as_bytes(std::span(&number, 1))); }

  std::optional<std::vector<std::byte>> take() {
    if (from.look() != reader::found::record) return std::nullopt;
    const std::byte* const first = from.memory().at(from.offset());
    std::vector<std::byte> payload(first, first + from.bytes());
    gave_back = from.pop();
    return payload;
  }
  std::optional<std::uint64_t> take_number() {
    const auto payload = take();
    if (!payload.has_value() || payload->size() != sizeof(std::uint64_t)) return std::nullopt;
    std::uint64_t number = 0;
    std::memcpy(&number, payload->data(), sizeof number);
    return number;
  }
  void overwrite(std::size_t offset, std::uint64_t header) {
    std::memcpy(bytes.data() + offset, &header, sizeof header);
  }
};

std::vector<std::byte> numbered(std::size_t bytes, std::uint64_t number) {
  std::vector<std::byte> made(bytes);
  for (std::size_t i = 0; i < bytes; ++i) made[i] = static_cast<std::byte>(number * 31 + i);
  return made;
}

}  // namespace

TEST_SUITE("shm_ring") {
  TEST_CASE("what is published arrives in order, and nothing before it") {
    ends both;
    CHECK(both.from.look() == reader::found::nothing);
    CHECK(both.put(1));
    CHECK(both.put(2));
    CHECK(both.from.look() == reader::found::nothing);

    CHECK(both.to.publish());
    CHECK_FALSE(both.to.publish());
    CHECK(both.take_number() == 1);
    CHECK(both.take_number() == 2);
    CHECK(both.from.look() == reader::found::nothing);
  }

  TEST_CASE("a record may be empty, and as large as half the ring nearly") {
    ends both;
    CHECK(both.put(std::span<const std::byte>()));
    CHECK(both.put(numbered(both.to.largest(), 3)));
    both.to.publish();
    CHECK(both.take() == std::vector<std::byte>());
    CHECK(both.take() == numbered(both.to.largest(), 3));
  }

  TEST_CASE("a claim that is not committed leaves nothing") {
    ends both;
    CHECK(both.to.claim(40) != writer::no_room);
    CHECK(both.put(7));
    both.to.publish();
    CHECK(both.take_number() == 7);
    CHECK(both.from.look() == reader::found::nothing);
  }

  TEST_CASE("a claim may become a smaller record") {
    ends both;
    const std::size_t at = both.to.claim(64);
    std::memcpy(both.to.memory().at(at), "abc", 3);
    both.to.commit(3);
    both.to.publish();
    REQUIRE(both.from.look() == reader::found::record);
    CHECK(both.from.bytes() == 3);
  }

  TEST_CASE("a full ring takes no more until the reader has let go") {
    ends both;
    std::uint64_t sent = 0;
    while (both.put(sent)) ++sent;
    both.to.publish();
    CHECK(sent == small / 16 - 1);  // the header behind the last one needs room, too
    CHECK_FALSE(both.put(sent));

    for (std::uint64_t i = 0; i < sent; ++i) CHECK(both.take_number() == i);
    static_cast<void>(both.from.give_back());
    CHECK(both.put(sent));
  }

  TEST_CASE("any sequence of sizes passes any number of times around the ring") {
    ends<1024> both;
    std::mt19937_64 random(test::seed());
    std::uint64_t sent = 0;
    std::uint64_t taken = 0;
    std::vector<std::size_t> sizes;
    for (int i = 0; i < 100'000; ++i) {
      const std::size_t bytes =
          random() % 8 == 0 ? random() % (both.to.largest() + 1) : random() % 40;
      if (both.put(numbered(bytes, sent))) {
        sizes.push_back(bytes);
        ++sent;
      }
      if (random() % 3 == 0) both.to.publish();
      while (random() % 3 != 0) {
        const auto next = both.take();
        if (!next.has_value()) break;
        REQUIRE(next == numbered(sizes[taken], taken));
        ++taken;
      }
      if (random() % 5 == 0) static_cast<void>(both.from.give_back());
    }
    CHECK(taken > 10'000);
    CHECK_FALSE(both.to.broken());
  }

  TEST_CASE("the writer learns that the reader was waited for once") {
    ends both;
    both.to.wait_for_room();
    CHECK(both.from.take_waiting());
    CHECK_FALSE(both.from.take_waiting());
    both.to.wait_for_room();
    both.to.stop_waiting();
    CHECK_FALSE(both.from.take_waiting());
  }

  TEST_CASE("headers that no writer makes break the ring, and lead nowhere") {
    const std::array<std::uint64_t, 9> bad{record_header(0, record_kind::data),
                                           record_header(7, record_kind::data),
                                           record_header(small + 8, record_kind::data),
                                           record_header(0xffff'ffff, record_kind::data),
                                           record_header(small, record_kind::data),
                                           record_header(16, static_cast<record_kind>(0)),
                                           record_header(16, static_cast<record_kind>(3)),
                                           record_header(4, record_kind::padding),
                                           record_header(small, record_kind::padding)};
    for (const std::uint64_t header : bad) {
      ends both;
      both.overwrite(0, header);
      CHECK_MESSAGE(both.from.look() == reader::found::broken, header);
    }
    ends at_the_end;
    while (at_the_end.put(1)) {
    }
    at_the_end.to.publish();
    for (std::size_t i = 0; i + 1 < small / 16; ++i) CHECK(at_the_end.take_number() == 1);
    at_the_end.overwrite(small - 16, record_header(24, record_kind::data));
    CHECK(at_the_end.from.look() == reader::found::broken);
  }

  TEST_CASE("a ring of nothing but padding ends the look") {
    ends both;
    for (std::size_t at = 0; at < small; at += 8) {
      both.overwrite(at, record_header(8, record_kind::padding));
    }
    CHECK(both.from.look() == reader::found::broken);
  }

  TEST_CASE("a count of the reader that cannot be gives the writer no room") {
    for (const std::uint64_t lie :
         {std::uint64_t{1} << 40, ~std::uint64_t{0}, std::uint64_t{500}}) {
      ends both;
      while (both.put(1)) {
      }
      both.state.consumed.store(lie, std::memory_order_relaxed);
      CHECK_FALSE(both.put(1));
      CHECK(both.to.broken());
    }
    ends backwards;
    while (backwards.put(1)) {
    }
    backwards.to.publish();
    for (int i = 0; i < 8; ++i) static_cast<void>(backwards.take());
    static_cast<void>(backwards.from.give_back());
    CHECK(backwards.put(1));
    while (backwards.put(1)) {
    }
    backwards.state.consumed.store(8, std::memory_order_relaxed);
    CHECK_FALSE(backwards.put(1));
    CHECK(backwards.to.broken());
  }

  // Goal: nothing is lost, torn or seen early between two threads, and nobody sleeps for ever.
  // Method: a small ring, records whose contents follow from their number, sleeps on a word.
  TEST_CASE("two threads hand over records, asleep and awake") {
    constexpr std::uint64_t records = 100'000;
    const test::watchdog guard(60s);
    const auto shared = std::make_unique<ends<1024>>();
    hawser::shm::bell_state<> reader_sleeps;
    hawser::shm::bell_state<> writer_sleeps;
    const hawser::shm::barriers fences;
    const auto sleep = [](hawser::shm::bell_state<>& on) { on.asleep.wait(1); };
    const auto wake = [&](hawser::shm::bell_state<>& whom) {
      fences.between_publish_and_look();
      hawser::shm::bell<> bell(whom);
      if (bell.ring()) whom.asleep.notify_one();
    };
    std::uint64_t wrong = 0;

    const auto room_was_given = [&] {
      fences.between_publish_and_look();
      if (shared->from.take_waiting()) wake(writer_sleeps);
    };
    std::thread other([&] {
      hawser::shm::bell<> bell(reader_sleeps);
      for (std::uint64_t taken = 0; taken < records;) {
        if (const auto next = shared->take(); next.has_value()) {
          wrong += *next == numbered(taken % 100, taken) ? 0 : 1;
          ++taken;
          if (shared->gave_back) room_was_given();
          continue;
        }
        if (shared->from.give_back()) room_was_given();
        bell.announce();
        fences.between_publish_and_look();
        if (shared->from.look() == reader::found::nothing) sleep(reader_sleeps);
        bell.answer();
      }
    });
    hawser::shm::bell<> bell(writer_sleeps);
    for (std::uint64_t sent = 0; sent < records;) {
      if (shared->put(numbered(sent % 100, sent))) {
        if (++sent % 4 == 0 || sent == records) {
          shared->to.publish();
          wake(reader_sleeps);
        }
        continue;
      }
      shared->to.publish();
      wake(reader_sleeps);
      shared->to.wait_for_room();
      bell.announce();
      fences.between_publish_and_look();
      if (!shared->to.has_room(100)) sleep(writer_sleeps);
      bell.answer();
      shared->to.stop_waiting();
    }
    other.join();
    CHECK(wrong == 0);
  }
}
