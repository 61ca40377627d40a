// SPDX-License-Identifier: Apache-2.0
#include "hawser/shm_bridge.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "hawser/hawser.hpp"
#include "support/config.hpp"
#include "support/links.hpp"
#include "support/streams.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::shm_recv;
using hawser::shm_send;
using hawser::shm_stream;
using hawser::task;

struct pair {
  explicit pair()
      : guard(60s),
        name(test::unique_stream()),
        near(shm_stream::create(name, test::sleepy_stream)),
        far(shm_stream::open(name, test::sleepy_stream)) {}

  test::watchdog guard;
  std::string name;
  shm_stream near;
  shm_stream far;
};

}  // namespace

TEST_SUITE("shm_bridge") {
  TEST_CASE("coroutines send to and receive from a thread that blocks") {
    pair both;
    constexpr std::uint64_t count = 2000;
    std::thread peer([&] {
      for (std::uint64_t i = 0; i < count; ++i) {
        if (test::read_number(both.far) != i || !test::write_number(both.far, i + 1)) return;
      }
      both.far.close();
    });
    hawser::runtime runtime(test::config());
    hawser::sync_wait(runtime, [&]() -> task<void> {
      for (std::uint64_t i = 0; i < count; ++i) {
        co_await shm_send(both.near, test::as_record(i));
        const auto got = co_await shm_recv(both.near);
        CHECK((got.has_value() && *got == test::bytes_of_number(i + 1)));
      }
      const auto end = co_await shm_recv(both.near);
      CHECK_FALSE(end.has_value());
    }());
    peer.join();
  }

  TEST_CASE("a sender waits for room") {
    pair both;
    const std::vector<std::byte> record(1500);
    std::thread peer([&] {
      std::vector<std::byte> got;
      for (int i = 0; i < 1000; ++i) CHECK(both.far.read(got).value() == record.size());
    });
    hawser::runtime runtime(test::config());
    hawser::sync_wait(runtime, [&]() -> task<void> {
      for (int i = 0; i < 1000; ++i) co_await shm_send(both.near, record);
    }());
    peer.join();
  }

  TEST_CASE("both can be cancelled while they wait, and nothing is lost") {
    pair both;
    while (test::write_number(both.near, 1, 0ns)) continue;
    hawser::runtime runtime(test::config());
    const auto cut_short = [&](auto make) {
      const auto outcome = test::outcome_of([&] {
        hawser::sync_wait(runtime,
                          [&]() -> task<void> { co_await hawser::timeout(5ms, make()); }());
      });
      return outcome.has_value() ? std::error_code() : outcome.error().code();
    };
    CHECK(cut_short([&] { return shm_send(both.near, test::as_record(2)); }) ==
          hawser::errc::timed_out);
    CHECK(cut_short([&] { return shm_recv(both.near); }) == hawser::errc::timed_out);
    REQUIRE(test::write_number(both.far, 9));
    hawser::sync_wait(runtime, [&]() -> task<void> {
      const auto got = co_await shm_recv(both.near);
      CHECK((got.has_value() && *got == test::bytes_of_number(9)));
    }());
    while (test::read_number(both.far, 0ns) == 1) continue;
    CHECK(both.far.stats().reads == both.near.stats().writes);
  }

  TEST_CASE("errors of the stream come through") {
    pair both;
    both.far.close();
    hawser::runtime runtime(test::config());
    const auto outcome = test::outcome_of(
        [&] { hawser::sync_wait(runtime, shm_send(both.near, test::as_record(1))); });
    REQUIRE_FALSE(outcome.has_value());
    CHECK(outcome.error().code() == hawser::errc::closed);
  }
}
