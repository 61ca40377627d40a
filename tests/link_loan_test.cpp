// SPDX-License-Identifier: Apache-2.0
// Payloads that do not travel: memory that channels lend.
#include <doctest/doctest.h>

#include <chrono>
#include <cstring>
#include <deque>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "hawser/hawser.hpp"
#include "support/config.hpp"
#include "support/environment.hpp"
#include "support/links.hpp"
#include "support/mappings.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::buffer;
using hawser::errc;
using hawser::message;
using hawser::shared_buffer;
using hawser::task;
using test::kinds;
using test::linked;
using test::next;
using test::settle;
using test::transport;

constexpr std::size_t small_arena = 256 << 10;

test::habits with_arena(std::size_t bytes, unsigned threads = 1) {
  test::habits how;
  how.threads = threads;
  how.client.arena_bytes = bytes;
  return how;
}

// A loan with a pattern in it.
task<buffer> written(hawser::channel& on, std::uint64_t number, std::size_t bytes) {
  buffer lent = co_await on.loan(bytes);
  buffer pattern = test::make_pattern(number, bytes);
  std::memcpy(lent.data(), pattern.data(), bytes);
  co_return lent;
}

}  // namespace

TEST_SUITE("link_loan") {
  TEST_CASE("the code is the same over all transports, the copies are not") {
    for (const auto over : test::transports) {
      CAPTURE(test::name_of(over));
      linked ends(over);
      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await settle(ends);
        for (const auto kind : kinds) {
          for (const auto& [from, to] :
               {std::pair(ends.client, ends.server), std::pair(ends.server, ends.client)}) {
            buffer lent = co_await written(from.at(kind), 7, 50'000);
            CHECK(lent.size() == 50'000);
            co_await from.at(kind).send(std::move(lent));
            const message came = co_await next(to.at(kind));
            CHECK(test::is_pattern(came, 7, 50'000));
            CHECK(came.is_borrowed() == (over == transport::shared_memory));
          }
        }
      });
      CHECK(test::counts_of(ends.runtime, ends.server, hawser::priority::rpc).taken == 4);
    }
  }

  TEST_CASE("header fields and lanes travel with a loan") {
    linked ends(transport::shared_memory);
    hawser::run(ends.runtime, [&]() -> task<void> {
      co_await settle(ends);
      auto& rpc = ends.client.rpc();
      buffer lent = co_await written(rpc, 1, 10'000);
      co_await rpc.send(message(std::move(lent), {.id = 77, .encoding = hawser::codec::json}),
                        hawser::urgent);
      const message came = co_await next(ends.server.rpc());
      CHECK(came.is_borrowed());
      CHECK(came.id() == 77);
      CHECK(came.encoding() == hawser::codec::json);
      CHECK(came.via() == hawser::lane::urgent);
      CHECK(test::is_pattern(came, 1, 10'000));
    });
  }

  TEST_CASE("large payloads are lent by themselves, small ones are not") {
    linked ends(transport::shared_memory, {.client = {.lend_from_bytes = 30'000}});
    hawser::run(ends.runtime, [&]() -> task<void> {
      co_await settle(ends);
      auto& bulk = ends.client.bulk();
      buffer borrowed = test::make_pattern(3, 30'000);
      co_await bulk.send(borrowed.bytes());
      co_await bulk.send(test::make_pattern(4, 1'000'000));
      co_await bulk.send(test::make_pattern(5, 29'999));
      for (const auto& [number, bytes, lent] :
           {std::tuple(3U, 30'000U, true), std::tuple(4U, 1'000'000U, true),
            std::tuple(5U, 29'999U, false)}) {
        const message came = co_await next(ends.server.bulk());
        CHECK(test::is_pattern(came, number, bytes));
        CHECK(came.is_borrowed() == lent);
        const shared_buffer own = came.to_owned();
        CHECK((own.data() == came.bytes().data()) == !lent);
        CHECK(test::is_pattern(message(own), number, bytes));
        CHECK_FALSE(message(own).is_borrowed());
      }
    });
  }

  TEST_CASE("what is sent again and again is written once") {
    linked ends(transport::shared_memory);
    hawser::run(ends.runtime, [&]() -> task<void> {
      co_await settle(ends);
      const shared_buffer frame = co_await written(ends.client.stream(), 9, 200'000);
      const std::byte* first = nullptr;
      for (int i = 0; i < 300; ++i) {
        co_await ends.client.stream().send(frame);
        const message came = co_await next(ends.server.stream());
        CHECK(test::is_pattern(came, 9, 200'000));
        if (first == nullptr) first = came.bytes().data();
        CHECK(came.bytes().data() == first);
      }
    });
  }

  TEST_CASE("a full arena lets loans wait and what is copied go another way") {
    linked ends(transport::shared_memory, with_arena(small_arena));
    hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
      co_await settle(ends);
      auto& bulk = ends.client.bulk();
      buffer most = co_await written(bulk, 1, small_arena - 4096);
      CHECK(ends.client.road().lent_bytes == small_arena - 4096);
      co_await bulk.send(std::move(most));
      const auto in_vain = co_await hawser::as_result(hawser::timeout(1ms, bulk.loan(8192)));
      REQUIRE_FALSE(in_vain.has_value());
      CHECK(in_vain.error().code() == errc::timed_out);

      co_await bulk.send(test::make_pattern(2, 100'000));  // there is no room to lend
      message first = co_await next(ends.server.bulk());
      CHECK(first.is_borrowed());
      const message second = co_await next(ends.server.bulk());
      CHECK(test::is_pattern(second, 2, 100'000));
      CHECK_FALSE(second.is_borrowed());

      // Those that wait are served in order.
      std::vector<int> served;
      for (const int i : {0, 1, 2}) {
        all.spawn([](hawser::channel& on, std::vector<int>& into, int number) -> task<void> {
          const buffer lent = co_await on.loan(100'000);
          CHECK(lent.size() == 100'000);
          into.push_back(number);
        }(bulk, served, i));
      }
      co_await hawser::this_task::yield();
      CHECK(served.empty());
      first = {};
      while (served.size() != 3) co_await hawser::this_task::sleep_for(100us);
      CHECK(served == std::vector<int>{0, 1, 2});

      // More than there will ever be is memory of our own.
      const buffer large = co_await bulk.loan(small_arena + 1);
      CHECK(large.size() == small_arena + 1);
    });
  }

  TEST_CASE("loans come back from whichever thread lets go of them") {
    for (const bool elsewhere : {false, true}) {
      linked ends(transport::shared_memory, with_arena(small_arena, 2));
      std::deque<message> kept;
      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await settle(ends);
        for (std::uint64_t i = 0; i < 500; ++i) {
          buffer lent = co_await written(ends.client.bulk(), i, 60'000);
          co_await ends.client.bulk().send(std::move(lent));
          message came = co_await next(ends.server.bulk());
          CHECK(came.is_borrowed());
          CHECK(test::is_pattern(came, i, 60'000));
          kept.push_back(std::move(came));
          if (kept.size() < 3) continue;
          if (elsewhere) {
            std::thread([&] { kept.pop_front(); }).join();
          } else {
            kept.pop_front();
          }
        }
      });
      for (std::uint64_t i = 498; !kept.empty(); ++i, kept.pop_front()) {
        CHECK(test::is_pattern(kept.front(), i, 60'000));
      }
    }
  }

  TEST_CASE("loans end with their link, payloads do not") {
    message kept;
    buffer unsent;
    {
      linked ends(transport::shared_memory);
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        co_await settle(ends);
        buffer lent = co_await written(ends.client.bulk(), 1, 1 << 20);
        co_await ends.client.bulk().send(std::move(lent));
        kept = co_await next(ends.server.bulk());
        unsent = co_await ends.client.bulk().loan(100);
        const buffer rest = co_await ends.client.bulk().loan(14 << 20);
        bool failed = false;
        all.spawn([](hawser::channel& on, bool& into) -> task<void> {
          const auto none = co_await hawser::as_result(on.loan(8 << 20));
          into = !none.has_value() && none.error().code() == errc::closed;
        }(ends.client.bulk(), failed));
        co_await hawser::this_task::yield();
        co_await ends.client.close();
        while (!failed) co_await hawser::this_task::yield();
        CHECK_THROWS_AS(static_cast<void>(co_await ends.client.bulk().loan(1)), std::system_error);
      });
    }
    CHECK(test::is_pattern(kept, 1, 1 << 20));
    CHECK(kept.is_borrowed());
    kept = {};
    unsent = {};
    CHECK(test::segment_mappings() == 0);
  }

  TEST_CASE("either side may do without") {
    for (const bool by_client : {false, true}) {
      test::habits how;
      (by_client ? how.client : how.server.link).arena_bytes = 0;
      linked ends(transport::shared_memory, how);
      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await settle(ends);
        for (const auto bytes : {5'000U, 500'000U}) {
          buffer lent = co_await written(ends.client.bulk(), 1, bytes);
          co_await ends.client.bulk().send(std::move(lent));
          const message came = co_await next(ends.server.bulk());
          CHECK(test::is_pattern(came, 1, bytes));
          CHECK_FALSE(came.is_borrowed());
        }
      });
    }
  }

  TEST_CASE("an arena that is larger than allowed is refused by name") {
    test::habits how;
    how.server.link.arena_bytes = small_arena;
    const auto refused =
        test::outcome_of([&] { const linked ends(transport::shared_memory, how); });
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().text().find("arena") != std::string::npos);
  }

  TEST_CASE("a message that is forwarded goes on in an arena of its own way") {
    linked ends(transport::shared_memory);
    hawser::run(ends.runtime, [&]() -> task<void> {
      co_await settle(ends);
      for (std::uint64_t i = 0; i < 100; ++i) {
        co_await ends.client.bulk().send(test::make_pattern(i, 300'000));
        message came = co_await next(ends.server.bulk());
        co_await ends.server.bulk().send(std::move(came));
        const message back = co_await next(ends.client.bulk());
        CHECK(back.is_borrowed());
        CHECK(test::is_pattern(back, i, 300'000));
      }
    });
  }
}
