// SPDX-License-Identifier: Apache-2.0
// What a runtime does to the process it is part of, and the process to it: signals, fork, exec.
#include "hawser/runtime.hpp"

#include <doctest/doctest.h>

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "core/sanitizer.hpp"
#include "hawser/driven_runtime.hpp"
#include "hawser/hawser.hpp"
#include "support/child.hpp"
#include "support/config.hpp"
#include "support/links.hpp"
#include "support/raw_socket.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::task;
using test::transport;

std::atomic<unsigned> signals_seen{0};
std::atomic<pid_t> last_handler{0};

void note_signal(int /*number*/) {
  signals_seen.fetch_add(1, std::memory_order_relaxed);
  last_handler.store(::gettid(), std::memory_order_relaxed);
}

/// Handles a signal with note_signal(), which interrupts calls, and afterwards as before.
class handled {
 public:
  explicit handled(int number) : number_(number) {
    struct sigaction wanted {};
    wanted.sa_handler = &note_signal;
    ::sigaction(number_, &wanted, &before_);
    signals_seen.store(0, std::memory_order_relaxed);
  }
  ~handled() { ::sigaction(number_, &before_, nullptr); }
  handled(const handled&) = delete;
  handled& operator=(const handled&) = delete;

 private:
  int number_;
  struct sigaction before_ {};
};

/// Sends SIGALRM to the process 5000 times a second.
class storm {
 public:
  storm() : handler_(SIGALRM) { set(200us); }
  ~storm() { set(0us); }
  storm(const storm&) = delete;
  storm& operator=(const storm&) = delete;

 private:
  static void set(std::chrono::microseconds every) {
    const timeval step{0, every.count()};
    const itimerval timer{step, step};
    ::setitimer(ITIMER_REAL, &timer, nullptr);
  }
  handled handler_;
};

/// Both ends of a link, without a thread beside those of the runtime.
struct ends {
  ends(std::unique_ptr<hawser::runtime> own, transport over)
      : runtime(std::move(own)),
        listener(hawser::listen(*runtime, test::address_of(over, place))) {
    hawser::run(*runtime, [this]() -> task<void> {
      auto both = co_await hawser::when_all(hawser::connect(listener.uri()), listener.accept());
      client = std::get<0>(std::move(both));
      server = std::get<1>(std::move(both));
    });
  }

  /// A message there and back on every channel.
  void exchange(std::size_t bytes = 100) {
    hawser::run(*runtime, [this, bytes]() -> task<void> {
      for (const auto kind : test::kinds) {
        co_await client.at(kind).send(test::make_pattern(1, bytes));
        auto there = co_await server.at(kind).recv();
        co_await server.at(kind).send(std::move(*there));
        const auto back = co_await client.at(kind).recv();
        CHECK(test::is_pattern(*back, 1, bytes));
      }
    });
  }

  test::folder place;
  std::unique_ptr<hawser::runtime> runtime;
  hawser::listener listener;
  hawser::link client;
  hawser::link server;
};

std::unique_ptr<ends> make_ends(transport over, hawser::executor_config config = test::config(2)) {
  return std::make_unique<ends>(std::make_unique<hawser::runtime>(std::move(config)), over);
}

