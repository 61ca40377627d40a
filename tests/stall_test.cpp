// SPDX-License-Identifier: Apache-2.0
#include "hawser/stats.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hawser/run.hpp"
#include "hawser/scope.hpp"
#include "hawser/this_task.hpp"
#include "support/pool.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::priority;
using hawser::task;
using hawser::detail::worker;
using test::make_runtime;
using test::wait_until;

struct reported {
  unsigned worker = 0;
  std::chrono::nanoseconds held{};
  std::string place;
};

// What the stall hook was told.
class witness {
 public:
  [[nodiscard]] auto hook() {
    return [this](const hawser::stall_event& event) {
      const std::lock_guard guard(mutex_);
      events_.push_back({event.worker, event.held, std::string(event.place)});
      ++count;
    };
  }
  [[nodiscard]] std::vector<reported> events() {
    const std::lock_guard guard(mutex_);
    return events_;
  }
  std::atomic<unsigned> count{0};

 private:
  std::mutex mutex_;
  std::vector<reported> events_;
};

task<unsigned> hold_until_reported(witness& reports) {
  co_await hawser::this_task::yield();
  const unsigned here = worker::current()->index();
  wait_until([&] { return reports.count != 0; });
  co_return here;
}

task<void> tick(std::atomic<unsigned>& ticks, unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    co_await hawser::this_task::yield();
    ++ticks;
  }
}

}  // namespace

