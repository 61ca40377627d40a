// SPDX-License-Identifier: Apache-2.0
#include "hawser/group.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <optional>
#include <vector>

#include "hawser/run.hpp"
#include "hawser/scope.hpp"
#include "hawser/this_task.hpp"
#include "hawser/timeout.hpp"
#include "support/manual_executor.hpp"
#include "support/pool.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::priority;
using hawser::scope;
using hawser::task;
namespace this_task = hawser::this_task;
using seen = std::vector<priority>;

task<void> note(test::manual_executor& here, seen& order, unsigned times) {
  for (unsigned i = 0; i < times; ++i) {
    order.push_back(here.last_urgency());
    co_await this_task::yield();
  }
  order.push_back(here.last_urgency());
}

task<void> note_sleeping(test::manual_executor& here, seen& order) {
  co_await this_task::sleep_for(1ms);
  order.push_back(here.last_urgency());
}

// Its child is less urgent than itself, and it waits for it.
task<void> wait_for_bulk(test::manual_executor& here, seen& order) {
  const auto body = [&](scope& inside) -> task<void> {
    inside.spawn(note(here, order, 1), priority::bulk);
    co_return;
  };
  co_await hawser::with_scope(body);
}

void run_at(test::manual_executor& here, task<void> root, priority urgency) {
  test::pending<void> all(here, std::move(root), {}, urgency);
  do {
    here.run();
  } while (!all.done() && here.advance_to_next());
  REQUIRE(all.done());
  all.get();
}

// Says how many others ran while a child of low priority ran `steps` steps.
struct flood {
  hawser::detail::executor& here;
  std::atomic<bool>& stop;
  std::atomic<unsigned>& ran;
  void operator()() {
    ++ran;
    if (!stop) test::post_to(here, *this);
  }
};

task<void> steps(unsigned count) {
  for (unsigned i = 0; i < count; ++i) co_await this_task::yield();
}

}  // namespace

