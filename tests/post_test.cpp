// SPDX-License-Identifier: Apache-2.0
#include "hawser/posted.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hawser/runtime.hpp"
#include "support/pool.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::priority;
using hawser::detail::worker;
using test::holder;
using test::make_runtime;
using test::wait_until;

// Counts how many of its kind exist.
class counted {
 public:
  explicit counted(std::atomic<int>& alive) : alive_(&alive) { ++*alive_; }
  counted(const counted& other) : alive_(other.alive_) { ++*alive_; }
  ~counted() { --*alive_; }

 private:
  std::atomic<int>* alive_;
};

// Tasks of one priority that run at the same time, and the most that ever did.
struct crowd {
  std::atomic<unsigned> now{0}, most{0}, ran{0};

  void pass() {
    const unsigned mine = ++now;
    unsigned seen = most;
    while (seen < mine && !most.compare_exchange_weak(seen, mine)) {
    }
    for (unsigned i = 0; i < 200; ++i) std::this_thread::yield();
    --now;
    ++ran;
  }
};

}  // namespace

TEST_SUITE("post") {
  TEST_CASE("what one thread posts runs in order within a priority on one worker") {
    const test::watchdog dog(120s);
    const auto runtime = make_runtime(test::config(1));
    if (!runtime) return;
    constexpr unsigned producers = 3, posts = 5000;
    std::array<std::array<std::vector<unsigned>, hawser::priority_count>, producers> order;
    std::atomic<unsigned> ran{0};

    std::vector<std::thread> threads;
    for (unsigned p = 0; p < producers; ++p) {
      threads.emplace_back([&, p] {
        for (unsigned i = 0; i < posts; ++i) {
          const auto at = i % hawser::priority_count;
          runtime->post(
              [&, p, i, at] {
                order[p][at].push_back(i);
                ++ran;
              },
              static_cast<priority>(at));
        }
      });
    }
    for (auto& each : threads) each.join();
    wait_until([&] { return ran == producers * posts; });

    for (const auto& of : order) {
      for (const auto& one : of) CHECK(std::is_sorted(one.begin(), one.end()));
    }
    CHECK(runtime->stats().injected == producers * posts);
    const auto stats = runtime->stats();
    for (const auto waiting : stats.waiting) CHECK(waiting == 0);
  }

  TEST_CASE("what a posted function throws is counted and logged") {
    const test::watchdog dog(60s);
    auto config = test::config(1);
    test::log_book book;
    config.log = book.sink();
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    std::promise<void> done;

    runtime->post([] { throw std::runtime_error("posted and broken"); });
    runtime->post([&] { done.set_value(); });
    done.get_future().wait();

    CHECK(runtime->stats().failed_tasks == 1);
    const auto entries = book.entries();
    CHECK(std::any_of(entries.begin(), entries.end(),
                      [](const auto& each) { return each.text == "posted and broken"; }));
  }

  TEST_CASE("beyond queue_limit a post is refused, and its function destroyed") {
    const test::watchdog dog(60s);
    auto config = test::config(1);
    config.queue_limit = {8, 8, 8, 8};
    config.on_full = hawser::overflow::reject;
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    std::atomic<int> alive{0};
    std::atomic<unsigned> ran{0};
    unsigned refused = 0;
    {
      holder held(runtime->core().worker(0));
      const counted witness(alive);
      for (unsigned i = 0; i < 20; ++i) {
        try {
          runtime->post([&, witness] { ++ran; }, priority::stream);
        } catch (const std::system_error& error) {
          CHECK(error.code() == hawser::errc::limit_reached);
          CHECK(std::string(error.what()).find("8 of that priority") != std::string::npos);
          ++refused;
        }
      }
      CHECK(alive == 9);
      runtime->post([&] { ++ran; }, priority::bulk);  // each priority has its own limit
    }
    wait_until([&] { return ran == 9; });

    CHECK(refused == 12);
    CHECK(runtime->stats().rejected == 12);
    wait_until([&] { return alive == 0; });
    std::promise<void> done;
    runtime->post([&] { done.set_value(); }, priority::stream);
    done.get_future().wait();
  }

  TEST_CASE("at queue_limit producers wait, and go on when there is room") {
    const test::watchdog dog(60s);
    auto config = test::config(2);
    config.queue_limit = {4, 4, 4, 4};
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    std::atomic<unsigned> ran{0}, posted{0};
    constexpr unsigned producers = 3, posts = 3000;
    std::vector<std::thread> threads;
    {
      const holder first(runtime->core().worker(0));
      const holder second(runtime->core().worker(1));
      for (unsigned p = 0; p < producers; ++p) {
        threads.emplace_back([&] {
          for (unsigned i = 0; i < posts; ++i) {
            runtime->post([&] { ++ran; });
            ++posted;
          }
        });
      }
      // They may pass the limit by one each, because they look before they add.
      wait_until([&] { return posted >= 4; });
      CHECK(posted <= 4 + producers);
      CHECK(ran == 0);
    }
    for (auto& each : threads) each.join();
    wait_until([&] { return ran == producers * posts; });

    CHECK(runtime->stats().rejected == 0);
  }

  TEST_CASE("a worker that posts never waits, and is never refused") {
    const test::watchdog dog(60s);
    for (const auto on_full : {hawser::overflow::wait, hawser::overflow::reject}) {
      for (const unsigned threads : {1U, 2U}) {
        auto config = test::config(threads);
        config.queue_limit = {2, 2, 2, 2};
        config.on_full = on_full;
        const auto runtime = make_runtime(config);
        if (!runtime) return;
        std::atomic<unsigned> ran{0};

        test::run_on(runtime->core().worker(0), [&] {
          for (unsigned i = 0; i < 2000; ++i) runtime->post([&] { ++ran; });
        });
        wait_until([&] { return ran == 2000; });

        CHECK(runtime->stats().rejected == 0);
        CHECK(runtime->stats().injected == 0);
      }
    }
  }

  TEST_CASE("every posted function runs and is destroyed when the runtime ends") {
    const test::watchdog dog(120s);
    for (unsigned round = 0; round < 10; ++round) {
      std::atomic<int> alive{0};
      std::atomic<unsigned> ran{0};
      auto config = test::config(1 + round % 3);
      if (round % 2 == 1) config.max_workers = {0, 0, 0, 1};
      auto runtime = make_runtime(config);
      if (!runtime) return;
      {
        const counted witness(alive);
        for (unsigned i = 0; i < 3000; ++i) {
          runtime->post([&, witness] { ++ran; },
                        static_cast<priority>(i % hawser::priority_count));
        }
      }
      runtime.reset();

      CHECK(ran == 3000);
      CHECK(alive == 0);
    }
  }

  TEST_CASE("an urgent post overtakes what is queued for busy workers") {
    const test::watchdog dog(60s);
    for (const unsigned threads : {1U, 2U}) {
      // Before the runtime, because what is queued still runs while that ends.
      std::atomic<unsigned> bulk_begun{0}, before_urgent{~0U};
      std::atomic<bool> go{false};
      const auto runtime = make_runtime(test::config(threads));
      if (!runtime) return;
      constexpr unsigned bulk = 2000;

      for (unsigned i = 0; i < bulk; ++i) {
        runtime->post(
            [&] {
              ++bulk_begun;
              while (!go) std::this_thread::yield();
            },
            priority::bulk);
      }
      wait_until([&] { return bulk_begun == threads; });  // all are busy, the rest waits
      std::promise<void> urgent;
      runtime->post(
          [&] {
            before_urgent = bulk_begun.load();
            urgent.set_value();
          },
          priority::control);
      go = true;
      urgent.get_future().wait();

      // One worker has just ended a bulk item; the other may run on meanwhile.
      if (threads == 1) {
        CHECK(before_urgent <= 2);
      } else {
        CHECK(before_urgent < bulk);
      }
      wait_until([&] { return bulk_begun == bulk; });
    }
  }

  TEST_CASE("max_workers bounds how many of a priority run at the same time") {
    const test::watchdog dog(120s);
    for (const unsigned cap : {1U, 2U}) {
      CAPTURE(cap);
      auto config = test::config(4);
      config.max_workers = {0, 0, 0, cap};
      const auto runtime = make_runtime(config);
      if (!runtime) return;
      crowd bulk, rpc;
      constexpr unsigned count = 300;

      // From outside, and from workers.
      for (unsigned i = 0; i < count; ++i) {
        runtime->post([&] { bulk.pass(); }, priority::bulk);
        runtime->post([&] {
          rpc.pass();
          test::spawn_on(runtime->core().worker(0), [&] { bulk.pass(); }, priority::bulk);
        });
      }
      wait_until([&] { return bulk.ran == 2 * count && rpc.ran == count; });

      CHECK(bulk.most <= cap);
      CHECK(bulk.most >= 1);
    }
  }

  TEST_CASE("nobody is woken for work that the cap keeps from it") {
    const test::watchdog dog(60s);
    auto config = test::config(2);
    config.max_workers = {0, 0, 0, 1};
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    auto& core = runtime->core();
    const auto wakeups = [&] {
      std::uint64_t sent = 0;
      for (const auto& each : runtime->stats().workers) sent += each.wakeups_sent;
      return sent;
    };
    std::uint64_t before = 0;
    std::uint64_t after = 0;
    std::promise<void> done;
    std::atomic<bool> posted{false};  // and the wake-up for it counted
    unsigned left = 20;
    // Each piece finds the other worker asleep, and goes on as another of its kind.
    const std::function<void()> piece = [&] {
      wait_until([&] { return posted && core.sleepers().parked() == 1; });
      if (left == 20) before = wakeups();
      if (--left != 0) return runtime->post(piece, priority::bulk);
      after = wakeups();
      done.set_value();
    };
    runtime->post(piece, priority::bulk);
    posted = true;
    done.get_future().wait();

    CHECK(after == before);
  }

  TEST_CASE("a cap that is set or lowered while work waits holds for what waits") {
    const test::watchdog dog(120s);
    const auto runtime = make_runtime(test::config(4));
    if (!runtime) return;
    auto& core = runtime->core();
    const auto everybody_looks = [&] {
      for (unsigned i = 0; i < 4; ++i) test::run_on(core.worker(i), [] {});
    };
    crowd bulk;
    std::atomic<bool> over{false};
    std::atomic<unsigned> alive{0};
    const std::function<void()> endless = [&] {
      bulk.pass();
      if (over) {
        --alive;
      } else {
        test::spawn_on(core.worker(0), endless, priority::bulk);
      }
    };
    for (unsigned i = 0; i < 300; ++i) {
      ++alive;
      runtime->post(endless, priority::bulk);
    }

    for (const unsigned cap : {1U, 3U, 2U, 0U, 1U}) {
      CAPTURE(cap);
      hawser::runtime::adjustment change;
      change.max_workers = {0, 0, 0, cap};
      runtime->adjust(change);
      everybody_looks();
      everybody_looks();
      bulk.most = 0;
      const unsigned before = bulk.ran;
      wait_until([&] { return bulk.ran >= before + 200; });
      if (cap != 0) CHECK(bulk.most <= cap);
    }
    over = true;
    wait_until([&] { return alive == 0; });
  }

  TEST_CASE("a worker that is busy with other things does not keep a capped priority to itself") {
    const test::watchdog dog(60s);
    auto config = test::config(2);
    config.max_workers = {0, 0, 0, 1};
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    auto& core = runtime->core();
    for (unsigned busy = 0; busy < 2; ++busy) {
      std::promise<void> first;
      runtime->post([&] { first.set_value(); }, priority::bulk);
      first.get_future().wait();
      test::run_on(core.worker(0), [] {});
      test::run_on(core.worker(1), [] {});
      const holder held(core.worker(busy));
      std::promise<void> second;
      runtime->post([&] { second.set_value(); }, priority::bulk);
      second.get_future().wait();
    }
  }

  // Goal: shares follow new weights. Method: both priorities always wait; counts of a long run.
  TEST_CASE("weights that change while running change the shares") {
    const test::watchdog dog(60s);
    auto config = test::config(1);
    config.policy = hawser::dispatch_policy::weighted;
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    worker& only = runtime->core().worker(0);
    for (const unsigned ratio : {1U, 10U}) {
      hawser::runtime::adjustment change;
      change.weights = {100, 10 * ratio, 10, 10};
      runtime->adjust(change);
      test::run_on(only, [] {});
      std::vector<priority> order;
      test::run_on(only, [&] {
        for (unsigned i = 0; i < 2000; ++i) {
          for (const auto urgency : {priority::rpc, priority::stream}) {
            test::post_to(only, [&order, urgency] { order.push_back(urgency); }, urgency);
          }
        }
      });
      std::promise<void> done;
      test::post_to(only, [&] { done.set_value(); }, priority::stream);
      done.get_future().wait();

      const auto of_stream =
          std::count(order.begin(), order.begin() + 1100, priority::stream);
      const auto expected = 1100 / (ratio + 1);
      CHECK(of_stream >= expected - 5);
      CHECK(of_stream <= expected + 5);
    }
  }
}
