// SPDX-License-Identifier: Apache-2.0
// What a peer can say of memory that is lent.
#include <doctest/doctest.h>

#include <unistd.h>

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hawser/hawser.hpp"
#include "shm/arena.hpp"
#include "support/on_worker.hpp"
#include "support/raw_peer.hpp"
#include "wire/machine.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::buffer;
using hawser::errc;
using hawser::message;
using hawser::shared_buffer;
using hawser::wire::kind;
using hawser::wire::verdict;
using test::bytes;
using test::bytes_of;
using test::on_worker;
using test::raw_peer;

namespace platform = hawser::platform;
namespace shm = hawser::shm;
namespace wire = hawser::wire;

constexpr std::size_t arena_bytes = shm::arena_bytes_min;

wire::settings lending() {
  wire::settings made;
  made.share = made.lend = true;
  made.local.window.fill(1 << 20);
  return made;
}

wire::hello greeting(std::uint64_t features) {
  wire::hello made;
  made.features = features;
  made.limits.window.fill(1 << 20);
  return made;
}

/// A server that shares memory with a peer that is written by hand, everything on pipe 4.
struct shared_peer final : shm::arena_events {
  explicit shared_peer(const wire::settings& settings = lending(), std::uint64_t features = 0)
      : peer(raw_peer::of_server(settings,
                                 greeting(wire::feature::share | wire::feature::lend | features))) {
    REQUIRE(peer->may_lend());
    shm::arena_memory theirs = shm::arena_memory::create(arena_bytes);
    platform::native_handle handle = ::dup(static_cast<int>(theirs.handle()));
    own = shm::arena::make(shm::arena_memory::adopt(handle, arena_bytes), {}, *this);
    memory = std::move(theirs);
    peer->shared();
    peer->lend_from(own);
    peer.feed(wire::encode_moved(0, wire::shared_main, 1, 1));
    static_cast<void>(peer.frames());  // MOVED
    for (const std::size_t pipe : {std::size_t{0}, wire::shared_main}) {
      static_cast<void>(peer.frames(pipe));
    }
    REQUIRE(peer->main_pipe() == wire::shared_main);
  }
  shared_peer(const shared_peer&) = delete;
  shared_peer& operator=(const shared_peer&) = delete;
  ~shared_peer() {
    peer->lend_from(nullptr);
    peer->drop_output();
    own->abandon();
  }

  void on_let_go(std::uint64_t at) noexcept override { peer->give_back(at); }
  void on_room() noexcept override {}
  void on_let_go_elsewhere() noexcept override {}

  void feed(std::span<const std::byte> frames) { peer.feed(frames, wire::shared_main); }
  std::vector<test::seen_frame> frames() { return peer.frames(wire::shared_main); }
  [[nodiscard]] std::optional<errc> broken() {
    if (!peer->ended()) return std::nullopt;
    return static_cast<errc>(peer->why().code().value());
  }

  raw_peer peer;
  shm::arena_memory memory;  // the client's
  shm::arena* own = nullptr;
};

bytes lent_frame(std::uint64_t at, std::uint64_t total, std::uint64_t flags = wire::flag::lent) {
  return test::data_frame({1, flags, 0, 0, total, at}, {});
}

}  // namespace