TEST_SUITE("urgency") {
  TEST_CASE("a child is as urgent as its parent from when the parent only waits for it") {
    test::manual_executor here;
    seen order;
    const auto body = [&](scope& inside) -> task<void> {
      inside.spawn(note(here, order, 3), priority::bulk);
      co_await this_task::yield();
      co_await this_task::yield();
    };

    run_at(here, hawser::with_scope(body), priority::rpc);

    // Its last yield() before was queued as bulk already.
    CHECK(order == seen{priority::bulk, priority::bulk, priority::bulk, priority::rpc});
  }

  TEST_CASE("a child that still waits to begin is raised where it is queued") {
    test::manual_executor here;
    seen order;
    const auto body = [&](scope& inside) -> task<void> {
      inside.spawn(note(here, order, 1), priority::bulk);
      inside.spawn(note_sleeping(here, order), priority::stream);
      co_return;
    };

    run_at(here, hawser::with_scope(body), priority::control);

    CHECK(order == seen{priority::control, priority::control, priority::control});
  }

  TEST_CASE("more urgent children and independent ones keep their priority") {
    test::manual_executor here;
    seen urgent, served;
    const auto body = [&](scope& inside) -> task<void> {
      inside.spawn(note(here, urgent, 1), priority::control);
      inside.serve(note(here, served, 1), priority::bulk);
      co_return;
    };

    run_at(here, hawser::with_scope(body), priority::rpc);

    CHECK(urgent == seen{priority::control, priority::control});
    CHECK(served == seen{priority::bulk, priority::bulk});
  }

  TEST_CASE("it goes on to children's children, and through what the parent awaits") {
    test::manual_executor here;
    seen order;
    const auto outer = [&](scope& inside) -> task<void> {
      inside.spawn(wait_for_bulk(here, order), priority::stream);
      co_return;
    };
    const auto timed = [&]() -> task<void> {
      co_await hawser::timeout(1s, hawser::with_scope(outer));
    };

    run_at(here, timed(), priority::control);

    CHECK(order == seen{priority::control, priority::control});
  }

  TEST_CASE("the function of a scope is no child: what it awaits is as urgent as the task") {
    test::manual_executor here;
    seen order;
    const auto inner = [&](scope&) -> task<void> { co_await note(here, order, 1); };
    const auto middle = [&]() -> task<void> { co_await hawser::with_scope(inner); };
    const auto outer = [&](scope& inside) -> task<void> {
      inside.spawn(middle(), priority::bulk);
      co_return;
    };

    run_at(here, hawser::with_scope(outer), priority::rpc);

    CHECK(order == seen{priority::rpc, priority::rpc});
  }

  // Goal: the parent is not kept waiting by a flood of its own priority. Method: what runs is
  // counted; without inheritance each of the steps waits for a share of bulk, longest_wait others.
  TEST_CASE("in a flood an urgent parent gets its child's work done at its own priority") {
    const test::watchdog dog(60s);
    for (const unsigned threads : {1U, 2U}) {
      auto config = test::config(threads);
      config.policy = hawser::dispatch_policy::weighted;
      config.weights = {1, 1000, 1, 1};
      std::atomic<bool> stop{false};
      std::atomic<unsigned> ran{0}, before{0}, after{0};
      const auto runtime = test::make_runtime(config);
      if (!runtime) return;
      const auto child = [&]() -> task<void> {
        co_await steps(50);
        after = ran.load();
      };
      const auto body = [&](scope& inside) -> task<void> {
        for (unsigned i = 0; i < threads; ++i) {
          auto& each = runtime->core().worker(i);
          test::post_to(each, flood{each, stop, ran});
        }
        before = ran.load();
        inside.spawn(child(), priority::bulk);
        co_return;
      };

      hawser::run(*runtime, body);
      stop = true;

      // One worker: each step takes turns with the flood. Bulk by itself would wait for 1000.
      if (threads == 1) CHECK(after - before < 50 * 10);
    }
  }

  TEST_CASE("should_yield says that something more urgent waits") {
    test::manual_executor here;
    std::vector<bool> said;
    CHECK_FALSE(this_task::should_yield());
    const auto body = [&]() -> task<void> {
      said.push_back(this_task::should_yield());
      test::post_to(here, [] {}, priority::rpc);
      said.push_back(this_task::should_yield());
      test::post_to(here, [] {}, priority::control);
      said.push_back(this_task::should_yield());
      co_await this_task::yield();
      co_await this_task::yield();
      said.push_back(this_task::should_yield());
    };

    run_at(here, body(), priority::rpc);

    CHECK(said == std::vector<bool>{false, false, true, false});
  }

  TEST_CASE("should_yield says that the turn has lasted long enough") {
    test::manual_executor here;
    std::vector<bool> said;
    const auto body = [&]() -> task<void> {
      here.spend(199us);
      said.push_back(this_task::should_yield());
      here.spend(1us);
      said.push_back(this_task::should_yield());
      co_await this_task::yield();
      said.push_back(this_task::should_yield());
    };

    run_at(here, body(), priority::rpc);

    CHECK(said == std::vector<bool>{false, true, false});
  }

  TEST_CASE("a loop that asks gives way on a worker: for urgent work, and in time") {
    const test::watchdog dog(60s);
    auto config = test::config(1);
    config.poll_interval = 100ms;
    std::atomic<bool> urgent_ran{false};
    const auto runtime = test::make_runtime(config);
    if (!runtime) return;
    auto& only = runtime->core().worker(0);
    const auto until_told = [&]() -> task<void> {
      while (!this_task::should_yield()) {
      }
      co_return;
    };
    hawser::sync_wait(*runtime, until_told());  // by the time alone

    const auto with_urgent = [&]() -> task<bool> {
      test::post_to(only, [&] { urgent_ran = true; }, priority::control);
      const bool told = this_task::should_yield();
      co_await this_task::yield();
      co_return told;
    };
    CHECK(hawser::sync_wait(*runtime, with_urgent()));
    CHECK(urgent_ran);
  }
}
