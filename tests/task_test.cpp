// SPDX-License-Identifier: Apache-2.0
#include "hawser/task.hpp"

#include <doctest/doctest.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/sanitizer.hpp"
#include "support/manual_executor.hpp"

namespace {

using hawser::task;

task<int> value_of(int value) {
  co_return value;
}

task<int> sum_to(int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) {
    const int one = co_await value_of(1);
    sum += one;
  }
  co_return sum;
}

task<void> fail() {
  throw std::runtime_error("broken");
  co_return;
}

task<void> fail_inside() {
  co_await fail();
}

task<std::unique_ptr<int>> move_only(std::unique_ptr<int> given) {
  co_return given;
}

task<void> hold(std::shared_ptr<int> /*held*/) {
  co_return;
}

task<int> nested(int depth) {
  if (depth == 0) co_return 0;
  const int below = co_await nested(depth - 1);
  co_return below + 1;
}

}  // namespace

TEST_SUITE("task") {
  TEST_CASE("a task yields its value") {
    CHECK(test::run_task(value_of(3)) == 3);
    CHECK(*test::run_task(move_only(std::make_unique<int>(4))) == 4);
  }

  TEST_CASE("a task does nothing until it is awaited, and frees what it holds") {
    auto held = std::make_shared<int>(1);
    {
      const task<void> idle = hold(held);
      CHECK(held.use_count() == 2);
    }
    CHECK(held.use_count() == 1);
  }

  TEST_CASE("an exception comes out of the await") {
    CHECK_THROWS_WITH_AS(test::run_task(fail_inside()), "broken", std::runtime_error);
  }

  TEST_CASE("a million awaits in a loop need no stack") {
    CHECK(test::run_task(sum_to(1'000'000)) == 1'000'000);
  }

  TEST_CASE("ten thousand tasks may await each other") {
    CHECK(test::run_task(nested(10'000)) == 10'000);
  }

  TEST_CASE("a frame is recycled by the thread that frees it") {
    if (hawser::detail::sanitized) return;  // by design it is not
    void* const first = hawser::detail::allocate_frame(200);
    hawser::detail::release_frame(first, 200);

    void* const again = hawser::detail::allocate_frame(220);  // the same class

    CHECK(again == first);
    hawser::detail::release_frame(again, 220);
  }

  // Goal: nothing is lost or used twice when frames of all sizes end on another thread, more of
  // them than its cache keeps. Method: the sanitizers' leak check, and memory that is written.
  TEST_CASE("frames end on other threads") {
    std::vector<std::pair<void*, std::size_t>> frames;
    for (std::size_t i = 1; i < 20'000; ++i) {
      const std::size_t bytes = i % 5000 + 1;
      void* const frame = hawser::detail::allocate_frame(bytes);
      static_cast<unsigned char*>(frame)[bytes - 1] = 1;
      frames.emplace_back(frame, bytes);
    }

    std::thread other([&] {
      for (const auto& [frame, bytes] : frames) hawser::detail::release_frame(frame, bytes);
    });
    other.join();
  }
}