TEST_SUITE("stall") {
  TEST_CASE("a task that holds its worker is reported while it does, with its place") {
    const test::watchdog dog(60s);
    witness reports;
    test::log_book book;
    auto config = test::config(2);
    config.stall_threshold = 2ms;
    config.hooks.stall = reports.hook();
    config.log = book.sink();
    const auto runtime = make_runtime(config);
    if (!runtime) return;

    const unsigned held = hawser::sync_wait(*runtime, hold_until_reported(reports));

    const auto events = reports.events();
    const auto found = std::find_if(events.begin(), events.end(),
                                    [&](const reported& each) { return each.worker == held; });
    REQUIRE(found != events.end());
    CHECK(found->held >= 2ms);
    // A name where the executable exports it, otherwise a file and an offset.
    const bool named = found->place.find("hold_until_reported") != std::string::npos;
    const bool located = found->place.find("hawser_tests") != std::string::npos;
    CHECK_MESSAGE((named || located), found->place);
    const auto entries = book.entries();
    CHECK(std::any_of(entries.begin(), entries.end(), [&](const auto& each) {
      return each.area == "stall" && each.level == hawser::log_level::warning &&
             each.text.find("worker " + std::to_string(held)) == 0;
    }));
    wait_until([&] { return runtime->stats().workers[held].stalls >= 1; });
    wait_until([&] { return runtime->stats().workers[held].longest_gap_ns >= 2'000'000; });
  }

  TEST_CASE("what is posted before the first turn is watched as well") {
    const test::watchdog dog(60s);
    for (unsigned round = 0; round < 20; ++round) {
      witness reports;
      auto config = test::config(1);
      config.stall_threshold = 1ms;
      config.hooks.stall = reports.hook();
      const auto runtime = make_runtime(config);
      if (!runtime) return;
      std::promise<void> done;
      runtime->post([&] {
        wait_until([&] { return reports.count != 0; });
        done.set_value();
      });
      done.get_future().wait();
    }
  }

  TEST_CASE("while one worker is held the other goes on") {
    const test::watchdog dog(60s);
    witness reports;
    auto config = test::config(2);
    config.stall_threshold = 5ms;
    config.hooks.stall = reports.hook();
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    std::atomic<unsigned> ticks{0};
    const test::holder held(runtime->core().worker(0));
    wait_until([&] { return reports.count != 0; });

    // Entries take turns: one of two begins at the held worker, and only its start waits.
    test::run_on(runtime->core().worker(1), [] {});
    const auto body = [&](hawser::scope& inside) -> task<void> {
      inside.spawn(tick(ticks, 100));
      inside.spawn(tick(ticks, 100));
      co_return;
    };
    static_cast<void>(runtime->core().next_entry());
    hawser::run(*runtime, body);

    CHECK(ticks == 200);
  }

  // Goal: a worker that looks for work is not held by anybody. Method: each spin is ten times the
  // threshold.
  TEST_CASE("a worker that spins is not reported") {
    const test::watchdog dog(60s);
    witness reports;
    auto config = test::config(2);
    config.stall_threshold = 1ms;
    config.spin = {hawser::spin_policy::mode::fixed, 10ms};
    config.hooks.stall = reports.hook();
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    auto& core = runtime->core();

    std::atomic<unsigned> ran{0};
    for (unsigned i = 0; i < 20; ++i) {
      const auto spins = core.stats().workers[1].spins;
      test::run_on(core.worker(1), [&] { ++ran; });
      wait_until([&] {
        const auto now = core.stats().workers[1];
        return now.spins > spins || now.parks > 0;
      });
    }

    // Being preempted while an item runs looks the same as a stall: on a busy machine one of them
    // may be, but not all.
    CHECK(reports.count < 10);
  }

  TEST_CASE("hooks are called once for each worker, on its thread") {
    const test::watchdog dog(60s);
    std::mutex mutex;
    std::map<unsigned, std::thread::id> started, stopped;
    unsigned calls = 0;
    auto config = test::config(3);
    config.hooks.thread_start = [&](unsigned index) {
      const std::lock_guard guard(mutex);
      started[index] = std::this_thread::get_id();
      ++calls;
    };
    config.hooks.thread_stop = [&](unsigned index) {
      const std::lock_guard guard(mutex);
      stopped[index] = std::this_thread::get_id();
      ++calls;
    };
    auto runtime = make_runtime(config);
    if (!runtime) return;
    std::vector<std::thread::id> threads(3);
    for (unsigned i = 0; i < 3; ++i) {
      test::run_on(runtime->core().worker(i), [&] { threads[i] = std::this_thread::get_id(); });
    }
    {
      const std::lock_guard guard(mutex);
      CHECK(started.size() == 3);
      CHECK(stopped.empty());
    }
    runtime.reset();

    CHECK(calls == 6);
    for (unsigned i = 0; i < 3; ++i) {
      CHECK(started[i] == threads[i]);
      CHECK(stopped[i] == threads[i]);
    }
  }

  TEST_CASE("executed adds up, also with stealing") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(3));
    if (!runtime) return;
    std::atomic<unsigned> ran{0};
    constexpr unsigned count = 5000;
    for (unsigned i = 0; i < count; ++i) {
      runtime->post([&] { ++ran; }, static_cast<priority>(i % hawser::priority_count));
    }
    wait_until([&] {
      const auto stats = runtime->stats();
      std::uint64_t all = 0;
      for (const auto& each : stats.workers) all += each.executed;
      return ran == count && all == count;
    });

    const auto stats = runtime->stats();
    for (std::size_t at = 0; at < hawser::priority_count; ++at) {
      std::uint64_t executed = 0;
      for (const auto& each : stats.workers) executed += each.priorities[at].executed;
      CHECK(executed == count / hawser::priority_count);
    }
    for (const auto& each : stats.workers) {
      std::uint64_t sum = 0;
      for (const auto& one : each.priorities) sum += one.executed;
      CHECK(sum == each.executed);
      CHECK(each.spins_paid <= each.spins);
    }
  }

  TEST_CASE("what waits is counted: bound, spawned, injected") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(1));
    if (!runtime) return;
    auto& only = runtime->core().worker(0);
    const auto at = static_cast<std::size_t>(priority::stream);
    std::atomic<unsigned> ran{0};
    std::promise<void> seen;
    std::promise<void> queued;

    test::post_to(only, [&, go = seen.get_future().share()] {
      for (unsigned i = 0; i < 700; ++i) test::post_to(only, [&] { ++ran; }, priority::stream);
      for (unsigned i = 0; i < 50; ++i) test::spawn_on(only, [&] { ++ran; }, priority::stream);
      queued.set_value();
      go.wait();
    });
    queued.get_future().wait();
    for (unsigned i = 0; i < 30; ++i) runtime->post([&] { ++ran; }, priority::stream);
    const auto stats = runtime->stats();
    seen.set_value();

    CHECK(stats.workers[0].priorities[at].queued == 750);
    CHECK(stats.waiting[at] == 30);
    wait_until([&] { return ran == 780; });
    wait_until([&] { return runtime->stats().workers[0].priorities[at].queued == 0; });
    CHECK(runtime->stats().waiting[at] == 0);
  }

  TEST_CASE("waits are measured, of items that run at once and of those that wait long") {
    const test::watchdog dog(60s);
    auto config = test::config(1);
    config.stats_sample = 1;
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    auto& only = runtime->core().worker(0);
    constexpr auto rpc = static_cast<std::size_t>(priority::rpc);
    constexpr auto bulk = static_cast<std::size_t>(priority::bulk);

    for (unsigned i = 0; i < 100; ++i) test::run_on(only, [] {});
    const auto of = [&](std::size_t at) {
      return runtime->stats().workers[0].priorities[at].queue_wait.total();
    };
    CHECK(of(rpc) >= 99);

    // One bulk item behind a burst of others, and more bulk behind it: it is the one that counts.
    const auto before = of(bulk);
    test::run_on(only, [&] {
      for (unsigned i = 0; i < 30; ++i) test::post_to(only, [] {}, priority::bulk);
    });
    std::promise<void> done;
    test::post_to(only, [&] { done.set_value(); }, priority::bulk);
    done.get_future().wait();
    test::run_on(only, [] {});
    CHECK(of(bulk) >= before + 1);
  }
}
