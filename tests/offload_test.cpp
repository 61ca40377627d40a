// SPDX-License-Identifier: Apache-2.0
#include "hawser/offload.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <stdexcept>
#include <system_error>

#include "hawser/executor.hpp"
#include "hawser/when.hpp"
#include "support/manual_executor.hpp"

namespace {

using hawser::errc;
using hawser::offload;
using hawser::task;

task<bool> runs_elsewhere() {
  hawser::detail::executor* const before = hawser::detail::executor::current();
  auto* const inside = co_await offload([] { return hawser::detail::executor::current(); });
  co_return inside == nullptr&& hawser::detail::executor::current() == before;
}

// The lambda has a name: g++ 12 destroys captures twice inside a co_await expression.
task<int> move_only() {
  auto call = [held = std::make_unique<int>(3)] { return std::make_unique<int>(*held + 1); };
  auto got = co_await offload(std::move(call));
  co_return *got;
}

task<void> fail() {
  co_await offload([] { throw std::runtime_error("disk"); });
}

task<void> mark(bool& flag) {
  co_await offload([&flag] { flag = true; });
}

task<int> together() {
  auto all = co_await hawser::when_all(offload([] { return 1; }), offload([] { return 2; }));
  co_return std::get<0>(all) + std::get<1>(all);
}

template <class T>
errc code_of(test::pending<T>& root) {
  try {
    root.get();
  } catch (const std::system_error& error) {
    return static_cast<errc>(error.code().value());
  }
  return errc();
}

}  // namespace

TEST_SUITE("offload") {
  TEST_CASE("the function runs on no worker, and the task continues on its own") {
    CHECK(test::run_task(runs_elsewhere()));
  }

  TEST_CASE("values that can only be moved come back, exceptions too") {
    CHECK(test::run_task(move_only()) == 4);
    CHECK_THROWS_WITH_AS(test::run_task(fail()), "disk", std::runtime_error);
    CHECK(test::run_task(together()) == 3);
  }

  TEST_CASE("a full queue is errc::limit_reached, and the function is not called") {
    test::manual_executor here;
    here.blocking_max = 0;
    bool flag = false;
    test::pending<void> root(here, mark(flag));

    here.run();

    CHECK(code_of(root) == errc::limit_reached);
    CHECK_FALSE(flag);
  }

  TEST_CASE("a stop request before the call skips it") {
    test::manual_executor here;
    hawser::stop_source stop;
    bool first = false, second = false;
    test::pending<void> queued(here, mark(first), stop.token());
    here.run();

    stop.request_stop();
    test::pending<void> late(here, mark(second), stop.token());
    here.run();
    CHECK(here.run_blocking_one());
    here.run();

    CHECK(code_of(queued) == errc::cancelled);
    CHECK(code_of(late) == errc::cancelled);
    CHECK_FALSE(first);
    CHECK_FALSE(second);
  }

  TEST_CASE("a call that has begun is awaited") {
    test::manual_executor here;
    hawser::stop_source stop;
    bool flag = false;
    test::pending<void> root(here, mark(flag), stop.token());
    here.run();
    CHECK(here.run_blocking_one());

    stop.request_stop();
    here.run();

    CHECK_NOTHROW(root.get());
    CHECK(flag);
  }
}
