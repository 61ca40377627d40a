// SPDX-License-Identifier: Apache-2.0
#include "hawser/run.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "hawser/offload.hpp"
#include "hawser/this_task.hpp"
#include "hawser/timeout.hpp"
#include "hawser/when.hpp"
#include "support/config.hpp"
#include "support/watchdog.hpp"

namespace {

using hawser::scope;
using hawser::task;
using namespace std::chrono_literals;

task<int> value_of(int value) {
  co_return value;
}

task<void> fail() {
  throw std::runtime_error("broken");
  co_return;
}

task<void> count_after(std::atomic<int>& count, std::chrono::milliseconds length) {
  co_await hawser::this_task::sleep_for(length);
  ++count;
}

task<int> spawn_ten(scope& inside, std::atomic<int>& count) {
  for (int i = 0; i < 10; ++i) inside.spawn(count_after(count, std::chrono::milliseconds(i)));
  co_return 3;
}

task<void> spawn_failure(scope& inside) {
  inside.spawn(fail());
  co_await hawser::this_task::sleep_for(1h);
}

task<void> serve_failure(scope& inside) {
  inside.serve(fail());
  co_return;
}

task<int> use_everything() {
  const auto slow = co_await hawser::offload([] { return 5; });
  auto all = co_await hawser::when_all(value_of(1), hawser::offload([] { return 2; }));
  const auto any = co_await hawser::when_any(hawser::this_task::sleep_for(1ms),
                                             hawser::this_task::sleep_for(1h));
  const int in_time = co_await hawser::timeout(1h, value_of(10));
  co_return slow + std::get<0>(all) + std::get<1>(all) + static_cast<int>(any.index) + in_time;
}

task<void> sleep_long() {
  co_await hawser::this_task::sleep_for(1h);
}

task<void> too_late() {
  co_await hawser::timeout(5ms, sleep_long());
}

}  // namespace

TEST_SUITE("run") {
  TEST_CASE("sync_wait yields the value of a task or throws its failure") {
    test::watchdog dog(60s);
    hawser::runtime runtime(test::config(2));

    CHECK(hawser::sync_wait(runtime, value_of(3)) == 3);
    CHECK_THROWS_WITH_AS(hawser::sync_wait(runtime, fail()), "broken", std::runtime_error);
  }

  TEST_CASE("run waits for everything that was started in its scope") {
    test::watchdog dog(60s);
    hawser::runtime runtime(test::config(2));
    std::atomic<int> count{0};

    CHECK(hawser::run(runtime, spawn_ten, std::ref(count)) == 3);

    CHECK(count == 10);
    CHECK(hawser::run(runtime, value_of, 4) == 4);
  }

  TEST_CASE("run throws the failure of a child that was spawned, not of one that is served") {
    test::watchdog dog(60s);
    hawser::runtime runtime(test::config(2));

    CHECK_THROWS_WITH_AS(hawser::run(runtime, spawn_failure), "broken", std::runtime_error);
    CHECK_NOTHROW(hawser::run(runtime, serve_failure));
    CHECK(runtime.stats().failed_tasks == 1);
  }

  TEST_CASE("timers, the blocking pool and races work on workers") {
    test::watchdog dog(60s);
    hawser::runtime runtime(test::config(2));

    CHECK(hawser::run(runtime, use_everything) == 18);
    CHECK_THROWS_AS(hawser::run(runtime, too_late), std::system_error);
  }

  TEST_CASE("request_stop of the runtime ends run") {
    test::watchdog dog(60s);
    hawser::runtime runtime(test::config(2));
    std::thread stopper([&] { runtime.request_stop(); });

    CHECK_THROWS_AS(hawser::run(runtime, sleep_long), std::system_error);
    stopper.join();
  }
}
