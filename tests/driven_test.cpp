// SPDX-License-Identifier: Apache-2.0
#include "hawser/driven_runtime.hpp"

#include <doctest/doctest.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "hawser/hawser.hpp"
#include "support/config.hpp"
#include "support/links.hpp"
#include "support/watchdog.hpp"

namespace {

using hawser::driven_runtime;
using hawser::task;
using namespace std::chrono_literals;

// The loop of a program that is not ours: it knows descriptors and deadlines.
class foreign_loop {
 public:
  explicit foreign_loop(driven_runtime& guest) : guest_(guest) {}

  void run_until(const std::function<bool()>& done) {
    while (!done()) {
      while (guest_.run_ready() && !done()) {
      }
      if (!done()) wait();
    }
  }
  [[nodiscard]] bool is_readable(std::chrono::milliseconds limit) const {
    pollfd one{static_cast<int>(guest_.poll_handle()), POLLIN, 0};
    return ::poll(&one, 1, static_cast<int>(limit.count())) > 0;
  }
  /// How often it had to wait.
  unsigned waits = 0;

 private:
  void wait() {
    std::chrono::milliseconds left = 10s;
    if (const auto deadline = guest_.next_deadline()) {
      const auto until = std::chrono::ceil<std::chrono::milliseconds>(*deadline -
                                                                      hawser::clock::now());
      left = std::clamp<std::chrono::milliseconds>(until, 0ms, left);
    }
    ++waits;
    static_cast<void>(is_readable(left));
  }

