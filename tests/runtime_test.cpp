// SPDX-License-Identifier: Apache-2.0
#include "hawser/runtime.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <future>
#include <iostream>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "exec/config.hpp"
#include "exec/runtime_core.hpp"
#include "hawser/errc.hpp"
#include "support/child.hpp"
#include "support/config.hpp"
#include "support/environment.hpp"
#include "support/pool.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::priority;
using hawser::detail::worker;
using test::make_runtime;
using test::post_to;
using test::run_on;

struct test_timer : hawser::detail::timer {
  test_timer() : timer([](timer& self) noexcept { static_cast<test_timer&>(self).action(); }) {}
  std::function<void()> action;
};

class part : public hawser::detail::component {
 public:
  explicit part(worker& home) : home_(home) {}
  void on_shutdown() noexcept override {
    CHECK(worker::current() == &home_);
    ++shutdowns;
    if (ends) home_.remove_component(*this);
  }
  void on_abandon() noexcept override {
    ++abandons;
    home_.remove_component(*this);
  }
  bool ends = true;
  int shutdowns = 0, abandons = 0;

 private:
  worker& home_;
};

std::string message_of_config(hawser::executor_config config) {
  try {
    const hawser::runtime runtime(std::move(config));
  } catch (const std::system_error& error) {
    CHECK(error.code() == hawser::errc::bad_config);
    return error.what();
  }
  return {};
}

}  // namespace

