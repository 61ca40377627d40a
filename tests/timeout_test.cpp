// SPDX-License-Identifier: Apache-2.0
#include "hawser/timeout.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>

#include "hawser/as_result.hpp"
#include "support/event.hpp"
#include "support/manual_executor.hpp"
#include "support/watchdog.hpp"

namespace {

using hawser::errc;
using hawser::result;
using hawser::task;
using hawser::timeout;
using namespace std::chrono_literals;

task<int> value_of(int value) {
  co_return value;
}

task<int> fail() {
  throw std::runtime_error("broken");
  co_return 0;
}

task<void> nothing() {
  co_return;
}

task<int> within(hawser::clock::duration limit, test::event& on) {
  const int value = co_await timeout(limit, on.wait(7));
  co_return value;
}

task<int> nested(hawser::clock::duration outer, hawser::clock::duration inner, test::event& on) {
  const int value = co_await timeout(outer, timeout(inner, on.wait(7)));
  co_return value;
}

task<int> until(hawser::clock::time_point when, test::event& on) {
  const int value = co_await timeout(when, on.wait(7));
  co_return value;
}

task<result<int>> as_result_within(hawser::clock::duration limit, test::event& on) {
  auto got = co_await hawser::as_result(timeout(limit, on.wait(7)));
  co_return got;
}

task<int> give_up_late(test::event& on) {
  on.ignores_stop = true;
  const int value = co_await on.wait();
  hawser::failure(errc::cancelled).raise();
  co_return value;
}

task<int> late_within(hawser::clock::duration limit, test::event& on) {
  const int value = co_await timeout(limit, give_up_late(on));
  co_return value;
}

errc code_of(test::pending<int>& root) {
  try {
    static_cast<void>(root.get());
  } catch (const std::system_error& error) {
    return static_cast<errc>(error.code().value());
  }
  return errc();
}

// The wait is on another executor than the timer; both may be first.
task<void> race(hawser::detail::executor& timers, test::event& on, int& values, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    co_await hawser::detail::hop_to(timers);
    const auto got = co_await hawser::as_result(timeout(1ms, on.wait(7)));
    if (got) ++values;
  }
}

task<void> set_repeatedly(hawser::detail::executor& home, test::event& on, const bool& over) {
  co_await hawser::detail::hop_to(home);
  while (!over) {
    if (on.awaited()) on.set();
    co_await hawser::this_task::yield();
  }
}

// The other thread may have no core of its own, and yielding alone need not give it ours.
void give_way(unsigned tries) {
  if (tries % 64 == 0) std::this_thread::sleep_for(10us);  // sleeps: to let go of the core
}

}  // namespace

