// SPDX-License-Identifier: Apache-2.0
#include "hawser/this_task.hpp"

#include <doctest/doctest.h>

#include <system_error>
#include <vector>

#include "hawser/as_result.hpp"
#include "hawser/hop.hpp"
#include "support/manual_executor.hpp"

namespace {

using hawser::errc;
using hawser::result;
using hawser::task;
using namespace std::chrono_literals;
namespace this_task = hawser::this_task;

task<hawser::priority> urgency() {
  const auto context = co_await this_task::context();
  co_return context.urgency;
}

task<bool> stopped() {
  const auto token = co_await this_task::stop();
  co_return token.stop_requested();
}

task<void> doze(hawser::clock::duration length) {
  co_await this_task::sleep_for(length);
}

task<void> doze_until(hawser::clock::time_point end) {
  co_await this_task::sleep_until(end);
}

task<result<void>> try_sleep(hawser::clock::duration length) {
  auto got = co_await hawser::as_result(this_task::sleep_for(length));
  co_return got;
}

task<void> take_turns(std::vector<int>& book, int who) {
  for (int i = 0; i < 3; ++i) {
    book.push_back(who);
    co_await this_task::yield();
  }
}

task<void> yield_for_ever() {
  for (;;) co_await this_task::yield();
}

task<std::vector<hawser::detail::executor*>> travel(hawser::detail::executor& there,
                                                    hawser::detail::executor& home) {
  std::vector<hawser::detail::executor*> seen;
  seen.push_back(hawser::detail::executor::current());
  co_await hawser::detail::hop_to(there);
  seen.push_back(hawser::detail::executor::current());
  co_await hawser::detail::hop_to(there);
  co_await hawser::detail::hop_to(home);
  seen.push_back(hawser::detail::executor::current());
  co_return seen;
}

}  // namespace

TEST_SUITE("this_task") {
  TEST_CASE("a task knows its priority and its stop token") {
    test::manual_executor here;
    hawser::stop_source stop;
    stop.request_stop();
    test::pending<hawser::priority> one(here, urgency(), {}, hawser::priority::bulk);
    test::pending<bool> two(here, stopped(), stop.token());
    test::pending<bool> three(here, stopped());

    here.run();

    CHECK(one.get() == hawser::priority::bulk);
    CHECK(two.get());
    CHECK_FALSE(three.get());
  }

  TEST_CASE("sleep_for lasts as long as it says") {
    test::manual_executor here;
    test::pending<void> root(here, doze(10ms));

    here.advance(9ms);
    CHECK_FALSE(root.done());
    here.advance(1ms);

    CHECK(root.done());
    CHECK_NOTHROW(root.get());
  }

  TEST_CASE("a sleep of nothing, of less, and until the past ends at once") {
    test::manual_executor here;
    test::pending<void> one(here, doze(0ms));
    test::pending<void> two(here, doze(-1h));
    test::pending<void> three(here, doze_until(here.now() - 1ms));

    here.advance(0ms);

    CHECK(one.done());
    CHECK(two.done());
    CHECK(three.done());
  }

  TEST_CASE("a sleep of the longest duration does not overflow") {
    test::manual_executor here;
    hawser::stop_source stop;
    test::pending<void> root(here, doze(hawser::clock::duration::max()), stop.token());
    here.advance(1h);
    CHECK_FALSE(root.done());

    stop.request_stop();
    here.run();

    CHECK_THROWS_AS(root.get(), std::system_error);
    CHECK(here.armed() == 0);
  }

  TEST_CASE("sleep ends as cancelled, before and during it") {
    test::manual_executor here;
    hawser::stop_source stop;
    test::pending<result<void>> during(here, try_sleep(1h), stop.token());
    here.run();

    stop.request_stop();
    test::pending<result<void>> before(here, try_sleep(1h), stop.token());
    here.run();

    CHECK(during.get().error().code() == errc::cancelled);
    CHECK(before.get().error().code() == errc::cancelled);
    CHECK(here.armed() == 0);
  }

  TEST_CASE("yield lets the others go first") {
    test::manual_executor here;
    std::vector<int> book;
    test::pending<void> one(here, take_turns(book, 1));
    test::pending<void> two(here, take_turns(book, 2));

    here.run();

    CHECK(book == std::vector<int>{1, 2, 1, 2, 1, 2});
  }

  TEST_CASE("yield ends as cancelled, so that a loop can be stopped") {
    test::manual_executor here;
    hawser::stop_source stop;
    test::pending<void> root(here, yield_for_ever(), stop.token());
    for (int i = 0; i < 10; ++i) here.run_one();
    CHECK_FALSE(root.done());

    stop.request_stop();
    here.run();

    CHECK_THROWS_AS(root.get(), std::system_error);
  }

  TEST_CASE("hop_to changes the executor, and does nothing on the right one") {
    test::manual_executor here, there;
    test::pending<std::vector<hawser::detail::executor*>> root(here, travel(there, here));

    CHECK(here.run() == 1);
    CHECK(there.run() == 1);
    CHECK(here.run() == 1);

    CHECK(root.get() == std::vector<hawser::detail::executor*>{&here, &there, &here});
  }
}
