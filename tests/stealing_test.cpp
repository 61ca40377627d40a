// SPDX-License-Identifier: Apache-2.0
#include "hawser/runtime.hpp"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <future>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "hawser/as_result.hpp"
#include "hawser/errc.hpp"
#include "hawser/hop.hpp"
#include "hawser/offload.hpp"
#include "hawser/parallel.hpp"
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
using test::holder;
using test::make_runtime;
using test::wait_until;

constexpr unsigned slots_most = 4096;

// A tree of jobs, each of which says that it ran and queues its children one way or another.
struct tree {
  explicit tree(hawser::runtime& where) : core(where.core()), runtime(where) {}

  void grow(std::uint64_t seed, unsigned depth) {
    const unsigned id = next.fetch_add(1);
    if (id >= slots_most) return;
    made.fetch_add(1);
    const auto body = [this, seed, depth, id] {
      if (&worker::current()->runtime() != &core) ++wrong;
      ++ran[id];
      std::mt19937_64 random(seed);
      const auto children = depth == 0 ? 0 : random() % 4;
      for (unsigned i = 0; i < children; ++i) grow(random(), depth - 1);
      done.fetch_add(1);
    };
    std::mt19937_64 random(seed ^ 0x5DEECE66D);
    const auto urgency = static_cast<priority>(random() % hawser::priority_count);
    worker& some = core.worker(static_cast<unsigned>(random() % core.size()));
    switch (random() % 4) {
      case 0:
        return runtime.post(body, urgency);
      case 1:
        return test::post_to(some, body, urgency);
      case 2:
        return some.wake(test::make_job(body), urgency);
      default:
        return test::spawn_on(some, body, urgency);
    }
  }

  hawser::detail::runtime_core& core;
  hawser::runtime& runtime;
  std::atomic<unsigned> next{0}, made{0}, done{0}, wrong{0};
  std::array<std::atomic<unsigned>, slots_most> ran{};
};

void check_tree(const tree& grown) {
  CHECK(grown.made == grown.done);
  CHECK(grown.wrong == 0);
  for (unsigned i = 0; i < grown.made; ++i) {
    if (grown.ran[i] != 1) FAIL("job ", i, " ran ", grown.ran[i].load(), " times");
  }
}

task<void> note_worker(std::atomic<worker*>& seen) {
  seen = worker::current();
  co_return;
}

}  // namespace

