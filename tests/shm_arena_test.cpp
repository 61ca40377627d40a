// SPDX-License-Identifier: Apache-2.0
#include "shm/arena.hpp"

#include <doctest/doctest.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hawser/hawser.hpp"
#include "shm/file_view.hpp"
#include "support/environment.hpp"
#include "support/links.hpp"
#include "support/mappings.hpp"
#include "support/on_worker.hpp"

namespace {

using hawser::buffer;
using hawser::shared_buffer;
using hawser::shm::arena;
using hawser::shm::arena_memory;
using hawser::shm::buddies;
using hawser::shm::file_passage;
using hawser::shm::granule_bytes;
using hawser::shm::passable;
using test::on_worker;

constexpr std::size_t smallest = hawser::shm::arena_bytes_min;

struct told final : hawser::shm::arena_events {
  void on_let_go(std::uint64_t at) noexcept override { let_go.push_back(at); }
  void on_room() noexcept override { ++room; }
  void on_let_go_elsewhere() noexcept override { ++elsewhere; }

  std::vector<std::uint64_t> let_go;
  unsigned room = 0;
  std::atomic<unsigned> elsewhere = 0;
};

/// Both sides of one arena, on the worker that calls this.
struct both {
  explicit both(std::size_t bytes = smallest, passable files = passable::none) {
    arena_memory mine = arena_memory::create(bytes);
    auto handle = hawser::platform::native_handle(::dup(static_cast<int>(mine.handle())));
    arena_memory others = arena_memory::adopt(handle, bytes);
    file_passage ours;
    file_passage theirs;
    if (files != passable::none) {
      const auto [one, other] = hawser::platform::socket_pair();
      ours = {one, files};
      theirs = {other, files};
    }
    client = arena::make(std::move(mine), std::move(ours), client_told);
    server = arena::make(std::move(others), std::move(theirs), server_told);
  }
  both(const both&) = delete;
  both& operator=(const both&) = delete;
  ~both() {
    if (client != nullptr) client->abandon();
    if (server != nullptr) server->abandon();
  }

  told client_told;
  told server_told;
  arena* client = nullptr;
  arena* server = nullptr;
};

buffer filled(buffer bytes, int value) {
  std::memset(bytes.data(), value, bytes.size());
  return bytes;
}

}  // namespace

