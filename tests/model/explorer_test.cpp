// SPDX-License-Identifier: Apache-2.0
#include "model/explorer.hpp"

#include <doctest/doctest.h>

#include <array>
#include <functional>
#include <set>
#include <utility>

// The checker checks itself: what memory models are known to allow must be found, and what they
// forbid must not.
namespace {

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;
constexpr auto seq_cst = std::memory_order_seq_cst;

using results = std::set<std::pair<int, int>>;

// Two or more threads, two variables, two results.
struct litmus : model::scenario {
  using body = std::function<void(litmus&)>;

  litmus(const std::vector<body>& bodies, results& seen) : bodies_(bodies), seen_(seen) {}
  void run(unsigned thread) override { bodies_[thread](*this); }
  void at_rest() override { seen_.insert({first, second}); }

  model::atomic<int> x{0};
  model::atomic<int> y{0};
  int first = 0;
  int second = 0;

 private:
  const std::vector<body>& bodies_;
  results& seen_;
};

results all_of(const std::vector<litmus::body>& bodies) {
  results seen;
  const auto done = model::explore(static_cast<unsigned>(bodies.size()),
                                   [&] { return std::make_unique<litmus>(bodies, seen); });
  CHECK(done.complete);
  CHECK(done.failure.empty());
  return seen;
}

results store_buffering(std::memory_order store, std::memory_order load) {
  return all_of({[=](litmus& l) { l.x.store(1, store), l.first = l.y.load(load); },
                 [=](litmus& l) { l.y.store(1, store), l.second = l.x.load(load); }});
}

results message_passing(std::memory_order store, std::memory_order load) {
  return all_of({[=](litmus& l) { l.x.store(1, relaxed), l.y.store(1, store); },
                 [=](litmus& l) { l.first = l.y.load(load), l.second = l.x.load(relaxed); }});
}

}  // namespace

TEST_SUITE("model") {
  TEST_CASE("stores wait in a buffer unless both sides are seq_cst") {
    const results all = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
    const results strict = {{0, 1}, {1, 0}, {1, 1}};
    CHECK(store_buffering(release, acquire) == all);
    CHECK(store_buffering(seq_cst, acquire) == all);
    CHECK(store_buffering(release, seq_cst) == all);
    CHECK(store_buffering(seq_cst, seq_cst) == strict);
  }

  TEST_CASE("a message is passed by release and acquire, and by nothing less") {
    const results all = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
    const results strict = {{0, 0}, {0, 1}, {1, 1}};
    CHECK(message_passing(relaxed, acquire) == all);
    CHECK(message_passing(release, relaxed) == all);
    CHECK(message_passing(release, acquire) == strict);
  }

  TEST_CASE("a read-modify-write continues a release, a store does not") {
    const auto with = [](auto middle) {
      return all_of({[](litmus& l) { l.x.store(1, relaxed), l.y.store(1, release); },
                     [=](litmus& l) { middle(l); },
                     [](litmus& l) {
                       l.first = l.y.load(acquire);
                       l.second = l.x.load(relaxed);
                     }});
    };
    CHECK(with([](litmus& l) { l.y.fetch_add(1, relaxed); }).count({2, 0}) == 0);
    CHECK(with([](litmus& l) { l.y.store(2, relaxed); }).count({2, 0}) == 1);
  }

  TEST_CASE("increments add up, and a load and a store in their place do not") {
    const auto twice = [](auto increment) {
      return all_of({increment, increment, [](litmus&) {}});
    };
    const auto value = [](litmus& l, int seen) { l.first += seen == 1 ? 1 : 0; };
    CHECK(twice([&](litmus& l) { value(l, l.x.fetch_add(1, relaxed)); }) == results{{1, 0}});
    CHECK(twice([&](litmus& l) {
            const int seen = l.x.load(seq_cst);
            l.x.store(seen + 1, seq_cst);
            value(l, seen);
          }) == results{{0, 0}, {1, 0}});
  }

  TEST_CASE("a thread never sees a location go back") {
    const auto seen =
        all_of({[](litmus& l) { l.x.store(1, relaxed), l.x.store(2, relaxed); },
                [](litmus& l) { l.first = l.x.load(relaxed), l.second = l.x.load(relaxed); }});
    CHECK(seen == results{{0, 0}, {0, 1}, {0, 2}, {1, 1}, {1, 2}, {2, 2}});
  }

  TEST_CASE("a compare_exchange sees the last value") {
    const auto seen = all_of({[](litmus& l) { l.x.store(1, relaxed), l.x.store(2, relaxed); },
                              [](litmus& l) {
                                l.second = 2;
                                l.first =
                                    l.x.compare_exchange_strong(l.second, 3, relaxed, relaxed);
                              }});
    CHECK(seen == results{{0, 0}, {0, 1}, {1, 2}});
  }

  TEST_CASE("the number of interleavings is that of the orders that matter") {
    const std::vector<litmus::body> apart = {[](litmus& l) { l.x.fetch_add(1, relaxed); },
                                             [](litmus& l) { l.y.fetch_add(1, relaxed); }};
    const std::vector<litmus::body> together = {
        [](litmus& l) { l.x.fetch_add(1, relaxed), l.x.fetch_add(1, relaxed); },
        [](litmus& l) { l.x.fetch_add(1, relaxed), l.x.fetch_add(1, relaxed); }};
    const auto count = [](const auto& bodies) {
      results seen;
      return model::explore(2, [&] { return std::make_unique<litmus>(bodies, seen); }).executions;
    };
    CHECK(count(apart) == 1);
    CHECK(count(together) == 6);
  }

  TEST_CASE("a sleeper whom nobody wakes is found, with the way there") {
    struct forgetful : model::scenario {
      void run(unsigned thread) override {
        if (thread == 0) {
          if (flag.load(seq_cst) == 0) door.wait();
          awake = true;
        } else {
          flag.store(1, seq_cst);
        }
      }
      void at_rest() override { model::require(awake, "the sleeper was forgotten"); }
      model::atomic<int> flag{0};
      model::event door;
      bool awake = false;
    };
    const auto found = model::explore(2, [] { return std::make_unique<forgetful>(); });
    CHECK(found.failure.find("the sleeper was forgotten") == 0);
    CHECK(found.failure.find("thread 0 has not ended") != std::string::npos);
    CHECK(found.failure.find("load seq_cst, saw 0") != std::string::npos);
  }

  TEST_CASE("a loop without end is found") {
    struct spinning : model::scenario {
      void run(unsigned) override {
        while (flag.load(seq_cst) == 0) {
        }
      }
      void at_rest() override {}
      model::atomic<int> flag{0};
    };
    const auto found = model::explore(1, [] { return std::make_unique<spinning>(); });
    CHECK(found.failure.find("it goes on for ever") == 0);
  }
}
