// SPDX-License-Identifier: Apache-2.0
#include "hawser/parallel.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "hawser/errc.hpp"
#include "hawser/hop.hpp"
#include "hawser/run.hpp"
#include "hawser/this_task.hpp"
#include "support/manual_executor.hpp"
#include "support/pool.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::task;

task<int> value(int given) {
  co_return given;
}

task<std::unique_ptr<int>> boxed(int given) {
  co_return std::make_unique<int>(given);
}

task<void> count_up(std::atomic<int>& counter) {
  ++counter;
  co_return;
}

task<int> broken(std::string what) {
  co_await hawser::this_task::yield();
  throw std::runtime_error(what);
}

task<void> note(std::vector<int>& order, int id) {
  order.push_back(id);
  co_await hawser::this_task::yield();
  order.push_back(-id);
}

task<unsigned> fib(unsigned n) {
  if (n < 2) co_return n;
  auto both = co_await hawser::parallel(fib(n - 1), fib(n - 2));
  co_return std::get<0>(both) + std::get<1>(both);
}

// Forks one task in each level and comes back only after the deepest: all forks are open at once.
task<unsigned> chain(unsigned depth) {
  if (depth == 0) co_return 1;
  auto both = co_await hawser::parallel(chain(depth - 1), value(1));
  co_return std::get<0>(both) + static_cast<unsigned>(std::get<1>(both));
}

task<int> hop_and_yield(hawser::detail::executor& where, int given) {
  co_await hawser::detail::hop_to(where);
  co_await hawser::this_task::yield();
  co_return given;
}

task<bool> stops() {
  const auto stop = co_await hawser::this_task::stop();
  co_return stop.stop_requested();
}

}  // namespace

TEST_SUITE("parallel") {
  TEST_CASE("values come in the order of the tasks, monostate for void, move-only too") {
    const test::watchdog dog(60s);
    std::atomic<int> counter{0};
    const auto body = [](std::atomic<int>& ran) -> task<std::string> {
      auto all = co_await hawser::parallel(value(1), count_up(ran), boxed(3));
      static_assert(std::is_same_v<decltype(all),
                                   std::tuple<int, std::monostate, std::unique_ptr<int>>>);
      co_return std::to_string(std::get<0>(all)) + std::to_string(*std::get<2>(all));
    };
    CHECK(test::run_task(body(counter)) == "13");
    CHECK(counter == 1);

    const auto runtime = test::make_runtime(test::config(2));
    if (!runtime) return;
    CHECK(hawser::sync_wait(*runtime, body(counter)) == "13");
    CHECK(counter == 2);
  }

  TEST_CASE("where nothing can be forked the tasks run one after another") {
    std::vector<int> order;
    const auto body = [](std::vector<int>& to) -> task<void> {
      co_await hawser::parallel(note(to, 1), note(to, 2), note(to, 3));
    };

    test::run_task(body(order));

    CHECK(order == std::vector<int>{1, -1, 2, -2, 3, -3});
  }

  TEST_CASE("all end; the first in order that failed is thrown") {
    const test::watchdog dog(60s);
    for (const unsigned threads : {0U, 1U, 3U}) {
      std::atomic<int> counter{0};
      const auto body = [](std::atomic<int>& ran) -> task<void> {
        co_await hawser::parallel(count_up(ran), broken("second"), broken("third"), count_up(ran));
      };
      std::string what;
      try {
        if (threads == 0) {
          test::run_task(body(counter));
        } else {
          const auto runtime = test::make_runtime(test::config(threads));
          if (!runtime) return;
          hawser::sync_wait(*runtime, body(counter));
        }
      } catch (const std::runtime_error& error) {
        what = error.what();
      }
      CHECK(what == "second");
      CHECK(counter == 2);
    }
  }

  TEST_CASE("all see the stop token") {
    test::manual_executor here;
    hawser::stop_source stop;
    const auto body = []() -> task<int> {
      auto seen = co_await hawser::parallel(stops(), stops(), stops());
      co_return std::get<0>(seen) + std::get<1>(seen) + std::get<2>(seen);
    };
    stop.request_stop();
    test::pending<int> root(here, body(), stop.token());
    here.run();
    REQUIRE(root.done());
    CHECK(root.get() == 3);
  }

  TEST_CASE("deep trees give exact results with any number of workers, stealing or not") {
    const test::watchdog dog(240s);
    for (const bool steal : {true, false}) {
      for (const unsigned threads : {1U, 2U, 4U}) {
        CAPTURE(threads);
        auto config = test::config(threads);
        config.steal = steal;
        const auto runtime = test::make_runtime(config);
        if (!runtime) return;
        for (unsigned round = 0; round < 3; ++round) {
          CHECK(hawser::sync_wait(*runtime, fib(20)) == 6765);
        }
      }
    }
  }

  TEST_CASE("more forks than a worker has room for are no fewer results") {
    const test::watchdog dog(120s);
    for (const unsigned threads : {1U, 2U, 3U}) {
      const auto runtime = test::make_runtime(test::config(threads));
      if (!runtime) return;
      for (unsigned round = 0; round < 5; ++round) {
        CHECK(hawser::sync_wait(*runtime, chain(600)) == 601);
      }
    }
  }

  // Goal: tasks that found no room as forks begin wherever the one before them ended.
  TEST_CASE("tasks that move to another worker lose none of those that come after") {
    const test::watchdog dog(120s);
    for (const bool steal : {true, false}) {
      auto config = test::config(2);
      config.steal = steal;
      const auto runtime = test::make_runtime(config);
      if (!runtime) return;
      const auto body = [](hawser::runtime& where) -> task<int> {
        auto& core = where.core();
        int sum = 0;
        for (unsigned i = 0; i < 200; ++i) {
          auto all = co_await hawser::parallel(hop_and_yield(core.worker(i % 2), 1),
                                               hop_and_yield(core.worker((i + 1) % 2), 10),
                                               hop_and_yield(core.worker(i % 2), 100));
          sum += std::get<0>(all) + std::get<1>(all) + std::get<2>(all);
        }
        co_return sum;
      };

      CHECK(hawser::sync_wait(*runtime, body(*runtime)) == 200 * 111);
    }
  }
}