TEST_SUITE("runtime") {
  TEST_CASE("work runs on the worker it was posted to, from any thread") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(3));
    if (!runtime) return;
    auto& core = runtime->core();
    REQUIRE(runtime->threads() == 3);
    constexpr unsigned posts = 2000;
    std::array<std::atomic<unsigned>, 3> ran{};
    std::atomic<unsigned> wrong{0};

    std::vector<std::thread> posters;
    for (unsigned p = 0; p < 2; ++p) {
      posters.emplace_back([&] {
        for (unsigned i = 0; i < posts; ++i) {
          auto& where = core.worker(i % 3);
          post_to(where, [&] {
            if (worker::current() != &where || hawser::detail::executor::current() != &where) {
              ++wrong;
            }
            // and on to the next one
            post_to(core.worker((where.index() + 1) % 3),
                    [&, to = (where.index() + 1) % 3] { ran[to].fetch_add(1); });
          });
        }
      });
    }
    for (auto& each : posters) each.join();
    while (ran[0] + ran[1] + ran[2] < 2 * posts) std::this_thread::yield();

    CHECK(wrong == 0);
    const auto stats = runtime->stats();
    CHECK(stats.workers.size() == 3);
    CHECK(stats.workers[0].posts_received > 0);
    CHECK(worker::current() == nullptr);
  }

  TEST_CASE("posts of one thread to one worker run in order within a priority") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(1));
    if (!runtime) return;
    auto& only = runtime->core().worker(0);
    std::vector<unsigned> order;
    constexpr unsigned posts = 20'000;

    for (unsigned i = 0; i < posts; ++i) post_to(only, [&order, i] { order.push_back(i); });
    run_on(only, [] {});

    CHECK(order.size() == posts);
    CHECK(std::is_sorted(order.begin(), order.end()));
  }

  TEST_CASE("a burst of posts to a sleeping worker wakes it once") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(1));
    if (!runtime) return;
    auto& only = runtime->core().worker(0);
    run_on(only, [] {});
    std::atomic<unsigned> ran{0};

    std::promise<void> hold;
    auto held = hold.get_future();
    post_to(only, [&] { held.wait(); });  // it is awake from here on
    const auto before = runtime->stats().workers[0].wakeups_sent;
    for (unsigned i = 0; i < 1000; ++i) post_to(only, [&] { ++ran; });
    hold.set_value();
    run_on(only, [] {});

    CHECK(ran == 1000);
    CHECK(runtime->stats().workers[0].wakeups_sent <= before + 2);
  }

  // Goal: bounded starvation. Method: all queues are full before the first item runs, then each
  // item of bulk notes how many others ran before it.
  TEST_CASE("urgent work goes first, and the least urgent waits for a bounded number of others") {
    const test::watchdog dog(60s);
    auto config = test::config(1);
    config.policy = hawser::dispatch_policy::weighted;  // does not depend on how long they take
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    auto& only = runtime->core().worker(0);
    std::vector<priority> order;

    run_on(only, [&] {
      for (const auto urgency :
           {priority::bulk, priority::stream, priority::rpc, priority::control}) {
        for (unsigned i = 0; i < 1000; ++i) {
          post_to(
              only, [&order, urgency] { order.push_back(urgency); }, urgency);
        }
      }
    });
    std::promise<void> done;
    post_to(
        only, [&] { done.set_value(); }, priority::bulk);
    done.get_future().wait();

    REQUIRE(order.size() == 4000);
    CHECK(order.front() == priority::control);
    for (const auto urgency : {priority::rpc, priority::stream, priority::bulk}) {
      unsigned since = 0, longest = 0, left = 1000;
      for (const auto each : order) {
        since = each == urgency ? 0 : since + 1;
        left -= each == urgency;
        if (left > 0) longest = std::max(longest, since);
      }
      CHECK(longest <= hawser::longest_wait(runtime->core().config(), urgency).value());
    }
    const auto early = [&](priority urgency) {
      return std::count(order.begin(), order.begin() + 200, urgency);
    };
    CHECK(early(priority::control) > early(priority::rpc));
    CHECK(early(priority::rpc) > early(priority::stream));
    CHECK(early(priority::stream) > early(priority::bulk));
  }

  TEST_CASE("timers fire on their worker, in order, never early; a disarmed one does not") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(1));
    if (!runtime) return;
    auto& only = runtime->core().worker(0);
    std::vector<int> order;
    std::array<test_timer, 4> alarms;
    std::promise<void> done;
    int early = 0;

    run_on(only, [&] {
      const auto start = only.now();
      const std::array<int, 4> delays{30, 10, 20, 15};
      for (std::size_t i = 0; i < alarms.size(); ++i) {
        const int delay = delays[i];
        alarms[i].action = [&, delay, deadline = start + delay * 1ms] {
          if (only.now() < deadline) ++early;
          order.push_back(delay);
          if (delay == 30) done.set_value();
        };
        only.arm(alarms[i], start + delay * 1ms);
      }
      only.disarm(alarms[3]);
    });
    done.get_future().wait();

    CHECK(order == std::vector<int>{10, 20, 30});
    CHECK(early == 0);
    run_on(only, [] {});
    CHECK(runtime->stats().workers[0].timers_fired >= 2);
  }

  TEST_CASE("a hook at the end of the turn runs once, after the work that was queued") {
    const test::watchdog dog(60s);
    const auto runtime = make_runtime(test::config(1));
    if (!runtime) return;
    auto& only = runtime->core().worker(0);
    std::vector<std::string> order;
    std::promise<void> done;

    struct hook : hawser::detail::work {
      hook() : work([](work& self) noexcept { static_cast<hook&>(self).action(); }) {}
      std::function<void()> action;
    };
    hook first, nested;
    nested.action = [&] {
      order.emplace_back("nested");
      done.set_value();
    };
    first.action = [&] {
      order.emplace_back("hook");
      only.at_turn_end(nested);
    };
    run_on(only, [&] {
      only.at_turn_end(first);
      post_to(
          only, [&] { order.emplace_back("work"); }, priority::bulk);
    });
    done.get_future().wait();

    CHECK(order == std::vector<std::string>{"work", "hook", "nested"});
  }

  TEST_CASE("the pool for blocking calls runs beside the workers and refuses beyond its queue") {
    const test::watchdog dog(60s);
    auto config = test::config(1);
    config.blocking_threads = 2;
    config.blocking_queue = 3;
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    auto& core = runtime->core();
    std::promise<void> hold;
    const auto held = hold.get_future().share();
    std::atomic<int> started{0}, ran{0};
    const auto make = [&] {
      const auto action = [&, held] {
        ++started;
        held.wait();
        ++ran;
      };
      return new test::job(action);
    };

    for (int i = 1; i <= 2; ++i) {
      REQUIRE(core.post_blocking(*make()) == hawser::errc{});
      while (started < i) std::this_thread::yield();
    }
    for (int i = 0; i < 3; ++i) CHECK(core.post_blocking(*make()) == hawser::errc{});
    auto* const refused = make();
    CHECK(core.post_blocking(*refused) == hawser::errc::limit_reached);
    delete refused;
    CHECK(started == 2);
    hold.set_value();
    while (ran < 5) std::this_thread::yield();

    const auto action = [&] { ++ran; };
    CHECK(core.post_blocking(test::make_job(action)) == hawser::errc{});
    while (ran < 6) std::this_thread::yield();
  }

  TEST_CASE("links are spread over the workers by how many there are") {
    const auto runtime = make_runtime(test::config(3));
    if (!runtime) return;
    auto& core = runtime->core();

    for (int i = 0; i < 9; ++i) core.pick_home().link_opened();

    for (unsigned i = 0; i < 3; ++i) CHECK(core.worker(i).open_links() == 3);
    CHECK(runtime->stats().open_links == 9);
    core.worker(1).link_closed();
    CHECK(&core.pick_home() == &core.worker(1));
  }

  TEST_CASE("names of in-process listeners are unique while their owner lives") {
    const auto runtime = make_runtime(test::config(1));
    if (!runtime) return;
    auto& core = runtime->core();
    auto owner = std::make_shared<int>(7);

    CHECK(core.add_name("a", owner));
    CHECK_FALSE(core.add_name("a", std::make_shared<int>(8)));
    CHECK(core.find_name("a") == owner);
    CHECK(core.find_name("b") == nullptr);
    owner.reset();
    CHECK(core.find_name("a") == nullptr);
    owner = std::make_shared<int>(9);
    CHECK(core.add_name("a", owner));
    core.remove_name("a");
    CHECK(core.find_name("a") == nullptr);
  }

  TEST_CASE("the end of the runtime tells every component, and waits for them") {
    const test::watchdog dog(60s);
    auto runtime = make_runtime(test::config(2));
    if (!runtime) return;
    part one(runtime->core().worker(0)), two(runtime->core().worker(1));
    run_on(runtime->core().worker(0), [&] { runtime->core().worker(0).add_component(one); });
    run_on(runtime->core().worker(1), [&] { runtime->core().worker(1).add_component(two); });

    runtime.reset();

    CHECK(one.shutdowns == 1);
    CHECK(two.shutdowns == 1);
    CHECK(one.abandons + two.abandons == 0);
  }

  TEST_CASE("a component that does not end in time is abandoned, with one log event") {
    const test::watchdog dog(60s);
    auto config = test::config(1);
    config.shutdown_deadline = 30ms;
    test::log_book book;
    config.log = book.sink();
    auto runtime = make_runtime(config);
    if (!runtime) return;
    auto& home = runtime->core().worker(0);
    part stubborn(home), late(home);
    stubborn.ends = false;
    test_timer adds;
    adds.action = [&] { home.add_component(late); };
    run_on(home, [&] {
      home.add_component(stubborn);
      home.arm(adds, home.now() + 5ms);
    });

    const auto start = hawser::clock::now();
    runtime.reset();

    CHECK(hawser::clock::now() - start >= 30ms);
    CHECK(stubborn.shutdowns == 1);
    CHECK(stubborn.abandons == 1);
    CHECK(late.shutdowns == 1);
    CHECK(book.count(hawser::log_level::warning) == 1);
  }

  TEST_CASE("stop is requested before anything else ends, and work that is posted still runs") {
    const test::watchdog dog(60s);
    std::atomic<int> ran{0};
    {
      const auto runtime = make_runtime(test::config(2));
      if (!runtime) return;
      auto& core = runtime->core();
      CHECK_FALSE(core.stop().stop_requested());
      for (unsigned i = 0; i < 500; ++i) {
        post_to(core.worker(i % 2),
                [&, to = (i + 1) % 2] { post_to(core.worker(to), [&] { ++ran; }); });
      }
      const auto action = [&] { post_to(core.worker(0), [&] { ++ran; }); };
      REQUIRE(core.post_blocking(test::make_job(action)) == hawser::errc{});
    }
    CHECK(ran == 501);
  }

  TEST_CASE("a configuration out of range is refused by field, value and range") {
    auto config = test::config(1);
    config.threads = 5000;
    CHECK(message_of_config(config).find("executor_config::threads is 5000, must be 1..1024") !=
          std::string::npos);
    config = test::config(1);
    config.blocking_threads = 1025;
    CHECK(message_of_config(config).find("blocking_threads is 1025") != std::string::npos);
    config = test::config(1);
    config.blocking_queue = 1 << 21;
    CHECK(message_of_config(config).find("blocking_queue") != std::string::npos);
    config = test::config(1);
    config.shutdown_deadline = -1ms;
    CHECK(message_of_config(config).find("shutdown_deadline is -1") != std::string::npos);
    config = test::config(1);
    config.backend = static_cast<hawser::backend>(9);
    CHECK(message_of_config(config).find("backend is 9") != std::string::npos);
  }

  TEST_CASE("the zeros of a configuration mean its defaults") {
    hawser::executor_config config;
    config.blocking_threads = 0;
    config.blocking_queue = 0;
    config.shutdown_deadline = 0ms;
    const hawser::runtime runtime(config);

    CHECK(runtime.threads() == hawser::detail::default_threads());
    CHECK(runtime.core().config().blocking_threads == 4);
    CHECK(runtime.core().config().blocking_queue == 4096);
    CHECK(runtime.core().config().shutdown_deadline == 5000ms);
  }

  TEST_CASE("the report says what runs and why") {
    const auto runtime = make_runtime(test::config(1));
    if (!runtime) return;
    const auto report = runtime->report();

    CHECK_FALSE(report.reason.empty());
    CHECK(hawser::to_string(report).starts_with(report.mechanism));
    if (test::backend() == "asio") {
      CHECK(report.chosen == hawser::backend::asio);
      CHECK(report.mechanism == hawser::platform::portable_mechanism());
    }
    if (test::backend() == "io_uring") {
      CHECK(report.chosen == hawser::backend::io_uring);
      CHECK_FALSE(report.features.empty());
    }
  }

  TEST_CASE("randomness comes from the source that was given") {
    struct sevens : hawser::random_source {
      void fill(std::byte* bytes, std::size_t count) noexcept override {
        std::fill_n(bytes, count, std::byte{7});
      }
    } source;
    auto config = test::config(1);
    config.random = &source;
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    std::array<std::byte, 4> bytes{};

    runtime->core().fill_random(bytes.data(), bytes.size());

    CHECK(std::all_of(bytes.begin(), bytes.end(), [](auto b) { return b == std::byte{7}; }));
  }

  TEST_CASE("a failure of independent work is logged and counted, also when the sink throws") {
    auto config = test::config(1);
    test::log_book book;
    config.log = [&](const hawser::log_event& event) {
      book.sink()(event);
      throw 1;
    };
    const auto runtime = make_runtime(config);
    if (!runtime) return;
    const auto before = book.entries().size();

    runtime->core().report_failure(std::make_exception_ptr(std::runtime_error("broken")));

    REQUIRE(book.entries().size() == before + 1);
    CHECK(book.entries().back().area == "scope");
    CHECK(book.entries().back().text == "broken");
    CHECK(runtime->stats().failed_tasks == 1);
  }

  TEST_CASE("a hundred runtimes come and go") {
    const test::watchdog dog(120s);
    for (unsigned i = 0; i < 100; ++i) {
      const auto runtime = make_runtime(test::config(2));
      if (!runtime) return;
      run_on(runtime->core().worker(i % 2), [] {});
    }
  }

  TEST_CASE("a system that refuses io_uring gets the portable reactor and one log event") {
    const test::watchdog dog(120s);
    if (test::backend() == "asio") return;
    if (!test::can_trace()) return;
    for (const std::string error : {"EPERM", "ENOSYS", "ENOMEM"}) {
      const auto child = test::run_child(
          "strace -f -qq -o /dev/null -e trace=io_uring_setup -e inject=io_uring_setup:error=" +
              error,
          "automatic backend");

      CHECK_MESSAGE(child.status == 0, child.output);
      CHECK(child.output.find("chosen=asio warnings=1") != std::string::npos);
      CHECK(child.output.find("io_uring_setup: ") != std::string::npos);
    }
  }

  // The third registration is that of the receive buffers, after the probe and the ring itself.
  TEST_CASE("a system that refuses what comes after the ring gets the portable reactor") {
    const test::watchdog dog(60s);
    if (test::backend() == "asio") return;
    if (!test::can_trace()) return;

    const auto child = test::run_child(
        "strace -f -qq -o /dev/null -e trace=io_uring_register "
        "-e inject=io_uring_register:error=ENOMEM:when=3",
        "automatic backend");

    CHECK_MESSAGE(child.status == 0, child.output);
    CHECK(child.output.find("chosen=asio warnings=1") != std::string::npos);
  }

  TEST_CASE("io_uring asked for by name and refused is an error, not a fallback") {
    const test::watchdog dog(60s);
    if (test::backend() == "asio") return;
    if (!test::can_trace()) return;

    const auto child = test::run_child(
        "strace -f -qq -o /dev/null -e trace=io_uring_setup "
        "-e inject=io_uring_setup:error=EPERM",
        "backend by name");

    CHECK_MESSAGE(child.status == 0, child.output);
    CHECK(child.output.find("unsupported: io_uring is not available: io_uring_setup") !=
          std::string::npos);
  }

  TEST_CASE("an old kernel that knows no DEFER_TASKRUN gets a ring without it") {
    const test::watchdog dog(60s);
    if (test::backend() == "asio") return;
    if (!test::make_reactor() || !test::can_trace()) return;

    const auto child = test::run_child(
        "strace -f -qq -o /dev/null -e trace=io_uring_setup "
        "-e inject=io_uring_setup:error=EINVAL:when=1",
        "automatic backend");

    CHECK_MESSAGE(child.status == 0, child.output);
    CHECK(child.output.find("chosen=io_uring warnings=0") != std::string::npos);
  }

  // What follows runs in a process of its own, see above.
  TEST_CASE("child: automatic backend" * doctest::skip()) {
    test::log_book book;
    hawser::executor_config config;
    config.threads = 2;
    config.log = book.sink();
    const hawser::runtime runtime(config);
    run_on(runtime.core().worker(1), [] {});
    const auto chosen = runtime.report().chosen;
    std::cout << "chosen=" << (chosen == hawser::backend::asio ? "asio" : "io_uring")
              << " warnings=" << book.count(hawser::log_level::warning) << '\n'
              << hawser::to_string(runtime.report()) << '\n';
    for (const auto& each : book.entries()) std::cout << each.area << ": " << each.text << '\n';
    std::cout << std::flush;
  }

  TEST_CASE("child: backend by name" * doctest::skip()) {
    hawser::executor_config config;
    config.threads = 2;
    config.backend = hawser::backend::io_uring;
    try {
      const hawser::runtime runtime(config);
      FAIL("started");
    } catch (const std::system_error& error) {
      CHECK(error.code() == hawser::errc::unsupported);
      std::cout << "unsupported: " << error.what() << std::endl;
    }
  }
}