  driven_runtime& guest_;
};

task<void> echo(hawser::listener listener) {
  const auto link = co_await listener.accept();
  while (auto message = co_await link.rpc().recv()) co_await link.rpc().send(std::move(*message));
}

task<void> call(std::string uri, unsigned count, unsigned& answered) {
  const auto link = co_await hawser::connect(std::move(uri));
  for (unsigned i = 0; i < count; ++i) {
    co_await link.rpc().send(test::make_pattern(i, 100 + i * 997));
    const auto answer = co_await link.rpc().recv();
    if (answer.has_value() && test::is_pattern(*answer, i, 100 + i * 997)) ++answered;
  }
  co_await link.close();
}

task<void> wake_after(std::chrono::milliseconds length, bool& awake) {
  co_await hawser::this_task::sleep_for(length);
  awake = true;
}

task<void> fail() {
  throw std::runtime_error("broken");
  co_return;
}

std::size_t threads_of_this_process() {
  const std::filesystem::directory_iterator all("/proc/self/task");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

}  // namespace

TEST_SUITE("driven") {
  TEST_CASE("links and their tasks run in a foreign loop, without a thread") {
    for (const auto transport : test::transports) {
      CAPTURE(test::name_of(transport));
      const test::watchdog dog(60s);
      const test::folder place;
      const auto threads = threads_of_this_process();
      driven_runtime runtime(test::config(1));
      auto listener = hawser::listen(runtime, test::address_of(transport, place));
      const std::string uri = listener.uri();
      unsigned answered = 0;

      hawser::start(runtime, echo(std::move(listener)));
      hawser::start(runtime, call(uri, 100, answered));
      foreign_loop loop(runtime);
      loop.run_until([&] { return answered == 100; });

      CHECK(threads_of_this_process() == threads);
      CHECK(loop.waits < 10'000);
    }
  }

  TEST_CASE("timers run at the deadline that was told, and nothing is readable meanwhile") {
    const test::watchdog dog(60s);
    driven_runtime runtime(test::config(1));
    foreign_loop loop(runtime);
    CHECK_FALSE(runtime.next_deadline());
    bool awake = false;
    const auto begin = hawser::clock::now();

    hawser::start(runtime, wake_after(30ms, awake));
    while (runtime.run_ready()) {
    }
    REQUIRE(runtime.next_deadline());
    CHECK_FALSE(loop.is_readable(0ms));
    CHECK_FALSE(awake);
    loop.run_until([&] { return awake; });

    CHECK(hawser::clock::now() - begin >= 30ms);
    CHECK(loop.waits <= 4);
  }

  TEST_CASE("what another thread posts makes the handle readable, every time") {
    const test::watchdog dog(60s);
    driven_runtime runtime(test::config(1));
    foreign_loop loop(runtime);
    std::atomic<unsigned> ran{0};
    std::thread poster([&] {
      for (unsigned i = 0; i < 200; ++i) {
        runtime.post([&] { ++ran; });
        while (ran <= i) std::this_thread::yield();
      }
    });

    loop.run_until([&] { return ran == 200; });
    poster.join();
  }

  TEST_CASE("what its own thread posts from outside runs, too") {
    const test::watchdog dog(60s);
    driven_runtime runtime(test::config(1));
    foreign_loop loop(runtime);
    while (runtime.run_ready()) {
    }
    CHECK_FALSE(loop.is_readable(0ms));
    bool ran = false;

    runtime.post([&] { ran = true; });

    CHECK_FALSE(ran);
    CHECK(loop.is_readable(10s));
    while (runtime.run_ready()) {
    }
    CHECK(ran);
    CHECK_FALSE(loop.is_readable(0ms));
  }

  TEST_CASE("its own thread can have a note in the place of a readable handle") {
    const test::watchdog dog(60s);
    unsigned notes = 0;
    bool ran = false;
    driven_runtime runtime(test::config(1));
    foreign_loop loop(runtime);
    while (runtime.run_ready()) {
    }

    runtime.on_wanted([](void* context) noexcept { ++*static_cast<unsigned*>(context); }, &notes);
    runtime.post([&] { ran = true; });
    CHECK(notes == 1);
    CHECK_FALSE(loop.is_readable(0ms));
    while (runtime.run_ready()) {
    }
    CHECK(ran);

    std::thread([&] { runtime.post([&] { ran = false; }); }).join();
    CHECK(notes == 1);
    CHECK(loop.is_readable(10s));
    while (runtime.run_ready()) {
    }
    CHECK_FALSE(ran);

    const auto seven = []() -> task<int> { co_return 7; };
    CHECK(hawser::run(runtime, seven) == 7);  // looks for the note, too
    runtime.on_wanted(nullptr, nullptr);
  }

  TEST_CASE("it has work while a task, a link or a listener lives in it") {
    const test::watchdog dog(60s);
    const test::folder place;
    driven_runtime runtime(test::config(1));
    foreign_loop loop(runtime);
    CHECK_FALSE(runtime.has_work());
    {
      auto listener =
          hawser::listen(runtime, test::address_of(test::transport::unix_socket, place));
      loop.run_until([&] { return runtime.has_work(); });
    }
    loop.run_until([&] { return !runtime.has_work(); });

    bool awake = false;
    hawser::start(runtime, wake_after(1ms, awake));
    CHECK(runtime.has_work());
    loop.run_until([&] { return !runtime.has_work(); });
    CHECK(awake);
  }

  TEST_CASE("run() drives it by itself") {
    const test::watchdog dog(60s);
    driven_runtime runtime(test::config(1));
    const auto wait_a_little = []() -> task<int> {
      co_await hawser::this_task::sleep_for(5ms);
      co_return co_await hawser::offload([] { return 7; });
    };

    CHECK(hawser::run(runtime, wait_a_little) == 7);
  }

  TEST_CASE("its end closes links in order and resumes who waits") {
    const test::watchdog dog(60s);
    const test::folder place;
    hawser::runtime other(test::config(1));
    auto listener =
        hawser::listen(other, test::address_of(test::transport::unix_socket, place));
    hawser::link accepted;
    bool let_go = false;
    {
      driven_runtime runtime(test::config(1));
      foreign_loop loop(runtime);
      bool connected = false;
      const auto stay = [](std::string uri, bool& there, bool& gone) -> task<void> {
        const auto link = co_await hawser::connect(std::move(uri));
        there = true;
        static_cast<void>(co_await hawser::as_result(link.rpc().recv()));
        gone = true;
      };
      hawser::start(runtime, stay(listener.uri(), connected, let_go));
      loop.run_until([&] { return connected; });
      accepted = hawser::sync_wait(other, listener.accept());
    }
    CHECK(let_go);
    const auto why = hawser::sync_wait(other, accepted.ended());
    CHECK(why.code() == hawser::errc::closed);
  }

  TEST_CASE("a started task that fails is logged and counted; one that the end cancels is not") {
    const test::watchdog dog(60s);
    test::log_book log;
    bool awake = false;
    {
      driven_runtime runtime(test::config(1, log));
      hawser::start(runtime, fail());
      hawser::start(runtime, wake_after(1h, awake));
      while (runtime.run_ready()) {
      }
      CHECK(runtime.stats().failed_tasks == 1);
    }
    CHECK(test::has_event(log, "scope", {"broken"}));
    CHECK(log.count(hawser::log_level::error) == 1);
    CHECK_FALSE(awake);
  }

  TEST_CASE("it has one worker and says so") {
    auto config = test::config(1);
    config.threads = 4;
    const auto outcome = test::outcome_of([&] { driven_runtime runtime(config); });
    REQUIRE_FALSE(outcome.has_value());
    CHECK(outcome.error().code() == hawser::errc::bad_config);
    CHECK(outcome.error().text().find("threads is 4") != std::string::npos);
    CHECK(driven_runtime().threads() == 1);
  }
}
