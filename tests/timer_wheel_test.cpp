// SPDX-License-Identifier: Apache-2.0
#include "exec/timer_wheel.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "support/environment.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::clock;
using hawser::detail::timer_wheel;

struct test_timer : hawser::detail::timer {
  test_timer()
      : timer([](timer& self) noexcept {
          auto& rung = static_cast<test_timer&>(self);
          ++rung.count;
          if (rung.action) rung.action();
        }) {}
  int count = 0;
  std::function<void()> action;
};

// Moves the clock as a worker does: to where the wheel wants to be looked at next.
struct virtual_clock {
  clock::time_point now{1h};
  timer_wheel wheel{now};

  void run_until(clock::time_point end) {
    for (auto next = wheel.next(); next && *next <= end; next = wheel.next()) {
      now = std::max(now, *next);
      wheel.advance(now);
    }
    now = end;
    wheel.advance(now);
  }
};

}  // namespace

TEST_SUITE("timer_wheel") {
  TEST_CASE("a timer fires once, not before its deadline and at most a tick after it") {
    virtual_clock time;
    for (const auto delay :
         {0ns, 1ns, 130us + 0ns, 1ms + 0ns, 999ms + 7ns, 20s + 0ns, 3h + 1ns, 24h * 90 + 5ns}) {
      test_timer entry;
      const auto start = time.now;
      time.wheel.arm(entry, start + delay);
      if (delay > 0ns) {
        time.run_until(start + delay - 1ns);
        CHECK(entry.count == 0);
        CHECK(entry.armed());
      }
      time.run_until(start + delay + timer_wheel::tick);
      CHECK(entry.count == 1);
      CHECK_FALSE(entry.armed());
    }
    CHECK(time.wheel.empty());
  }

  TEST_CASE("a deadline beyond the horizon of the wheel waits all the same") {
    virtual_clock time;
    test_timer far, never;
    const auto start = time.now;
    time.wheel.arm(far, start + 24h * 400);
    time.wheel.arm(never, clock::time_point::max());

    time.run_until(start + 24h * 399);
    CHECK(far.count == 0);
    time.run_until(start + 24h * 401);

    CHECK(far.count == 1);
    CHECK(never.armed());
    time.wheel.disarm(never);
  }

  TEST_CASE("timers of different ticks fire in the order of their deadlines") {
    virtual_clock time;
    std::mt19937_64 random(test::seed());
    std::vector<std::unique_ptr<test_timer>> all;
    clock::time_point last{};
    const auto start = time.now;
    for (int i = 0; i < 2000; ++i) {
      all.push_back(std::make_unique<test_timer>());
      auto& each = *all.back();
      each.action = [&each, &last, &time] {
        CHECK(each.deadline <= time.now);
        CHECK(each.deadline + timer_wheel::tick >= last);
        last = std::max(last, each.deadline);
      };
      time.wheel.arm(each, start + std::chrono::nanoseconds(random() % 100'000'000'000));
    }

    time.run_until(start + 101s);

    for (const auto& each : all) CHECK(each->count == 1);
  }

  TEST_CASE("a disarmed timer does not fire, and leaves nothing to wake up for") {
    virtual_clock time;
    std::vector<std::unique_ptr<test_timer>> all;
    for (int i = 0; i < 100; ++i) {
      all.push_back(std::make_unique<test_timer>());
      time.wheel.arm(*all.back(), time.now + i * i * 1ms);
    }

    for (const auto& each : all) time.wheel.disarm(*each);
    time.wheel.disarm(*all.front());

    CHECK(time.wheel.empty());
    CHECK_FALSE(time.wheel.next());
    time.run_until(time.now + 1h);
    for (const auto& each : all) CHECK(each->count == 0);
  }

  TEST_CASE("arming again moves a timer") {
    virtual_clock time;
    test_timer entry;
    const auto start = time.now;
    time.wheel.arm(entry, start + 10ms);
    time.wheel.arm(entry, start + 2s);

    time.run_until(start + 1s);
    CHECK(entry.count == 0);
    time.run_until(start + 3s);

    CHECK(entry.count == 1);
  }

  TEST_CASE("a timer may disarm others that are due, and arm itself again") {
    virtual_clock time;
    test_timer first, second, periodic;
    const auto start = time.now;
    first.action = [&] { time.wheel.disarm(second); };
    second.action = [&] { time.wheel.disarm(first); };
    periodic.action = [&] { time.wheel.arm(periodic, time.now); };
    time.wheel.arm(first, start + 5ms);
    time.wheel.arm(second, start + 5ms);
    time.wheel.arm(periodic, start);

    CHECK(time.wheel.advance(start + 1ms) == 1);  // itself again: not in the same call
    time.wheel.advance(start + 6ms);

    CHECK(first.count + second.count == 1);
    time.wheel.disarm(periodic);
    CHECK(time.wheel.empty());
  }

  TEST_CASE("next is never later than the earliest deadline plus a tick") {
    std::vector<std::unique_ptr<test_timer>> all;
    virtual_clock time;
    std::mt19937_64 random(test::seed());
    for (int round = 0; round < 200; ++round) {
      auto earliest = clock::time_point::max();
      for (int i = 0; i < 5; ++i) {
        all.push_back(std::make_unique<test_timer>());
        time.wheel.arm(*all.back(),
                       time.now + std::chrono::nanoseconds(random() >> (24 + random() % 30)));
      }
      for (const auto& each : all) {
        if (each->armed()) earliest = std::min(earliest, each->deadline);
      }
      REQUIRE(time.wheel.next().has_value());
      CHECK(*time.wheel.next() <= earliest + timer_wheel::tick);
      time.run_until(time.now + std::chrono::nanoseconds(random() % 1'000'000'000));
    }
  }
}
