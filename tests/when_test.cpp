// SPDX-License-Identifier: Apache-2.0
#include "hawser/when.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "hawser/hop.hpp"
#include "hawser/this_task.hpp"
#include "support/environment.hpp"
#include "support/event.hpp"
#include "support/manual_executor.hpp"
#include "support/watchdog.hpp"

namespace {

using hawser::errc;
using hawser::task;
using hawser::when_all;
using hawser::when_any;
using namespace std::chrono_literals;

task<int> value_of(int value) {
  co_return value;
}

task<std::unique_ptr<int>> owned(int value) {
  co_return std::make_unique<int>(value);
}

task<void> nothing() {
  co_return;
}

task<int> fail(const char* text) {
  throw std::runtime_error(text);
  co_return 0;
}

task<int> fail_after(test::event& on, const char* text) {
  const int value = co_await on.wait();
  static_cast<void>(value);
  throw std::runtime_error(text);
}

task<void> begun(bool& flag) {
  flag = true;
  co_return;
}

task<int> sum_of_all() {
  auto all = co_await when_all(value_of(1), nothing(), owned(2), value_of(3));
  co_return std::get<0>(all) + *std::get<2>(all) + std::get<3>(all);
}

task<int> all_of_two(test::event& one, test::event& two) {
  auto all = co_await when_all(one.wait(1), two.wait(2));
  co_return std::get<0>(all) * 10 + std::get<1>(all);
}

task<void> all_of_failing(test::event& gate) {
  co_await when_all(gate.wait(), fail("first"), fail("second"));
}

task<void> all_with_late(bool& flag) {
  co_await when_all(fail("first"), begun(flag));
}

using any_of_two_result = hawser::any_result<int, int>;

task<any_of_two_result> any_of_two(test::event& one, test::event& two) {
  auto any = co_await when_any(one.wait(1), two.wait(2));
  co_return any;
}

task<any_of_two_result> any_with_failing(test::event& one, test::event& two) {
  auto any = co_await when_any(fail_after(one, "one"), two.wait(2));
  co_return any;
}

task<bool> any_skips_the_rest() {
  bool flag = false;
  const auto any = co_await when_any(value_of(1), begun(flag));
  co_return any.index == 0 && !std::get<1>(any.values) && !flag;
}

task<int> refuse() {
  hawser::failure(errc::refused).raise();
  co_return 0;
}

task<errc> any_of_results(test::event& one) {
  const auto any = co_await when_any(hawser::as_result(refuse()), hawser::as_result(one.wait()));
  co_return static_cast<errc>(std::get<0>(any.values)->error().code().value());
}

task<int> wait_on(hawser::detail::executor& there, test::event& on, int value) {
  co_await hawser::detail::hop_to(there);
  const int got = co_await on.wait(value);
  co_return got;
}

// Sets an event on its own executor.
task<void> set_on(hawser::detail::executor& there, test::event& which) {
  co_await hawser::detail::hop_to(there);
  which.set();
}

task<any_of_two_result> race(hawser::detail::executor& one, hawser::detail::executor& two,
                             test::event& first, test::event& second) {
  auto any = co_await when_any(wait_on(one, first, 1), wait_on(two, second, 2));
  co_return any;
}

task<void> race_and_set(hawser::detail::executor& one, hawser::detail::executor& two,
                        std::uint64_t rounds, std::uint64_t& values) {
  for (std::uint64_t i = 0; i < rounds; ++i) {
    test::event first(one), second(two);
    auto all =
        co_await when_all(race(one, two, first, second), set_on(one, first), set_on(two, second));
    const auto& any = std::get<0>(all);
    values += std::get<0>(any.values).has_value() ? 1 : 0;
    values += std::get<1>(any.values).has_value() ? 1 : 0;
    co_await hawser::detail::hop_to(i % 2 == 0 ? two : one);
  }
}

template <class T>
std::vector<task<T>> list(task<T> one, task<T> two) {
  std::vector<task<T>> all;
  all.push_back(std::move(one));
  all.push_back(std::move(two));
  return all;
}

}  // namespace