TEST_SUITE("wire_loan") {
  TEST_CASE("a loan is a message whose payload lies where the peer has written it") {
    on_worker([] {
      shared_peer at;
      REQUIRE(at.memory.reserve(0, 8192));
      std::memset(at.memory.own() + 4096, 5, 100);
      at.feed(lent_frame(4096, 100));
      {
        auto came = at.peer->take(1);
        REQUIRE(came.has_value());
        CHECK(came->payload.size() == 100);
        CHECK(came->payload.bytes()[99] == std::byte{5});
        CHECK(came->cost == 16 + wire::message_overhead);
        CHECK(at.frames().empty());
      }
      const auto back = at.frames();
      REQUIRE(back.size() == 1);
      REQUIRE(back[0].kind == kind::returned);
      const auto places = wire::decode_returned(back[0].header);
      REQUIRE(places.has_value());
      CHECK(places->count == 1);
      CHECK(places->places[0] == 4096);
    });
  }

  TEST_CASE("many returns go in few frames") {
    on_worker([] {
      shared_peer at;
      std::vector<wire::inbound> held;
      for (int i = 0; i < 1000; ++i) {
        at.feed(lent_frame(0, 8));
        held.push_back(std::move(*at.peer->take(1)));
      }
      held.clear();
      const auto back = at.frames();
      REQUIRE(back.size() == 3);
      std::size_t places = 0;
      for (const auto& each : back) places += wire::decode_returned(each.header)->count;
      CHECK(places == 1000);
    });
  }

  TEST_CASE("no loan outside of the arena, none in parts, none with bytes of its own") {
    constexpr auto most = ~std::uint64_t{0};
    const std::array wrong{
        lent_frame(arena_bytes, 8),
        lent_frame(arena_bytes - 8, 16),
        lent_frame(0, arena_bytes + 8),
        lent_frame(0, 0),
        lent_frame(4, 8),
        lent_frame(most - 7, 8),
        lent_frame(0, most),
        lent_frame(0, 32'768, wire::flag::lent | wire::flag::continued),
        test::data_frame({1, wire::flag::lent, 0, 0, 8, 0}, bytes_of("payload!")),
    };
    for (const bytes& frame : wrong) {
      on_worker([&] {
        shared_peer at;
        at.feed(frame);
        REQUIRE(at.broken().has_value());
        const bool named =
            at.broken() == errc::protocol_violation || at.broken() == errc::too_large;
        CHECK(named);
        CHECK_FALSE(at.peer->take(1).has_value());
      });
    }
  }

  TEST_CASE("no loan between the slices of a message, beyond its credit, or above what is taken") {
    on_worker([] {
      shared_peer at;
      at.feed(test::data_frame({1, wire::flag::continued, 0, 0, 40'000}, bytes(20'000)));
      at.feed(lent_frame(0, 8));
      CHECK(at.broken() == errc::protocol_violation);
    });
    on_worker([] {
      auto settings = lending();
      settings.local.message_bytes[1] = 100'000;
      shared_peer at(settings);
      at.feed(lent_frame(0, 100'001));
      CHECK(at.broken() == errc::too_large);
    });
    on_worker([] {
      shared_peer at;
      for (int i = 0; i < (1 << 20) / 80 + 1 && !at.broken(); ++i) at.feed(lent_frame(0, 8));
      CHECK(at.broken() == errc::protocol_violation);
    });
  }

  TEST_CASE("without an agreement the flag means nothing, without an arena a loan is a violation") {
    auto alone = raw_peer::of_server(lending(), greeting(wire::feature::share));
    CHECK_FALSE(alone->may_lend());
    alone.feed(test::data_frame({1, wire::flag::lent, 0, 0, 8, 0}, bytes_of("payload!")));
    const auto came = alone->take(1);
    REQUIRE(came.has_value());
    CHECK(came->payload.size() == 8);
    alone.feed(wire::encode_returned(std::vector<std::uint64_t>{0}));
    CHECK(alone->why().code() == errc::protocol_violation);

    auto agreed =
        raw_peer::of_server(lending(), greeting(wire::feature::share | wire::feature::lend));
    agreed.feed(lent_frame(0, 8));
    CHECK(agreed->why().code() == errc::protocol_violation);
  }

  TEST_CASE("what was not lent cannot be returned") {
    for (const std::uint64_t at_place :
         {std::uint64_t{0}, std::uint64_t{8192}, ~std::uint64_t{0}}) {
      on_worker([&] {
        shared_peer at;
        message lent{shared_buffer(std::move(*at.own->loan(5000)))};
        REQUIRE(at.peer->send(2, lent) == verdict::accepted);
        const auto sent = at.frames();
        REQUIRE(sent.size() == 1);
        CHECK(sent[0].data.flags == wire::flag::lent);
        CHECK(sent[0].data.total == 5000);
        CHECK(sent[0].payload.empty());
        const std::uint64_t there = sent[0].data.at;
        if (at_place == 0) {
          at.feed(wire::encode_returned(std::vector<std::uint64_t>{there}));
          CHECK_FALSE(at.broken().has_value());
          at.feed(wire::encode_returned(std::vector<std::uint64_t>{there}));
        } else {
          at.feed(wire::encode_returned(std::vector<std::uint64_t>{at_place}));
        }
        CHECK(at.broken() == errc::protocol_violation);
      });
    }
  }

  TEST_CASE("a peer that may resume hears of every loan that was consumed") {
    on_worker([] {
      auto settings = lending();
      settings.survive = 10s;
      shared_peer at(settings, wire::feature::resume);
      for (int i = 0; i < 2; ++i) at.feed(lent_frame(0, 100'000));
      for (const std::uint64_t consumed : {1U, 2U}) {
        {
          const auto came = at.peer->take(1);
          REQUIRE(came.has_value());
          CHECK(at.peer->release(came->lane, came->cost, false));
        }
        const auto said = at.frames();
        REQUIRE(said.size() == 2);
        CHECK(said[0].kind == kind::returned);
        REQUIRE(said[1].kind == kind::credit);
        const auto grants = wire::decode_credit(said[1].header);
        REQUIRE(grants.has_value());
        CHECK(grants->entries[0].consumed == consumed);
      }
      at.feed(test::data_frame({1}, bytes_of("small")));
      const auto small = at.peer->take(1);
      CHECK_FALSE(at.peer->release(small->lane, small->cost, false));
    });
  }

  TEST_CASE("a peer that returns nothing does not stop those that copy") {
    on_worker([] {
      auto settings = lending();
      settings.lend_from = 60'000;
      shared_peer at(settings);
      std::size_t lent = 0;
      std::size_t copied = 0;
      for (int i = 0; i < 10; ++i) {
        REQUIRE(at.peer->send(2, bytes(60'000), {}) == verdict::accepted);
        for (const auto& each : at.frames()) {
          if (each.kind != kind::data) continue;
          ++(each.payload.empty() ? lent : copied);
        }
      }
      CHECK(lent == arena_bytes / 61'440);
      CHECK(copied == 10 - lent);
    });
  }
}
