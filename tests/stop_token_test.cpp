// SPDX-License-Identifier: Apache-2.0
#include "hawser/stop_token.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "support/environment.hpp"
#include "support/watchdog.hpp"

TEST_SUITE("stop_token") {
  using namespace std::chrono_literals;
  using hawser::stop_source;
  using hawser::stop_token;
  using callback = hawser::stop_callback<std::function<void()>>;

  TEST_CASE("a token without a source never stops") {
    bool called = false;
    const stop_token token;
    {
      const callback quiet(token, [&] { called = true; });
    }

    CHECK_FALSE(token.stop_possible());
    CHECK_FALSE(token.stop_requested());
    CHECK_FALSE(called);
  }

  TEST_CASE("a request runs every callback once") {
    stop_source source;
    int calls = 0;
    const callback one(source.token(), [&] { ++calls; });
    const callback two(source.token(), [&] { ++calls; });

    CHECK(source.request_stop());
    CHECK_FALSE(source.request_stop());
    CHECK(source.token().stop_requested());
    CHECK(calls == 2);
  }

  TEST_CASE("a callback that comes after the request runs at once") {
    stop_source source;
    source.request_stop();
    int calls = 0;

    const callback late(source.token(), [&] { ++calls; });

    CHECK(calls == 1);
  }

  TEST_CASE("a callback that has gone does not run") {
    stop_source source;
    int calls = 0;
    std::optional<callback> first, second, third;
    first.emplace(source.token(), [&] { calls += 1; });
    second.emplace(source.token(), [&] { calls += 10; });
    third.emplace(source.token(), [&] { calls += 100; });

    second.reset();
    third.reset();
    source.request_stop();

    CHECK(calls == 1);
  }

  TEST_CASE("a callback may end itself and others") {
    stop_source source;
    int calls = 0;
    std::optional<callback> one, two;
    const auto end_both = [&] {
      ++calls;
      one.reset();
      two.reset();
    };
    one.emplace(source.token(), end_both);
    two.emplace(source.token(), end_both);

    source.request_stop();

    CHECK(calls == 1);
  }

  TEST_CASE("a callback may register another, which runs at once") {
    stop_source source;
    int calls = 0;
    const callback outer(source.token(),
                         [&] { const callback inner(source.token(), [&] { ++calls; }); });

    source.request_stop();

    CHECK(calls == 1);
  }

  TEST_CASE("a linked source stops with the one around it, not the other way") {
    stop_source outer;
    hawser::detail::linked_stop_source first(outer.token());
    hawser::detail::linked_stop_source second(outer.token());

    first.request_stop();
    CHECK_FALSE(outer.stop_requested());
    CHECK_FALSE(second.stop_requested());
    outer.request_stop();
    CHECK(second.stop_requested());
  }

  TEST_CASE("the destructor waits for a callback that runs on another thread") {
    test::watchdog dog(30s);
    stop_source source;
    std::atomic<bool> inside{false}, go{false}, left{false};
    std::optional<callback> slow;
    slow.emplace(source.token(), [&] {
      inside = true;
      while (!go) std::this_thread::yield();
      left = true;
    });
    std::thread requester([&] { source.request_stop(); });
    while (!inside) std::this_thread::yield();
    std::thread releaser([&] { go = true; });

    slow.reset();

    CHECK(left);
    requester.join();
    releaser.join();
  }

  // Goal: a callback runs at most once, and never after its destructor. Method: one thread makes
  // and ends callbacks that touch memory of their own while another requests the stop.
  TEST_CASE("a request races with registrations") {
    test::watchdog dog(60s);
    std::mt19937_64 random(test::seed());
    for (int round = 0; round < 2'000; ++round) {
      stop_source source;
      std::atomic<bool> start{false};
      std::thread requester([&] {
        while (!start) {
        }
        source.request_stop();
      });
      int worst = 0;
      start = true;
      const auto count = random() % 40;
      for (std::uint64_t i = 0; i < count; ++i) {
        auto calls = std::make_unique<int>(0);
        {
          const callback one(source.token(), [p = calls.get()] { ++*p; });
          const callback two(source.token(), [] {});
        }
        worst = std::max(worst, *calls);
      }
      requester.join();
      REQUIRE(worst <= 1);
    }
  }
}
