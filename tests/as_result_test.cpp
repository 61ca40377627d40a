// SPDX-License-Identifier: Apache-2.0
#include "hawser/as_result.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <stdexcept>

#include "hawser/task.hpp"
#include "support/event.hpp"
#include "support/manual_executor.hpp"

namespace {

using hawser::errc;
using hawser::result;
using hawser::task;

task<int> value_of(int value) {
  co_return value;
}

task<std::unique_ptr<int>> owned(int value) {
  co_return std::make_unique<int>(value);
}

task<int> refuse() {
  hawser::failure(errc::refused, "peer").raise();
  co_return 0;
}

task<void> refuse_void() {
  hawser::failure(errc::refused, "peer").raise();
  co_return;
}

task<int> throw_else() {
  throw std::logic_error("else");
  co_return 0;
}

task<result<int>> of(task<int> inner) {
  auto got = co_await hawser::as_result(std::move(inner));
  co_return got;
}

task<result<void>> of(task<void> inner) {
  auto got = co_await hawser::as_result(std::move(inner));
  co_return got;
}

task<int> of_owned() {
  auto got = co_await hawser::as_result(owned(8));
  co_return **got;
}

task<result<int>> of_temporary(test::event& on) {
  auto got = co_await hawser::as_result(on.wait(3));
  co_return got;
}

task<result<int>> of_named(test::event& on) {
  auto wait = on.wait(4);
  auto got = co_await hawser::as_result(wait);
  co_return got;
}

// Counts what it throws.
class costly {
 public:
  explicit costly(int& thrown) : thrown_(thrown) {}
  [[nodiscard]] bool await_ready() const noexcept { return true; }
  void await_suspend(std::coroutine_handle<>) const noexcept {}
  void await_resume() const {
    ++thrown_;
    hawser::failure(errc::closed).raise();
  }
  [[nodiscard]] result<void> await_result() const { return hawser::failure(errc::closed); }

 private:
  int& thrown_;
};

task<result<void>> of_costly(int& thrown) {
  auto got = co_await hawser::as_result(costly(thrown));
  co_return got;
}

}  // namespace

TEST_SUITE("as_result") {
  TEST_CASE("a task gives its value or its system_error") {
    CHECK(*test::run_task(of(value_of(3))) == 3);
    CHECK(test::run_task(of_owned()) == 8);
    const auto failed = test::run_task(of(refuse()));
    REQUIRE_FALSE(failed);
    CHECK(failed.error().code() == errc::refused);
    CHECK(failed.error().detail() == "peer");
    CHECK(test::run_task(of(refuse_void())).error().code() == errc::refused);
  }

  TEST_CASE("what is no system_error passes through") {
    CHECK_THROWS_AS(static_cast<void>(test::run_task(of(throw_else()))), std::logic_error);
  }

  TEST_CASE("an operation that can say how it ended throws nothing") {
    int thrown = 0;

    const auto got = test::run_task(of_costly(thrown));

    CHECK(got.error().code() == errc::closed);
    CHECK(thrown == 0);
  }

  TEST_CASE("an operation may be a temporary or have a name") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<result<int>> first(here, of_temporary(gate));
    here.run();
    here.enter([&] { gate.set(); });
    here.run();
    test::pending<result<int>> second(here, of_named(gate));
    here.run();
    here.enter([&] { gate.set(); });
    here.run();

    CHECK(*first.get() == 3);
    CHECK(*second.get() == 4);
  }

  TEST_CASE("a cancelled operation gives errc::cancelled") {
    test::manual_executor here;
    test::event gate(here);
    hawser::stop_source stop;
    test::pending<result<int>> root(here, of_temporary(gate), stop.token());
    here.run();

    stop.request_stop();
    here.run();

    CHECK(root.get().error().code() == errc::cancelled);
    CHECK_FALSE(gate.awaited());
  }
}
