// SPDX-License-Identifier: Apache-2.0
#include "hawser/async_generator.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <stdexcept>
#include <vector>

#include "hawser/this_task.hpp"
#include "support/event.hpp"
#include "support/manual_executor.hpp"

namespace {

using hawser::async_generator;
using hawser::task;

async_generator<int> count_to(int last) {
  for (int i = 1; i <= last; ++i) co_yield i;
}

task<long> sum(async_generator<int> source) {
  long total = 0;
  while (auto value = co_await source.next()) total += *value;
  co_return total;
}

async_generator<std::unique_ptr<int>> move_only() {
  auto named = std::make_unique<int>(1);
  co_yield std::move(named);
  co_yield std::make_unique<int>(2);
}

task<int> sum_of_owned() {
  auto source = move_only();
  int total = 0;
  while (auto value = co_await source.next()) total += **value;
  co_return total;
}

async_generator<int> fail_after_one() {
  co_yield 1;
  throw std::runtime_error("broken");
}

task<std::vector<int>> taste_failure() {
  std::vector<int> seen;
  auto source = fail_after_one();
  const auto first = co_await source.next();
  seen.push_back(*first);
  try {
    const auto second = co_await source.next();
    static_cast<void>(second);
  } catch (const std::runtime_error&) {
    seen.push_back(-1);
  }
  const auto third = co_await source.next();
  if (!third) seen.push_back(0);
  co_return seen;
}

async_generator<int> wait_between(test::event& gate) {
  for (;;) {
    const int value = co_await gate.wait(5);
    co_yield value;
  }
}

task<int> take_two(test::event& gate) {
  auto source = wait_between(gate);
  const auto one = co_await source.next();
  const auto two = co_await source.next();
  co_return *one + *two;
}

async_generator<hawser::priority> urgencies() {
  for (;;) {
    const auto context = co_await hawser::this_task::context();
    co_yield context.urgency;
  }
}

task<hawser::priority> take_urgency(async_generator<hawser::priority>& source) {
  const auto seen = co_await source.next();
  co_return *seen;
}

async_generator<int> hold(std::shared_ptr<int> held) {
  for (;;) co_yield *held;
}

task<int> take_one(async_generator<int> source) {
  const auto value = co_await source.next();
  co_return *value;
}

}  // namespace

TEST_SUITE("async_generator") {
  TEST_CASE("next yields every value, then nothing") {
    CHECK(test::run_task(sum(count_to(4))) == 10);
    CHECK(test::run_task(sum(count_to(0))) == 0);
    CHECK(test::run_task(sum_of_owned()) == 3);
  }

  TEST_CASE("a million values need no stack") {
    CHECK(test::run_task(sum(count_to(1'000'000))) == 500'000'500'000);
  }

  TEST_CASE("an exception comes out of next once, then the end") {
    CHECK(test::run_task(taste_failure()) == std::vector<int>{1, -1, 0});
  }

  TEST_CASE("the body may await") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<int> root(here, take_two(gate));

    here.run();
    here.enter([&] { gate.set(); });
    here.run();
    CHECK_FALSE(root.done());
    here.enter([&] { gate.set(); });
    here.run();

    CHECK(root.get() == 10);
  }

  TEST_CASE("a stop request reaches what the body awaits") {
    test::manual_executor here;
    test::event gate(here);
    hawser::stop_source stop;
    test::pending<int> root(here, take_two(gate), stop.token());
    here.run();

    stop.request_stop();
    here.run();

    CHECK_THROWS_AS(root.get(), std::system_error);
  }

  TEST_CASE("the body has the priority of whoever awaits next") {
    test::manual_executor here;
    auto source = urgencies();
    test::pending<hawser::priority> one(here, take_urgency(source), {}, hawser::priority::bulk);
    here.run();
    test::pending<hawser::priority> two(here, take_urgency(source), {}, hawser::priority::control);
    here.run();

    CHECK(one.get() == hawser::priority::bulk);
    CHECK(two.get() == hawser::priority::control);
  }

  TEST_CASE("a generator that is dropped early frees what it holds") {
    auto held = std::make_shared<int>(7);

    CHECK(test::run_task(take_one(hold(held))) == 7);

    CHECK(held.use_count() == 1);
  }
}
