// SPDX-License-Identifier: Apache-2.0
#include "hawser/operation.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "hawser/as_result.hpp"
#include "hawser/this_task.hpp"
#include "support/environment.hpp"
#include "support/event.hpp"
#include "support/manual_executor.hpp"
#include "support/watchdog.hpp"

namespace {

using hawser::errc;
using hawser::result;
using hawser::task;
using namespace std::chrono_literals;

task<result<int>> wait(test::event& on) {
  auto got = co_await hawser::as_result(on.wait(1));
  co_return got;
}

// Finishes before it could be waited for: await_suspend without on_cancel() ever.
class finished_early final : public hawser::detail::operation {
 public:
  [[nodiscard]] bool await_ready() const noexcept { return false; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    begin(*hawser::detail::executor::current(), waiter, hawser::detail::context_of(waiter));
    finish();
    watch_stop();
  }
  [[nodiscard]] bool await_resume() const noexcept { return cancelled_; }

 private:
  void on_cancel() noexcept override { cancelled_ = true; }

  bool cancelled_ = false;
};

task<bool> finish_early() {
  finished_early now;
  const bool cancelled = co_await now;
  co_return cancelled;
}

}  // namespace

TEST_SUITE("operation") {
  TEST_CASE("a stop request at home ends the operation from the run queue") {
    test::manual_executor here;
    test::event gate(here);
    hawser::stop_source stop;
    test::pending<result<int>> root(here, wait(gate), stop.token());
    here.run();

    here.enter([&] { stop.request_stop(); });
    CHECK_FALSE(gate.awaited());
    CHECK_FALSE(root.done());
    here.run();

    CHECK(root.get().error().code() == errc::cancelled);
  }

  TEST_CASE("a stop request from elsewhere is posted home") {
    test::manual_executor here;
    test::event gate(here);
    hawser::stop_source stop;
    test::pending<result<int>> root(here, wait(gate), stop.token());
    here.run();

    stop.request_stop();
    CHECK(gate.awaited());
    here.run();

    CHECK(root.get().error().code() == errc::cancelled);
  }

  TEST_CASE("an operation that completes before the posted cancel arrives has its value") {
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      test::manual_executor here(seed);
      test::event gate(here);
      hawser::stop_source stop;
      test::pending<result<int>> root(here, wait(gate), stop.token());
      here.run();

      stop.request_stop();
      here.enter([&] { gate.set(); });
      here.run();

      CHECK(*root.get() == 1);
    }
  }

  TEST_CASE("an operation that may go on after the stop request completes later") {
    test::manual_executor here;
    test::event gate(here);
    gate.ignores_stop = true;
    hawser::stop_source stop;
    test::pending<result<int>> root(here, wait(gate), stop.token());
    here.run();
    stop.request_stop();
    here.run();
    CHECK_FALSE(root.done());

    here.enter([&] { gate.set(); });
    here.run();

    CHECK(*root.get() == 1);
  }

  TEST_CASE("an operation that begins after the stop request is cancelled") {
    test::manual_executor here;
    test::event gate(here);
    hawser::stop_source stop;
    stop.request_stop();
    test::pending<result<int>> root(here, wait(gate), stop.token());

    here.run();

    CHECK(root.get().error().code() == errc::cancelled);
  }

  TEST_CASE("an operation that travels completes on its home, and can be cancelled on the way") {
    for (const bool stopped : {false, true}) {
      test::manual_executor here, there;
      test::event gate(there);
      hawser::stop_source stop;
      test::pending<result<int>> root(here, wait(gate), stop.token());
      here.run();

      if (stopped) {
        stop.request_stop();
      } else {
        there.enter([&] { gate.set(); });
      }
      there.run();

      const auto got = root.get();
      CHECK(got.has_value() == !stopped);
    }
  }

  TEST_CASE("an operation that is finished before it watches is not cancelled any more") {
    test::manual_executor here;
    hawser::stop_source stop;
    test::pending<bool> root(here, finish_early(), stop.token());
    here.run_one();

    stop.request_stop();
    here.run();

    CHECK_FALSE(root.get());
  }

  // Goal: whatever the order of completion and stop request, the waiter is resumed exactly once,
  // with the value or with errc::cancelled. Method: 100 000 operations, completed on their own
  // thread and stopped from another at random; a second resumption is found by the sanitizers, a
  // lost one by the watchdog.
  TEST_CASE("completions race with stop requests") {
    test::watchdog dog(200s);
    constexpr int batches = 1'000;
    constexpr int batch = 100;
    struct one {
      explicit one(test::manual_executor& home)
          : gate(home), root(home, wait(gate), stop.token()) {}
      hawser::stop_source stop;
      test::event gate;
      test::pending<result<int>> root;
    };
    std::mt19937_64 random(test::seed());
    int values = 0, cancelled = 0;
    for (int i = 0; i < batches; ++i) {
      test::manual_executor home(random());
      std::vector<std::unique_ptr<one>> all;
      for (int k = 0; k < batch; ++k) all.push_back(std::make_unique<one>(home));
      home.run();
      std::atomic<bool> start{false};
      std::thread stopper([&] {
        while (!start) {
        }
        for (auto& each : all) each->stop.request_stop();
      });
      start = true;
      const auto skip = random() % 8;
      for (int k = batch - 1; k >= 0; --k) {
        if (random() % 8 < skip) {
          home.run_one();
          continue;
        }
        home.enter([&] { all[static_cast<std::size_t>(k)]->gate.set(); });
      }
      stopper.join();
      home.run();
      for (auto& each : all) {
        REQUIRE(each->root.done());
        const auto got = each->root.get();
        got ? ++values : ++cancelled;
      }
    }

    CHECK(values + cancelled == batches * batch);
    MESSAGE(values << " had a value, " << cancelled << " were cancelled");
  }
}
