// SPDX-License-Identifier: Apache-2.0
#include "exec/steal_deque.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <latch>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "support/environment.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::detail::work;

struct item : work {
  item() : work([](work&) noexcept {}) {}
  int payload = 0;  // not atomic: a sanitizer sees whether its hand-over is ordered
  std::atomic<int> runs{0};
};

void run(work* taken) {
  if (taken == nullptr) return;
  auto& known = static_cast<item&>(*taken);
  known.runs.fetch_add(++known.payload);
}

template <std::size_t Capacity>
unsigned fill(hawser::detail::steal_deque<Capacity>& deque, std::vector<item>& items) {
  unsigned count = 0;
  while (count < items.size() && deque.push(items[count])) ++count;
  return count;
}

// The owner pushes `count` items, and takes some itself, from either end; thieves empty the deque.
template <std::size_t Capacity>
void stress(std::uint64_t seed, unsigned thieves, unsigned count) {
  using deque = hawser::detail::steal_deque<Capacity>;
  const test::watchdog guard(60s);
  const auto items = std::make_unique<item[]>(count);
  const auto shared = std::make_unique<deque>();
  std::atomic<bool> over{false};
  std::latch ready(thieves + 1);

  std::vector<std::thread> others;
  for (unsigned i = 0; i < thieves; ++i) {
    others.emplace_back([&, i] {
      const auto own = std::make_unique<deque>();
      std::minstd_rand random(static_cast<unsigned>(seed + i));
      ready.arrive_and_wait();
      while (!over.load() || !shared->empty()) {
        if (random() % 2 == 0) {
          run(shared->take());
          continue;
        }
        run(own->steal_half(*shared).item);
        while (auto* const mine = own->take()) run(mine);
      }
    });
  }
  std::minstd_rand random(static_cast<unsigned>(seed));
  ready.arrive_and_wait();
  for (unsigned i = 0; i < count; ++i) {
    if (!shared->push(items[i])) {
      run(&items[i]);
    } else if (random() % 4 == 0) {
      if (shared->take_back(items[i])) run(&items[i]);
    } else if (random() % 4 == 0) {
      run(shared->take());
    }
  }
  over.store(true);
  for (auto& thread : others) thread.join();

  unsigned wrong = 0;
  for (unsigned i = 0; i < count; ++i) wrong += items[i].runs.load() == 1 ? 0 : 1;
  CHECK(wrong == 0);
  CHECK(shared->size() == 0);
}

}  // namespace

TEST_SUITE("steal_deque") {
  TEST_CASE("take gives the items in the order of the pushes, and null when there are none") {
    hawser::detail::steal_deque<4> deque;
    std::vector<item> items(3);
    CHECK(deque.take() == nullptr);
    CHECK(fill(deque, items) == 3);

    CHECK(deque.size() == 3);
    for (auto& each : items) CHECK(deque.take() == &each);
    CHECK(deque.take() == nullptr);
    CHECK(deque.empty());
  }

  TEST_CASE("push returns false when the deque is full, and there is room again after a take") {
    hawser::detail::steal_deque<4> deque;
    std::vector<item> items(6);
    CHECK(fill(deque, items) == 4);
    CHECK(!deque.push(items[4]));

    CHECK(deque.take() == &items[0]);
    CHECK(deque.push(items[4]));
    CHECK(!deque.push(items[5]));
    for (unsigned i = 1; i < 5; ++i) CHECK(deque.take() == &items[i]);
  }

  TEST_CASE("take_back gives the newest only, and leaves all as it was otherwise") {
    hawser::detail::steal_deque<4> deque;
    std::vector<item> items(3);
    CHECK(!deque.take_back(items[0]));
    fill(deque, items);

    CHECK(!deque.take_back(items[1]));
    CHECK(deque.size() == 3);
    CHECK(deque.take_back(items[2]));
    CHECK(!deque.take_back(items[2]));
    CHECK(deque.take_back(items[1]));
    CHECK(deque.take() == &items[0]);
    CHECK(!deque.take_back(items[0]));
  }

  TEST_CASE("the indices go around the ring and beyond what they count to") {
    hawser::detail::steal_deque<2> deque;
    std::vector<item> items(2);
    for (unsigned i = 0; i < 200'000; ++i) {
      const bool pushed = deque.push(items[i % 2]);
      const bool same = deque.take() == &items[i % 2];
      if (!pushed || !same) FAIL("at " << i);
    }
    CHECK(deque.empty());
  }

  TEST_CASE(
      "steal_half takes the older half, one of it to be run, up to the limit and to the room") {
    using deque = hawser::detail::steal_deque<128>;
    const auto victim = std::make_unique<deque>();
    const auto thief = std::make_unique<deque>();
    std::vector<item> items(100);
    CHECK(thief->steal_half(*victim).item == nullptr);
    for (unsigned i = 0; i < 5; ++i) CHECK(victim->push(items[i]));

    const auto half = thief->steal_half(*victim);
    CHECK(half.item == &items[0]);
    CHECK(half.count == 3);
    CHECK(victim->size() == 2);
    CHECK(thief->take() == &items[1]);
    CHECK(thief->take() == &items[2]);

    for (unsigned i = 5; i < 100; ++i) CHECK(victim->push(items[i]));
    CHECK(thief->steal_half(*victim).count == deque::steal_most);
    CHECK(thief->size() == deque::steal_most - 1);

    hawser::detail::steal_deque<2> full;
    hawser::detail::steal_deque<2> other;
    CHECK(full.push(items[0]));
    CHECK(full.push(items[1]));
    CHECK(other.push(items[2]));
    CHECK(other.push(items[3]));
    CHECK(full.steal_half(other).count == 1);
    CHECK(full.size() == 2);
    CHECK(other.size() == 1);
  }

  TEST_CASE("each item runs once, whatever owner and thieves do, in the smallest of rings") {
    for (unsigned round = 0; round < 3; ++round) {
      INFO("round " << round << ", seed " << test::seed());
      stress<2>(test::seed() + round, 2, 100'000);
      stress<4>(test::seed() + round, 3, 100'000);
      stress<256>(test::seed() + round, 2, 100'000);
    }
  }
}
