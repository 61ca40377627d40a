// SPDX-License-Identifier: Apache-2.0
#include "hawser/scope.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "hawser/hop.hpp"
#include "support/event.hpp"
#include "support/manual_executor.hpp"
#include "support/watchdog.hpp"

namespace {

using hawser::errc;
using hawser::priority;
using hawser::scope;
using hawser::task;
using hawser::with_scope;

task<void> wait_for(test::event& on) {
  const int value = co_await on.wait();
  static_cast<void>(value);
}

task<void> note(std::vector<int>& book, int what) {
  book.push_back(what);
  co_return;
}

task<void> note_urgency(std::vector<priority>& book) {
  const auto context = co_await hawser::this_task::context();
  book.push_back(context.urgency);
}

task<void> fail(const char* text) {
  throw std::runtime_error(text);
  co_return;
}

task<void> cancel_itself() {
  hawser::failure(errc::cancelled).raise();
  co_return;
}

task<void> fail_after(test::event& on, const char* text) {
  on.ignores_stop = true;
  const int value = co_await on.wait();
  static_cast<void>(value);
  throw std::runtime_error(text);
}

task<void> wait_holding(test::event& on, std::shared_ptr<int> /*held*/) {
  const int value = co_await on.wait();
  static_cast<void>(value);
}

task<int> spawn_all(scope& inside, std::vector<task<void>> children) {
  for (auto& each : children) inside.spawn(std::move(each));
  co_return 42;
}

task<void> serve_all(scope& inside, std::vector<task<void>> children) {
  for (auto& each : children) inside.serve(std::move(each));
  co_return;
}

template <class... T>
std::vector<task<void>> list(T... tasks) {
  std::vector<task<void>> all;
  (all.push_back(std::move(tasks)), ...);
  return all;
}

task<void> spawn_then_wait(scope& inside, task<void> child, test::event& on) {
  inside.spawn(std::move(child));
  const int value = co_await on.wait();
  static_cast<void>(value);
}

task<void> spawn_then_throw(scope& inside, task<void> child) {
  inside.spawn(std::move(child));
  throw std::logic_error("body");
  co_return;
}

task<void> stop_children(scope& inside, task<void> child, task<void> served) {
  inside.spawn(std::move(child));
  inside.serve(std::move(served));
  CHECK(inside.running() == 2);
  CHECK_FALSE(inside.token().stop_requested());
  inside.request_stop();
  CHECK(inside.token().stop_requested());
  co_return;
}

task<void> spawn_urgent(scope& inside, std::vector<priority>& book) {
  inside.spawn(note_urgency(book));
  inside.spawn(note_urgency(book), priority::control);
  inside.serve(note_urgency(book), priority::stream);
  co_return;
}

task<void> spawn_tree(scope& inside, int depth, int& count) {
  ++count;
  if (depth == 0) co_return;
  inside.spawn(spawn_tree(inside, depth - 1, count));
  inside.spawn(spawn_tree(inside, depth - 1, count));
}

task<int> no_scope(int value) {
  co_return value;
}

task<void> count_up(int& count) {
  ++count;
  co_return;
}

task<void> spawn_many(scope& inside, int& count, std::size_t& most) {
  for (int i = 0; i < 1000; ++i) {
    inside.serve(count_up(count));
    co_await hawser::this_task::yield();
    most = std::max(most, inside.running());
  }
}

task<void> bounce(hawser::detail::executor& one, hawser::detail::executor& two, scope& inside,
                  int depth, std::atomic<int>& count) {
  co_await hawser::detail::hop_to(depth % 2 == 0 ? one : two);
  count.fetch_add(1);
  if (depth == 0) co_return;
  inside.spawn(bounce(one, two, inside, depth - 1, count));
  inside.serve(bounce(one, two, inside, depth - 1, count));
}

task<void> bounce_all(scope& inside, hawser::detail::executor& one, hawser::detail::executor& two,
                      int depth, std::atomic<int>& count) {
  inside.spawn(bounce(one, two, inside, depth, count));
  co_return;
}

task<int> open_another(scope& /*outer*/) {
  co_return co_await with_scope(spawn_all, list(fail("inner")));
}

task<void> catch_in(task<int> inner, std::string& text) {
  try {
    const int value = co_await std::move(inner);
    static_cast<void>(value);
  } catch (const std::exception& error) {
    text = error.what();
  }
}

}  // namespace