TEST_SUITE("stealing") {
  TEST_CASE("trees of work run each item exactly once, with any number of workers") {
    const test::watchdog dog(120s);
    for (unsigned round = 0; round < 12; ++round) {
      const unsigned threads = 2 + round % 3;
      CAPTURE(round);
      auto config = test::config(threads);
      config.steal = round % 4 != 3;
      const auto runtime = make_runtime(config);
      if (!runtime) return;
      tree grown(*runtime);

      for (unsigned i = 0; i < 40; ++i) grown.grow(test::seed() + round * 1000 + i, 6);
      wait_until([&] { return grown.made == grown.done; });

      check_tree(grown);
    }
  }

  TEST_CASE("the end of the runtime runs what is queued, from wherever it came") {
    const test::watchdog dog(120s);
    for (unsigned round = 0; round < 20; ++round) {
      CAPTURE(round);
      auto config = test::config(1 + round % 4);
      config.steal = round % 5 != 4;
      if (round % 3 == 2) config.max_workers = {0, 0, 0, 1};
      auto runtime = make_runtime(config);
      if (!runtime) return;
      tree grown(*runtime);

      for (unsigned i = 0; i < 30; ++i) grown.grow(test::seed() + round * 1000 + i, 7);
      runtime.reset();

      check_tree(grown);
    }
  }

  // Goal: no worker ends while another can still post to it. Method: chains that go from worker to
  // worker, each link of which queues the next.
  TEST_CASE("chains of posts between workers run to their end when the runtime ends") {
    const test::watchdog dog(120s);
    for (unsigned round = 0; round < 20; ++round) {
      auto runtime = make_runtime(test::config(3));
      if (!runtime) return;
      auto& core = runtime->core();
      std::atomic<unsigned> ran{0};
      struct chain {
        hawser::detail::runtime_core& core;
        std::atomic<unsigned>& ran;
        unsigned left;
        void operator()() {
          ++ran;
          if (left == 0) return;
          test::post_to(core.worker(left % 3), chain{core, ran, left - 1});
        }
      };

      for (unsigned i = 0; i < 3; ++i) test::post_to(core.worker(i), chain{core, ran, 300});
      runtime.reset();

      CHECK(ran == 3 * 301);
    }
  }

  TEST_CASE("what a worker has spawned is run by others while a task holds it") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(2));
    if (!runtime) return;
    auto& core = runtime->core();
    for (const unsigned count : {1U, 10U, 3000U}) {
      CAPTURE(count);
      std::atomic<unsigned> ran{0}, here{0};
      std::promise<void> all_ran;
      std::promise<void> over;

      test::post_to(core.worker(0), [&] {
        for (unsigned i = 0; i < count; ++i) {
          test::spawn_on(core.worker(0), [&] {
            if (worker::current() == &core.worker(0)) ++here;
            if (++ran == count) all_ran.set_value();
          });
        }
        all_ran.get_future().wait();
        over.set_value();
      });
      over.get_future().wait();

      CHECK(ran == count);
      CHECK(here == 0);
    }
    test::run_on(core.worker(1), [] {});
    std::uint64_t stolen = 0;
    wait_until([&] {
      stolen = 0;
      const auto stats = runtime->stats();
      for (const auto& each : stats.workers[1].priorities) stolen += each.stolen;
      return stolen > 0;
    });
    CHECK(stolen > 0);
  }

  TEST_CASE("posts that a worker has taken over are run by others while a task holds it") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(2));
    if (!runtime) return;
    std::atomic<unsigned> ran{0};
    constexpr unsigned count = 2000;
    std::promise<void> all_ran;
    const auto done = all_ran.get_future().share();
    std::atomic<bool> held{false};

    // The first to run waits for all others, wherever these have come to lie by then.
    for (unsigned i = 0; i < count; ++i) {
      runtime->post([&, done] {
        const bool first = !held.exchange(true);
        if (++ran == count) all_ran.set_value();
        if (first) done.wait();
      });
    }
    done.wait();

    CHECK(ran == count);
  }

  TEST_CASE("without stealing what is spawned stays on its worker") {
    const test::watchdog dog(60s);
    auto config = test::config(3);
    config.steal = false;
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    auto& core = runtime->core();
    std::atomic<unsigned> ran{0}, elsewhere{0};

    {
      const holder other(core.worker(1));
      test::run_on(core.worker(0), [&] {
        for (unsigned i = 0; i < 1000; ++i) {
          test::spawn_on(core.worker(2), [&] {
            if (worker::current() != &core.worker(0)) ++elsewhere;
            ++ran;
          });
        }
      });
      wait_until([&] { return ran == 1000; });
    }

    CHECK(elsewhere == 0);
    const auto stats = runtime->stats();
    for (const auto& each : stats.workers) {
      for (const auto& one : each.priorities) CHECK(one.stolen == 0);
    }
  }

  // Goal: work bound to a worker waits for it. Method: it is held, and released only after the
  // other has had every occasion to take something.
  TEST_CASE("what is posted to a worker waits for that worker, whoever is idle") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(2));
    if (!runtime) return;
    auto& core = runtime->core();
    std::atomic<unsigned> ran{0}, elsewhere{0};
    {
      holder first(core.worker(0));
      for (unsigned i = 0; i < 500; ++i) {
        test::post_to(core.worker(0), [&] {
          if (worker::current() != &core.worker(0)) ++elsewhere;
          ++ran;
        });
      }
      for (unsigned i = 0; i < 100; ++i) test::run_on(core.worker(1), [] {});
      CHECK(ran == 0);
    }
    test::run_on(core.worker(0), [] {});

    CHECK(ran == 500);
    CHECK(elsewhere == 0);
  }

  TEST_CASE("what a stuck worker meant to run next is taken by one that looks for work") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(2));
    if (!runtime) return;
    auto& core = runtime->core();
    std::promise<void> taken;
    std::atomic<bool> queued{false};
    std::atomic<worker*> by{nullptr};

    std::promise<void> over;
    test::post_to(core.worker(0), [&] {
      core.worker(0).wake(test::make_job([&] {
        by = worker::current();
        taken.set_value();
      }),
                          priority::rpc);
      queued = true;
      taken.get_future().wait();
      over.set_value();
    });
    wait_until([&] { return queued.load(); });
    // Whatever lets the other worker run makes it look around afterwards.
    auto ended = over.get_future();
    while (ended.wait_for(0s) != std::future_status::ready) test::run_on(core.worker(1), [] {});

    CHECK(by == &core.worker(1));
  }

  TEST_CASE("what is displaced from the place of the next is visible to idle workers") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(2));
    if (!runtime) return;
    auto& core = runtime->core();
    std::promise<void> first;
    std::promise<void> over;

    test::post_to(core.worker(0), [&] {
      core.worker(0).wake(test::make_job([&] { first.set_value(); }), priority::rpc);
      core.worker(0).wake(test::make_job([] {}), priority::rpc);
      first.get_future().wait();
      over.set_value();
    });
    over.get_future().wait();
  }

  TEST_CASE("two runtimes in one process run their own work, whoever posts it") {
    const test::watchdog dog(120s);
    const auto left = make_runtime(test::config(2));
    if (!left) return;
    const auto right = make_runtime(test::config(2));
    std::atomic<unsigned> wrong{0}, ran{0};
    constexpr unsigned count = 1000;
    const auto cross = [&](hawser::runtime& from, hawser::runtime& to) {
      auto* const other = &to;
      for (unsigned i = 0; i < count; ++i) {
        from.post([&, other, i] {
          const auto check = [&, other] {
            if (&worker::current()->runtime() != &other->core()) ++wrong;
            ++ran;
          };
          worker& target = other->core().worker(i % 2);
          if (i % 3 == 0) {
            other->post(check);
          } else if (i % 3 == 1) {
            test::spawn_on(target, check);
          } else {
            target.wake(test::make_job(check), priority::stream);
          }
        });
      }
    };

    cross(*left, *right);
    cross(*right, *left);
    wait_until([&] { return ran == 2 * count; });

    CHECK(wrong == 0);
  }

  TEST_CASE("a child may begin on any worker, and its scope ends when it has") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(2));
    if (!runtime) return;
    std::atomic<worker*> by{nullptr};
    worker* home = nullptr;
    const auto body = [&](hawser::scope& inside) -> task<void> {
      home = worker::current();
      inside.spawn(note_worker(by));
      wait_until([&] { return by != nullptr; });
      co_return;
    };

    hawser::run(*runtime, body);

    CHECK(home != nullptr);
    CHECK(by.load() != home);
  }

  // Goal: cancellation at any moment of work that is being stolen, resumed, offloaded or awaited.
  TEST_CASE("stop from any thread at any moment ends everything exactly once") {
    const test::watchdog dog(240s);
    std::mt19937_64 random(test::seed());
    for (unsigned round = 0; round < 30; ++round) {
      CAPTURE(round);
      auto config = test::config(2 + round % 3);
      config.blocking_threads = 2;
      const auto runtime = make_runtime(config);
      if (!runtime) return;
      std::atomic<unsigned> begun{0}, ended{0};
      struct busy {
        static task<void> some(std::atomic<unsigned>& begun, std::atomic<unsigned>& ended,
                               hawser::runtime& where, unsigned kind) {
          ++begun;
          std::exception_ptr failure;
          try {
            for (;;) {
              switch (kind++ % 5) {
                case 0:
                  co_await hawser::this_task::sleep_for(std::chrono::microseconds(kind % 50));
                  break;
                case 1:
                  co_await hawser::detail::hop_to(where.core().worker(kind % where.threads()));
                  break;
                case 2: {
                  auto nothing = [] {};
                  co_await hawser::offload(std::move(nothing));
                  break;
                }
                case 3:
                  co_await hawser::parallel(twice(), twice());
                  break;
                default:
                  co_await hawser::this_task::yield();
              }
            }
          } catch (...) {
            failure = std::current_exception();
          }
          ++ended;
          std::rethrow_exception(failure);
        }
        static task<void> twice() {
          co_await hawser::this_task::yield();
          co_await hawser::this_task::yield();
        }
      };
      const auto body = [&](hawser::scope& inside) -> task<void> {
        for (unsigned i = 0; i < 40; ++i) inside.spawn(busy::some(begun, ended, *runtime, i));
        co_await hawser::this_task::yield();
        for (unsigned i = 0; i < 40; ++i) inside.spawn(busy::some(begun, ended, *runtime, i));
      };
      std::thread stopper([&, after = random() % 60] {
        wait_until([&] { return begun >= after; });
        runtime->request_stop();
      });

      std::error_code code;
      try {
        hawser::run(*runtime, body);
      } catch (const std::system_error& error) {
        code = error.code();
      }
      stopper.join();

      CHECK(code == hawser::errc::cancelled);
      CHECK(begun == ended);
    }
  }

  TEST_CASE("what comes from outside is not starved by work that makes more of itself") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(2));
    if (!runtime) return;
    auto& core = runtime->core();
    std::atomic<bool> stop{false};
    std::atomic<unsigned> alive{0};
    struct endless {
      hawser::detail::runtime_core& core;
      std::atomic<bool>& stop;
      std::atomic<unsigned>& alive;
      void operator()() {
        if (stop) {
          --alive;
          return;
        }
        test::spawn_on(core.worker(0), *this);
      }
    };

    for (const unsigned width : {4U, 700U}) {
      stop = false;
      for (unsigned i = 0; i < width; ++i) {
        ++alive;
        test::spawn_on(core.worker(0), endless{core, stop, alive});
      }
      for (unsigned i = 0; i < 20; ++i) {
        std::promise<void> ran;
        runtime->post([&] { ran.set_value(); });
        ran.get_future().wait();
      }
      stop = true;
      wait_until([&] { return alive == 0; });
    }
  }
}