TEST_SUITE("shm_arena") {
  TEST_CASE("runs of granules never overlap, and join again to one") {
    std::mt19937_64 dice(test::seed());
    for (const std::uint32_t all : {1U, 2U, 64U, 1024U}) {
      buddies from(all);
      std::vector<bool> used(all);
      std::vector<std::pair<std::uint32_t, std::uint32_t>> out;
      for (int step = 0; step < 5000; ++step) {
        if (dice() % 2 == 0) {
          const std::uint64_t most = std::max<std::uint64_t>(1, all / (1 + dice() % 8));
          const auto count = static_cast<std::uint32_t>(1 + dice() % most);
          const auto first = from.take(count);
          if (first == buddies::none) continue;
          REQUIRE(first + count <= all);
          for (auto i = first; i < first + count; ++i) {
            REQUIRE_FALSE(used[i]);
            used[i] = true;
          }
          out.emplace_back(first, count);
        } else if (!out.empty()) {
          std::swap(out[dice() % out.size()], out.back());
          const auto [first, count] = out.back();
          out.pop_back();
          for (auto i = first; i < first + count; ++i) used[i] = false;
          from.give_back(first, count);
        }
        const auto taken = std::count(used.begin(), used.end(), true);
        REQUIRE(from.taken() == static_cast<std::uint32_t>(taken));
      }
      for (const auto& [first, count] : out) from.give_back(first, count);
      CHECK(from.take(all) == 0);
      CHECK(from.take(1) == buddies::none);
    }
  }

  TEST_CASE("room that is no power of two, or of neighbours, is found") {
    buddies from(16);
    const auto first = from.take(1);
    const auto rest = from.take(15);
    CHECK(rest != buddies::none);
    from.give_back(rest, 15);
    const auto three = from.take(3);
    CHECK(three != buddies::none);
    CHECK(from.take(13) == buddies::none);
    CHECK(from.take(9) == 7);  // one, and eight
    CHECK(from.taken() == 13);
    CHECK(first != three);
  }

  TEST_CASE("what one side writes the other reads, and gives back") {
    on_worker([] {
      both ends;
      const shared_buffer sent = filled(*ends.client->loan(10'000), 7);
      REQUIRE(ends.client->has_lent(sent));
      const auto at = ends.client->place_of(sent);
      ends.client->hand_over(sent);
      {
        const shared_buffer came = ends.server->borrow(at, sent.size());
        REQUIRE(came.size() == 10'000);
        CHECK(came.data() != sent.data());
        CHECK(std::memcmp(came.data(), sent.data(), came.size()) == 0);
        CHECK(ends.server_told.let_go.empty());
        CHECK_FALSE(ends.server->has_lent(came));  // what is borrowed cannot be lent on
      }
      REQUIRE(ends.server_told.let_go == std::vector<std::uint64_t>{at});
      CHECK(ends.client->take_return(at));
      CHECK_FALSE(ends.client->take_return(at));
      CHECK(ends.client_told.room == 0);  // we hold it still
    });
  }

  TEST_CASE("parts can be lent, again and again, and all must come back") {
    on_worker([] {
      both ends;
      std::optional<shared_buffer> whole = filled(*ends.client->loan(3 * granule_bytes), 1);
      const shared_buffer part = whole->slice(granule_bytes + 8, 100);
      const shared_buffer askew = whole->slice(3, 100);
      CHECK_FALSE(ends.client->has_lent(askew));
      CHECK_FALSE(ends.client->has_lent(whole->slice(8, 0)));
      CHECK_FALSE(ends.client->has_lent(shared_buffer(buffer(100))));
      REQUIRE(ends.client->has_lent(part));
      CHECK(ends.client->place_of(part) == ends.client->place_of(*whole) + granule_bytes + 8);
      for (int i = 0; i < 2; ++i) ends.client->hand_over(part);
      const auto at = ends.client->place_of(part);
      whole.reset();
      CHECK(ends.client->take_return(at));
      CHECK(ends.client->take_return(at + 1));  // the same granule
      CHECK_FALSE(ends.client->take_return(at));
      CHECK_FALSE(ends.client->take_return(smallest));
      CHECK_FALSE(ends.client->take_return(~std::uint64_t{0}));
    });
  }

  TEST_CASE("an arena that is full lends again what has come back") {
    on_worker([] {
      both ends;
      CHECK(ends.client->may_lend(smallest));
      CHECK_FALSE(ends.client->may_lend(smallest + 1));
      CHECK_FALSE(ends.client->may_lend(0));
      std::vector<buffer> all;
      for (;;) {
        auto next = ends.client->loan(granule_bytes);
        if (!next.has_value()) break;
        all.push_back(std::move(*next));
      }
      CHECK(all.size() == smallest / granule_bytes);
      all.pop_back();
      CHECK(ends.client_told.room == 1);
      CHECK(ends.client->loan(1).has_value());
      all.clear();
      CHECK(ends.client->loan(smallest).has_value());
      ends.client->shed();
      const auto anew = ends.client->loan(smallest);
      REQUIRE(anew.has_value());
    });
  }

  TEST_CASE("what falls silent gives its memory back to the system, and has it again") {
    on_worker([] {
      both ends;
      {
        const shared_buffer used = filled(*ends.client->loan(smallest), 9);
        ends.client->shed();
        CHECK(used.bytes()[5] == std::byte{9});  // it is lent
      }
      ends.client->shed();
      auto anew = ends.client->loan(granule_bytes);
      REQUIRE(anew.has_value());
      CHECK(anew->bytes()[5] == std::byte{0});
    });
  }

  TEST_CASE("no place outside of the peer's half is believed") {
    on_worker([] {
      both ends;
      constexpr auto most = ~std::uint64_t{0};
      const std::array<std::pair<std::uint64_t, std::uint64_t>, 8> wrong{{{0, 0},
                                                                          {0, smallest + 1},
                                                                          {smallest, 1},
                                                                          {smallest - 8, 9},
                                                                          {most - 7, 8},
                                                                          {8, most},
                                                                          {4, 8},
                                                                          {most, most}}};
      for (const auto& [at, bytes] : wrong) CHECK(ends.server->borrow(at, bytes).empty());
      CHECK(ends.server->borrow(smallest - 8, 8).size() == 8);
      CHECK(ends.server->borrow(0, smallest).size() == smallest);
    });
  }

  TEST_CASE("what another thread lets go of is collected at home") {
    on_worker([] {
      both ends;
      shared_buffer lent = filled(*ends.client->loan(100), 1);
      ends.client->hand_over(lent);
      shared_buffer came = ends.server->borrow(ends.client->place_of(lent), 100);
      std::thread([&] {
        lent = {};
        came = {};
      }).join();
      CHECK(ends.server_told.elsewhere == 1);
      CHECK(ends.server_told.let_go.empty());
      ends.server->collect();
      REQUIRE(ends.server_told.let_go.size() == 1);
      CHECK(ends.client_told.elsewhere == 0);  // the peer has it
      CHECK(ends.client->take_return(ends.server_told.let_go.front()));
      CHECK(ends.client_told.room == 1);
    });
  }

  TEST_CASE("payloads outlive the link, and a dead peer keeps nothing") {
    on_worker([] {
      std::optional<shared_buffer> lent;
      std::optional<shared_buffer> came;
      buffer unsent;
      {
        both ends;
        lent = filled(*ends.client->loan(5000), 3);
        ends.client->hand_over(*lent);
        const shared_buffer gone = filled(*ends.client->loan(5000), 3);
        ends.client->hand_over(gone);
        came = ends.server->borrow(ends.client->place_of(*lent), 5000);
        unsent = std::move(*ends.client->loan(100));
      }
      CHECK(came->bytes()[4999] == std::byte{3});
      std::memset(unsent.data(), 1, unsent.size());
      std::thread([&] { came.reset(); }).join();
      lent.reset();
      unsent = {};
    });
    CHECK(test::segment_mappings() == 0);
  }

  TEST_CASE("what another thread let go of and nobody has collected goes with the arena") {
    for (const bool peer_has_another : {false, true}) {
      on_worker([&] {
        both ends;
        shared_buffer first = filled(*ends.client->loan(5000), 1);
        const shared_buffer second = filled(*ends.client->loan(5000), 2);
        if (peer_has_another) ends.client->hand_over(second);
        std::thread([&] { first = {}; }).join();
        CHECK(ends.client_told.elsewhere == 1);
        std::exchange(ends.client, nullptr)->abandon();
        CHECK(second.bytes()[4999] == std::byte{2});
      });
    }
    CHECK(test::segment_mappings() == 0);
  }

  TEST_CASE("a file is lent whole and once, under a number that comes free") {
    const std::size_t descriptors = test::open_descriptors();
    constexpr std::size_t bytes = 100'000;
    const auto lend = [](arena& by) {
      const auto made = hawser::platform::create_memory(bytes);
      if (by.may_lend_file({bytes, true})) {
        return by.lend_file(made, 8, hawser::shm::view_file(made, 8, bytes - 8));
      }
      hawser::platform::release_handle(made);
      return shared_buffer();
    };
    on_worker([&] {
      both without;
      CHECK(lend(*without.client).empty());
      both ends(smallest, passable::sealed);
      CHECK_FALSE(ends.client->may_lend_file({bytes, false}));
      shared_buffer sent = lend(*ends.client);
      REQUIRE(ends.client->has_lent(sent));
      CHECK_FALSE(ends.client->has_lent(sent.slice(8, 100)));
      CHECK_FALSE(ends.server->has_lent(sent));
      REQUIRE(ends.client->prepare(sent));
      const auto at = ends.client->place_of(sent);
      ends.client->hand_over(sent);
      CHECK_FALSE(ends.client->has_lent(sent));  // it has gone
      CHECK(ends.client->files_passed() == 1);
      std::optional<shared_buffer> came = ends.server->borrow(at, bytes - 8);
      REQUIRE(came->size() == bytes - 8);
      CHECK(std::memcmp(came->data(), sent.data(), came->size()) == 0);
      CHECK(ends.server->borrow(at, bytes - 8).empty());
      CHECK(ends.server->borrow(at + 8, bytes - 8).empty());
      came.reset();
      REQUIRE(ends.server_told.let_go == std::vector<std::uint64_t>{at});
      CHECK_FALSE(ends.client->take_return(at + 8));
      CHECK(ends.client->take_return(at));
      CHECK_FALSE(ends.client->take_return(at));

      // The number is free, whoever still has the bytes.
      const shared_buffer another = lend(*ends.client);
      REQUIRE(ends.client->prepare(another));
      CHECK(ends.client->place_of(another) == at);
      sent = {};
      ends.client->hand_over(another);
      CHECK(ends.client->take_return(at));

      // What is never sent takes up none; what was let go of elsewhere gives its own back at home.
      const shared_buffer unsent = lend(*ends.client);
      std::vector<shared_buffer> all;
      for (std::uint32_t i = 0; i < file_passage::slots; ++i) {
        all.push_back(lend(*ends.client));
        REQUIRE(ends.client->prepare(all.back()));
      }
      CHECK_FALSE(ends.client->prepare(unsent));
      std::thread([&] { all.clear(); }).join();
      ends.client->collect();
      CHECK(ends.client->prepare(unsent));
      ends.client->hand_over(unsent);
      came = ends.server->borrow(ends.client->place_of(unsent), bytes - 8);
      std::exchange(ends.client, nullptr)->abandon();
      std::exchange(ends.server, nullptr)->abandon();
      CHECK(std::memcmp(came->data(), unsent.data(), bytes - 8) == 0);
    });
    CHECK(test::segment_mappings() == 0);
    CHECK(test::open_descriptors() == descriptors);
  }

  TEST_CASE("an arena of another size than was said is refused") {
    arena_memory mine = arena_memory::create(smallest);
    auto handle = mine.handle();
    CHECK_THROWS_AS(static_cast<void>(arena_memory::adopt(handle, 2 * smallest)),
                    std::system_error);
    CHECK(handle == mine.handle());
  }
}