TEST_SUITE("scope") {
  using namespace std::chrono_literals;

  TEST_CASE("with_scope completes with the value of its function when all children have ended") {
    test::manual_executor here;
    test::event gate(here);
    std::vector<int> book;
    test::pending<int> root(
        here, with_scope(spawn_all, list(note(book, 1), wait_for(gate), note(book, 2))));

    here.run();
    CHECK(book == std::vector<int>{1, 2});
    CHECK_FALSE(root.done());
    here.enter([&] { gate.set(); });
    here.run();

    CHECK(root.get() == 42);
  }

  TEST_CASE("the function may do without a scope, and may be a lambda with captures") {
    CHECK(test::run_task(with_scope(no_scope, 5)) == 5);
    int seen = 0;
    const auto body = [&seen, more = std::make_shared<int>(2)](scope&, int value) -> task<int> {
      co_await hawser::this_task::yield();
      seen = value + *more;
      co_return seen;
    };

    CHECK(test::run_task(with_scope(body, 3)) == 5);
  }

  TEST_CASE("the first failure of a spawned child cancels the rest and is thrown") {
    test::manual_executor here;
    test::event gate(here), other(here);
    test::pending<int> root(
        here, with_scope(spawn_all, list(wait_for(gate), fail("first"), fail("second"))));

    here.run();

    CHECK_THROWS_WITH_AS(root.get(), "first", std::runtime_error);
    CHECK_FALSE(gate.awaited());
  }

  TEST_CASE("a failure waits for children that ignore the stop request") {
    test::manual_executor here;
    test::event slow(here);
    test::pending<int> root(here,
                            with_scope(spawn_all, list(fail_after(slow, "late"), fail("first"))));

    here.run();
    CHECK_FALSE(root.done());
    here.enter([&] { slow.set(); });
    here.run();

    CHECK_THROWS_WITH_AS(root.get(), "first", std::runtime_error);
  }

  TEST_CASE("a failing child stops the function too") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<void> root(here, with_scope(spawn_then_wait, fail("child"), std::ref(gate)));

    here.run();

    CHECK_THROWS_WITH_AS(root.get(), "child", std::runtime_error);
  }

  TEST_CASE("a failing function cancels and joins its children") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<void> root(here, with_scope(spawn_then_throw, wait_for(gate)));

    here.run();

    CHECK_THROWS_WITH_AS(root.get(), "body", std::logic_error);
    CHECK_FALSE(gate.awaited());
  }

  TEST_CASE("a failure of serve is reported and siblings go on") {
    test::manual_executor here;
    test::event gate(here);
    test::pending<void> root(here, with_scope(serve_all, list(fail("client"), wait_for(gate))));

    here.run();
    CHECK(here.failures().size() == 1);
    CHECK_FALSE(root.done());
    here.enter([&] { gate.set(); });
    here.run();

    CHECK_NOTHROW(root.get());
  }

  TEST_CASE("errc::cancelled without a stop request is a failure like any other") {
    test::manual_executor here;
    test::pending<void> served(here, with_scope(serve_all, list(cancel_itself())));
    test::pending<int> spawned(here, with_scope(spawn_all, list(cancel_itself())));

    here.run();

    CHECK(here.failures().size() == 1);
    CHECK_NOTHROW(served.get());
    CHECK_THROWS_AS(spawned.get(), std::system_error);
  }

  TEST_CASE("after request_stop cancelled children are no failures") {
    test::manual_executor here;
    test::event one(here), two(here);
    test::pending<void> root(here, with_scope(stop_children, wait_for(one), wait_for(two)));

    here.run();

    CHECK_NOTHROW(root.get());
    CHECK(here.failures().empty());
  }

  TEST_CASE("a stop from around cancels the children, and the scope ends as cancelled") {
    test::manual_executor here;
    test::event one(here), two(here);
    hawser::stop_source stop;
    test::pending<int> spawned(here, with_scope(spawn_all, list(wait_for(one))), stop.token());
    test::pending<void> served(here, with_scope(serve_all, list(wait_for(two))), stop.token());
    here.run();

    stop.request_stop();
    here.run();

    CHECK_THROWS_AS(spawned.get(), std::system_error);
    CHECK_NOTHROW(served.get());
    CHECK(here.failures().empty());
  }

  TEST_CASE("a scope that is opened after the stop request cancels its children") {
    test::manual_executor here;
    test::event gate(here);
    hawser::stop_source stop;
    stop.request_stop();
    test::pending<int> root(here, with_scope(spawn_all, list(wait_for(gate))), stop.token());

    here.run();

    CHECK_THROWS_AS(root.get(), std::system_error);
  }

  TEST_CASE("children have the priority of the task around the scope, or their own") {
    test::manual_executor here;
    std::vector<priority> book;
    test::pending<void> root(here, with_scope(spawn_urgent, std::ref(book)), {}, priority::bulk);

    here.run();

    CHECK(book == std::vector<priority>{priority::bulk, priority::control, priority::stream});
  }

  TEST_CASE("a finished child is freed at once") {
    test::manual_executor here;
    test::event gate(here), other(here);
    auto held = std::make_shared<int>(1);
    test::pending<int> root(here,
                            with_scope(spawn_all, list(wait_holding(gate, held), wait_for(other))));
    here.run();
    CHECK(held.use_count() == 2);

    here.enter([&] { gate.set(); });
    here.run();

    CHECK(held.use_count() == 1);
    CHECK_FALSE(root.done());
    here.enter([&] { other.set(); });
    here.run();
    CHECK(root.get() == 42);
  }

  TEST_CASE("a scope can serve for ever without growing") {
    int count = 0;
    std::size_t most = 0;

    test::run_task(with_scope(spawn_many, std::ref(count), std::ref(most)));

    CHECK(count == 1000);
    CHECK(most <= 1);
  }

  TEST_CASE("children may spawn children, in any order") {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      test::manual_executor here(seed);
      int count = 0;
      test::pending<void> root(here, with_scope(spawn_tree, 6, std::ref(count)));

      here.run();

      CHECK(root.done());
      CHECK(count == 127);
    }
  }

  TEST_CASE("scopes nest, and the inner failure can be caught around it") {
    std::string text;

    test::run_task(catch_in(with_scope(open_another), text));

    CHECK(text == "inner");
  }

  // Goal: the join loses nothing. Method: two threads, children that change between them and spawn
  // from both; the root ends only if every child was counted exactly once.
  TEST_CASE("children end on different threads") {
    test::watchdog dog(60s);
    test::manual_executor one, two;
    for (int round = 0; round < 100; ++round) {
      std::atomic<int> count{0};
      test::pending<void> root(
          one,
          with_scope(bounce_all, std::ref(static_cast<hawser::detail::executor&>(one)),
                     std::ref(static_cast<hawser::detail::executor&>(two)), 6, std::ref(count)));
      {
        const test::executor_thread first(one), second(two);
        while (!root.done()) std::this_thread::yield();
      }
      CHECK_NOTHROW(root.get());
      CHECK(count.load() == 127);
    }
  }
}