TEST_SUITE("when") {
  TEST_CASE("when_all yields every value in order") {
    CHECK(test::run_task(sum_of_all()) == 6);
    CHECK(test::run_task(when_all()) == std::tuple<>());
  }

  TEST_CASE("when_all waits for all, in any order") {
    for (const bool swapped : {false, true}) {
      test::manual_executor here;
      test::event one(here), two(here);
      test::pending<int> root(here, all_of_two(one, two));
      here.run();

      here.enter([&] { (swapped ? two : one).set(); });
      here.run();
      CHECK_FALSE(root.done());
      here.enter([&] { (swapped ? one : two).set(); });
      here.run();

      CHECK(root.get() == 12);
    }
  }

  TEST_CASE("when_all throws the first failure after it has cancelled and awaited the others") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<void> root(here, all_of_failing(gate));

    here.run();

    CHECK_THROWS_WITH_AS(root.get(), "first", std::runtime_error);
    CHECK_FALSE(gate.awaited());
  }

  TEST_CASE("when_all does not begin what comes after a failure") {
    bool flag = false;

    CHECK_THROWS_AS(test::run_task(all_with_late(flag)), std::runtime_error);

    CHECK_FALSE(flag);
  }

  TEST_CASE("when_all takes a vector") {
    CHECK(test::run_task(when_all(list(value_of(1), value_of(2)))) == std::vector<int>{1, 2});
    CHECK_NOTHROW(test::run_task(when_all(list(nothing(), nothing()))));
    CHECK_THROWS_AS(test::run_task(when_all(list(value_of(1), fail("x")))), std::runtime_error);
    CHECK(test::run_task(when_all(std::vector<task<int>>())).empty());
  }

  TEST_CASE("when_all is cancelled by the stop token") {
    test::manual_executor here;
    test::event one(here), two(here);
    hawser::stop_source stop;
    test::pending<int> root(here, all_of_two(one, two), stop.token());
    here.run();

    stop.request_stop();
    here.run();

    CHECK_THROWS_AS(root.get(), std::system_error);
  }

  TEST_CASE("when_any yields the first and cancels the other") {
    test::manual_executor here;
    test::event one(here), two(here);
    test::pending<any_of_two_result> root(here, any_of_two(one, two));
    here.run();

    here.enter([&] { two.set(); });
    here.run();

    const auto any = root.get();
    CHECK(any.index == 1);
    CHECK_FALSE(std::get<0>(any.values));
    CHECK(std::get<1>(any.values) == 2);
    CHECK_FALSE(any.failure);
    CHECK_FALSE(one.awaited());
  }

  TEST_CASE("when_any yields every value that came") {
    test::manual_executor here;
    test::event one(here), two(here);
    test::pending<any_of_two_result> root(here, any_of_two(one, two));
    here.run();

    here.enter([&] {
      two.set();
      one.set();
    });
    here.run();

    const auto any = root.get();
    CHECK(any.index == 1);
    CHECK(std::get<0>(any.values) == 1);
    CHECK(std::get<1>(any.values) == 2);
  }

  TEST_CASE("when_any waits for one that ignores the stop request, and yields its value") {
    test::manual_executor here;
    test::event one(here), two(here);
    one.ignores_stop = true;
    test::pending<any_of_two_result> root(here, any_of_two(one, two));
    here.run();

    here.enter([&] { two.set(); });
    here.run();
    CHECK_FALSE(root.done());
    here.enter([&] { one.set(); });
    here.run();

    CHECK(std::get<0>(root.get().values) == 1);
  }

  TEST_CASE("when_any does not begin what comes after the first") {
    CHECK(test::run_task(any_skips_the_rest()));
  }

  TEST_CASE("when_any throws the first failure if there is no value") {
    test::manual_executor here;
    test::event one(here), two(here);
    test::pending<any_of_two_result> root(here, any_with_failing(one, two));
    here.run();

    here.enter([&] { one.set(); });
    here.run();

    CHECK_THROWS_WITH_AS(static_cast<void>(root.get()), "one", std::runtime_error);
  }

  TEST_CASE("when_any drops no value for the sake of a failure, and no failure") {
    test::manual_executor here;
    test::event one(here), two(here);
    test::pending<any_of_two_result> root(here, any_with_failing(one, two));
    here.run();

    here.enter([&] {
      one.set();
      two.set();
    });
    here.run();

    const auto any = root.get();
    CHECK(any.index == 1);
    CHECK(std::get<1>(any.values) == 2);
    CHECK(any.failure);
  }

  TEST_CASE("when_any yields failures as values where as_result asks for it") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<errc> root(here, any_of_results(gate));

    here.run();

    CHECK(root.get() == errc::refused);
  }

  TEST_CASE("when_any is cancelled by the stop token") {
    test::manual_executor here;
    test::event one(here), two(here);
    hawser::stop_source stop;
    test::pending<any_of_two_result> root(here, any_of_two(one, two), stop.token());
    here.run();

    stop.request_stop();
    here.run();

    CHECK_THROWS_AS(static_cast<void>(root.get()), std::system_error);
  }

  // Goal: of two operations on two threads that complete and are cancelled at the same time, each
  // ends exactly once and at least one has its value. Method: both events are set on their own
  // threads while when_any stops the loser; a lost wake-up is found by the watchdog.
  TEST_CASE("operations race on two threads") {
    test::watchdog dog(100s);
    constexpr std::uint64_t rounds = 30'000;
    test::manual_executor one, two;
    std::uint64_t values = 0;
    test::pending<void> root(one, race_and_set(one, two, rounds, values));
    {
      const test::executor_thread first(one), second(two);
      while (!root.done()) std::this_thread::yield();
    }

    CHECK_NOTHROW(root.get());
    CHECK(values >= rounds);
    MESSAGE("both had a value in " << values - rounds << " of " << rounds);
  }
}