/// Runs `action` in a forked process. True: it came to its end.
bool in_child(const std::function<void()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    action();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

TEST_SUITE("process") {
  TEST_CASE("a peer that has gone raises no SIGPIPE") {
    for (const auto over : {transport::tcp, transport::unix_socket}) {
      const auto before = ::signal(SIGPIPE, SIG_DFL);
      test::linked here(over);
      test::raw_link peer(here.listener.uri());
      const auto server = hawser::sync_wait(here.runtime, here.listener.accept());
      peer.socket.close();
      const auto done = test::outcome_of([&] {
        hawser::run(here.runtime, [&]() -> task<void> {
          for (;;) co_await server.bulk().send(test::make_pattern(0, 60'000));
        });
      });
      CHECK(done.error().code() == hawser::errc::link_lost);
      ::signal(SIGPIPE, before);
    }
  }

  // Method: the signal is blocked by all threads of the application, so that a thread of the
  // runtime would have to take it, and then by none.
  TEST_CASE("signals are handled by threads of the application") {
    sigset_t one, before, pending;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    const handled handler(SIGUSR1);
    auto all = make_ends(transport::unix_socket);
    hawser::run(*all->runtime, []() -> task<void> { co_await hawser::offload([] {}); });
    REQUIRE(::pthread_sigmask(SIG_BLOCK, &one, &before) == 0);
    const test::watchdog guard(60s);

    REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
    all->exchange();
    hawser::run(*all->runtime, []() -> task<void> { co_await hawser::offload([] {}); });
    sigpending(&pending);
    CHECK(sigismember(&pending, SIGUSR1) == 1);
    CHECK(signals_seen.load(std::memory_order_relaxed) == 0);

    REQUIRE(::pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
    CHECK(signals_seen.load(std::memory_order_relaxed) == 1);
    CHECK(last_handler.load(std::memory_order_relaxed) == ::gettid());
  }

  TEST_CASE("a storm of signals interrupts calls, and nothing else") {
    constexpr unsigned enough = 300;
    const auto weather = [](ends& all) {
      const storm now;
      while (signals_seen.load(std::memory_order_relaxed) < enough) {
        all.exchange(100);
        all.exchange(20'000);
      }
    };
    for (const auto over : test::transports) {
      CAPTURE(test::name_of(over));
      const test::watchdog guard(60s);
      ends driven(std::make_unique<hawser::driven_runtime>(test::config()), over);
      weather(driven);
      auto config = test::config(2);
      config.hooks.thread_start = [](unsigned) {
        sigset_t one;
        sigemptyset(&one);
        sigaddset(&one, SIGALRM);
        static_cast<void>(::pthread_sigmask(SIG_UNBLOCK, &one, nullptr));
      };
      weather(*make_ends(over, config));
    }
  }

  TEST_CASE("a forked child may end what it has inherited, and its parent goes on") {
    for (const auto over : test::transports) {
      CAPTURE(test::name_of(over));
      std::vector<std::unique_ptr<ends>> all;
      all.push_back(make_ends(over));
      all.push_back(std::make_unique<ends>(
          std::make_unique<hawser::driven_runtime>(test::config()), over));
      for (auto& each : all) {
        auto held = std::make_unique<hawser::message>(hawser::run(
            *each->runtime, [&each]() -> task<hawser::message> {
              co_await each->client.rpc().send("held");
              auto message = co_await each->server.rpc().recv();
              co_return std::move(*message);
            }));
        CHECK(in_child([] {}));
        CHECK(in_child([&] {
          held.reset();
          each->client = {};
          each->server = {};
          const auto gone = std::move(each->listener);
        }));
        CHECK(in_child([&] {
          held.reset();
          each->place.keep();
          each.reset();
        }));
        CHECK(held->text() == "held");
        held.reset();
        const test::watchdog guard(60s);
        each->exchange();
        hawser::run(*each->runtime, [&each]() -> task<void> {
          const auto late = co_await hawser::connect(each->listener.uri());
          co_await each->client.close();
        });
      }
    }
  }

  // The locks of the runtime are held now and then.
  TEST_CASE("a child that is forked in the middle of traffic ends what it has inherited") {
    const auto all = make_ends(transport::unix_socket);
    std::atomic<bool> enough{false};
    std::thread traffic([&] {
      while (!enough.load(std::memory_order_relaxed)) all->exchange(5000);
    });
    for (int i = 0; i < 30; ++i) {
      CHECK(in_child([&] {
        all->client = {};
        all->server = {};
        all->runtime.reset();
      }));
    }
    enough.store(true, std::memory_order_relaxed);
    traffic.join();
  }

  TEST_CASE("a child that lives on keeps no connection and no listener of its parent open") {
    for (const auto over : {transport::tcp, transport::unix_socket}) {
      CAPTURE(test::name_of(over));
      auto config = test::config(2);
      config.shutdown_deadline = 50ms;  // the peer does not answer
      auto all = make_ends(over, config);
      const std::string uri = all->listener.uri();
      const std::size_t before = test::open_descriptors();
      test::raw_link peer(uri);
      test::raw_socket silent(uri);
      test::wait_until(*all->runtime, [&] { return test::open_descriptors() == before + 4; });
      std::array<int, 2> life{};
      REQUIRE(::pipe(life.data()) == 0);
      const pid_t child = ::fork();
      if (child == 0) {
        char byte = 0;
        ::close(life[1]);
        ::_exit(::read(life[0], &byte, 1) == 0 ? 0 : 1);
      }
      const test::watchdog guard(60s);
      all.reset();
      peer.socket.read_to_end();
      silent.read_to_end();
      CHECK_FALSE(test::outcome_of([&] { const test::raw_socket late(uri); }).has_value());
      ::close(life[1]);
      ::close(life[0]);
      int status = 0;
      ::waitpid(child, &status, 0);
      CHECK(status == 0);
    }
  }

  TEST_CASE("child: a listener without descriptors" * doctest::skip()) {
    rlimit few{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &few) == 0);
    few.rlim_cur = 100;
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
    const test::watchdog guard(10s);
    test::log_book log;
    const auto all = make_ends(transport::tcp, test::config(2, log));
    all->exchange();
    const auto other = hawser::listen(*all->runtime, "tcp://:0");
    std::vector<test::raw_socket> peers;
    for (int i = 0; i < 3; ++i) peers.push_back(test::raw_socket::unconnected(other.uri()));
    std::vector<int> hoard;
    for (int each = ::dup(0); each >= 0; each = ::dup(0)) hoard.push_back(each);

    const auto complaints = [&] {
      unsigned count = 0;
      for (const auto& each : log.entries()) {
        count += each.text.starts_with(other.uri() + ": accepting waits") ? 1 : 0;
      }
      return count;
    };
    for (auto& each : peers) each.connect(other.uri());
    test::wait_until(*all->runtime, [&] { return complaints() != 0; });
    const auto later = hawser::clock::now() + 200ms;  // several retries
    while (hawser::clock::now() < later) all->exchange();
    CHECK(complaints() == 1);

    for (const int each : hoard) ::close(each);
    for (auto& each : peers) {
      CHECK(each.send(hawser::wire::encode(test::make_hello())));
      CHECK(each.next(hawser::wire::kind::welcome).has_value());
    }
    CHECK(complaints() == 1);
  }

  TEST_CASE("a listener without descriptors says so once, waits and goes on, as do other links") {
    // Clang's undefined-behaviour sanitizer needs descriptors when it first sees a type.
    if (hawser::detail::sanitized) return;
    const auto child = test::run_child("", "a listener without descriptors");
    INFO(child.output);
    CHECK(child.status == 0);
  }

  TEST_CASE("a program that is started has none of our descriptors") {
    const auto seen_by_program = [] {
      std::FILE* const pipe = ::popen("ls /proc/self/fd | wc -l", "r");
      REQUIRE(pipe != nullptr);
      int count = 0;
      CHECK(std::fscanf(pipe, "%d", &count) == 1);
      ::pclose(pipe);
      return count;
    };
    const int before = seen_by_program();
    const test::watchdog guard(60s);
    const auto tcp = make_ends(transport::tcp);
    const auto file = make_ends(transport::unix_socket);
    ends driven(std::make_unique<hawser::driven_runtime>(test::config()), transport::inproc);
    for (ends* const each : {tcp.get(), file.get(), &driven}) each->exchange();
    CHECK(seen_by_program() == before);
  }
}
