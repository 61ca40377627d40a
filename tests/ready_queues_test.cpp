// SPDX-License-Identifier: Apache-2.0
#include "exec/ready_queues.hpp"

#include <doctest/doctest.h>

#include <array>

namespace {

using hawser::detail::ready_queues;
using hawser::detail::work;

constexpr std::size_t control = 0;
constexpr std::size_t rpc = 1;
constexpr std::size_t bulk = 3;

struct item : work {
  item() noexcept : work([](work&) noexcept {}) {}
};

hawser::executor_config timing_all() {
  hawser::executor_config config;
  config.stats_sample = 1;
  return config;
}

}  // namespace

TEST_SUITE("ready_queues") {
  TEST_CASE("what moves to another priority leaves nothing behind") {
    ready_queues queues(timing_all());
    item bound, roaming;
    static_cast<void>(queues.push_bound(bound, bulk));
    queues.move(bulk, [](const work&) noexcept { return control; });
    CHECK(queues.waiting() == 1U << control);
    CHECK(queues.pop().item == &bound);
    CHECK(queues.pop().item == nullptr);

    static_cast<void>(queues.push_bound(bound, bulk));
    REQUIRE(queues.push_roaming(roaming, bulk));
    queues.move(bulk, [](const work&) noexcept { return control; });
    for (unsigned i = 0; i < 2; ++i) CHECK(queues.pop().at == control);
    CHECK(queues.pop().item == nullptr);
    CHECK(queues.empty());
  }

  TEST_CASE("bound and roaming take turns, and all is counted") {
    ready_queues queues(timing_all());
    std::array<item, 3> bound;
    std::array<item, 3> roaming;
    for (auto& each : bound) static_cast<void>(queues.push_bound(each, rpc));
    for (auto& each : roaming) REQUIRE(queues.push_roaming(each, rpc));
    CHECK(queues.depth(rpc) == 6);
    for (unsigned i = 0; i < 3; ++i) {
      CHECK(queues.pop().item == &bound[i]);
      CHECK(queues.pop().item == &roaming[i]);
    }
    CHECK(queues.pop().item == nullptr);
    CHECK(queues.depth(rpc) == 0);
    CHECK(queues.begun(rpc) == 6);
  }

  TEST_CASE("of many that are counted at once the first is timed, and an old one forgotten") {
    hawser::executor_config config;
    config.stats_sample = 3;
    ready_queues queues(config);
    std::array<item, 2> items;
    const auto count_both = [&] {
      hawser::detail::work_list both;
      for (auto& each : items) both.push(each);
      return queues.count_roaming(both, 2, rpc);
    };
    CHECK(count_both());  // the first of all is one of them
    queues.time_roaming(items[1], rpc);
    CHECK(queues.is_timing(rpc));
    CHECK_FALSE(count_both());  // it comes back: what was timed has run elsewhere
    CHECK_FALSE(queues.is_timing(rpc));
    CHECK(count_both());
    CHECK_FALSE(count_both());
  }

  TEST_CASE("one item of a priority is timed, until it is popped, moved, or comes back") {
    ready_queues queues(timing_all());
    item first, second;
    CHECK(queues.push_bound(first, rpc));
    queues.time_bound(first, rpc);
    CHECK(queues.push_bound(second, rpc));
    CHECK(queues.is_timing(rpc));
    CHECK(queues.pop().timed);
    CHECK(!queues.is_timing(rpc));
    CHECK(!queues.pop().timed);

    static_cast<void>(queues.push_bound(first, bulk));
    queues.time_bound(first, bulk);
    queues.move(bulk, [](const work&) noexcept { return rpc; });
    CHECK(!queues.is_timing(bulk));
    CHECK(!queues.pop().timed);

    CHECK(queues.count_roaming(first, rpc));
    queues.time_roaming(first, rpc);
    REQUIRE(queues.push_roaming(first, rpc));
    CHECK(queues.take_roaming(rpc) == &first);  // as a thief does
    CHECK(queues.is_timing(rpc));
    CHECK(queues.count_roaming(first, rpc));
    CHECK(!queues.is_timing(rpc));
  }
}