TEST_SUITE("timeout") {
  TEST_CASE("an operation that is in time gives its value, and the timer is disarmed") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<int> root(here, within(1s, gate));
    here.run();
    CHECK(here.armed() == 1);

    here.enter([&] { gate.set(); });
    here.run();

    CHECK(root.get() == 7);
    CHECK(here.armed() == 0);
  }

  TEST_CASE("a task of any kind can be limited") {
    CHECK(test::run_task(timeout(1s, value_of(3))) == 3);
    CHECK_NOTHROW(test::run_task(timeout(1s, nothing())));
    CHECK_THROWS_WITH_AS(test::run_task(timeout(1s, fail())), "broken", std::runtime_error);
    CHECK(test::run_task(timeout(hawser::clock::duration::max(), value_of(3))) == 3);
  }

  TEST_CASE("an operation that is late ends as timed out, with the limit in the text") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<int> root(here, within(1500ms, gate));

    here.advance(1499ms);
    CHECK_FALSE(root.done());
    here.advance(1ms);

    REQUIRE(root.done());
    CHECK_THROWS_WITH_AS(root.get(), "not done within 1500 ms: timed out", std::system_error);
    CHECK_FALSE(gate.awaited());
  }

  TEST_CASE("a limit of zero passes at once") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<int> root(here, within(-1s, gate));

    here.advance(0s);

    CHECK(code_of(root) == errc::timed_out);
  }

  TEST_CASE("an operation that completes in spite of the stop gives its value") {
    test::manual_executor here;
    test::event gate(here);
    gate.ignores_stop = true;
    test::pending<int> root(here, within(1s, gate));
    here.advance(2s);
    CHECK_FALSE(root.done());

    here.enter([&] { gate.set(); });
    here.run();

    CHECK(root.get() == 7);
  }

  TEST_CASE("a stop request from around cancels, and is no timeout") {
    test::manual_executor here;
    test::event gate(here);
    hawser::stop_source stop;
    test::pending<int> root(here, within(1s, gate), stop.token());
    here.run();

    stop.request_stop();
    here.run();

    CHECK(code_of(root) == errc::cancelled);
    CHECK(here.armed() == 0);
  }

  TEST_CASE("what came first, stop request or time, names the failure") {
    for (const bool stop_first : {true, false}) {
      test::manual_executor here;
      test::event gate(here);
      hawser::stop_source stop;
      test::pending<int> root(here, late_within(1s, gate), stop.token());
      here.run();

      if (stop_first) stop.request_stop();
      here.advance(2s);
      stop.request_stop();
      here.enter([&] { gate.set(); });
      here.run();

      CHECK(code_of(root) == (stop_first ? errc::cancelled : errc::timed_out));
    }
  }

  TEST_CASE("of nested timeouts the earlier decides") {
    for (const auto& [outer, inner, text] :
         {std::tuple(1s, 2s, "not done within 1000 ms: timed out"),
          std::tuple(3s, 2s, "not done within 2000 ms: timed out")}) {
      test::manual_executor here;
      test::event gate(here);
      test::pending<int> root(here, nested(outer, inner, gate));

      here.advance(10s);

      REQUIRE(root.done());
      CHECK_THROWS_WITH_AS(root.get(), text, std::system_error);
    }
  }

  TEST_CASE("a deadline is a point in time") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<int> root(here, until(here.now() + 2s, gate));

    here.advance(1999ms);
    CHECK_FALSE(root.done());
    here.advance(1ms);

    CHECK(code_of(root) == errc::timed_out);
  }

  TEST_CASE("as_result of a timeout gives errc::timed_out") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<result<int>> root(here, as_result_within(1s, gate));

    here.advance(1s);

    CHECK(root.get().error().code() == errc::timed_out);
  }

  TEST_CASE("a task that the operation has moved stays there, and the timer is disarmed at home") {
    test::manual_executor here, there;
    test::event gate(there);
    test::pending<int> root(here, within(1s, gate));
    here.run();
    there.run();
    CHECK(here.armed() == 1);

    there.enter([&] { gate.set(); });
    there.run();
    CHECK_FALSE(root.done());
    here.run();
    CHECK(here.armed() == 0);
    CHECK_FALSE(root.done());
    there.run();

    CHECK(root.get() == 7);
  }

  // Goal: completion on one thread and expiry on another end the operation once. Method: one
  // thread moves its clock as fast as it can, the other sets the event whenever it is awaited.
  TEST_CASE("a timer and a completion race on two threads") {
    test::watchdog dog(100s);
    constexpr int rounds = 20'000;
    test::manual_executor timers, home;
    test::event gate(home);
    int values = 0;
    bool over = false;
    test::pending<void> root(timers, race(timers, gate, values, rounds));
    test::pending<void> setter(home, set_repeatedly(home, gate, over));
    std::atomic<bool> ended{false};
    std::thread other([&] {
      for (unsigned tries = 1; !ended; ++tries) {
        if (!home.run_one()) give_way(tries);
      }
      home.enter([&] { over = true; });
      home.run();
    });
    for (unsigned tries = 1; !root.done(); ++tries) {
      timers.advance(1ms);
      give_way(tries);
    }
    ended = true;
    other.join();

    CHECK_NOTHROW(root.get());
    CHECK_NOTHROW(setter.get());
    MESSAGE(values << " of " << rounds << " were in time");
  }
}
