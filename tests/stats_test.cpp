// SPDX-License-Identifier: Apache-2.0
#include "hawser/stats.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "support/environment.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::wait_histogram;

wait_histogram histogram_of(const std::vector<std::uint64_t>& waits) {
  wait_histogram all;
  for (const auto each : waits) ++all.counts[wait_histogram::bucket_of(each)];
  return all;
}

}  // namespace

TEST_SUITE("stats") {
  TEST_CASE("a bucket ends at twice the end of the one before; the last is open") {
    CHECK(wait_histogram::bucket_of(0) == 0);
    CHECK(wait_histogram::bucket_of(63) == 0);
    for (std::size_t i = 1; i + 1 < wait_histogram::buckets; ++i) {
      const std::uint64_t end = std::uint64_t{64} << i;
      CHECK(wait_histogram::bucket_of(end / 2) == i);
      CHECK(wait_histogram::bucket_of(end - 1) == i);
    }
    CHECK(wait_histogram::bucket_of(std::uint64_t{1} << 32) == wait_histogram::buckets - 1);
    CHECK(wait_histogram::bucket_of(~std::uint64_t{0}) == wait_histogram::buckets - 1);
  }

  TEST_CASE("nothing measured: zero") {
    const wait_histogram none;
    CHECK(none.total() == 0);
    CHECK(none.percentile(0.5) == 0ns);
  }

  TEST_CASE("a percentile is the end of the bucket that it falls into") {
    std::vector<std::uint64_t> waits(98, 10);  // ends at 64 ns
    waits.push_back(1000);                     // ends at 1024 ns
    waits.push_back(100'000);                  // ends at 131 us
    const auto all = histogram_of(waits);

    CHECK(all.total() == 100);
    CHECK(all.percentile(0.0) == 64ns);
    CHECK(all.percentile(0.5) == 64ns);
    CHECK(all.percentile(0.98) == 64ns);
    CHECK(all.percentile(0.985) == 1024ns);
    CHECK(all.percentile(0.99) == 1024ns);
    CHECK(all.percentile(1.0) == 131'072ns);
    CHECK(all.percentile(-1.0) == 64ns);
    CHECK(all.percentile(7.0) == 131'072ns);
  }

  TEST_CASE("what is beyond the last bound has no upper end") {
    CHECK(histogram_of({std::uint64_t{1} << 40}).percentile(1.0) ==
          std::chrono::nanoseconds::max());
  }

  TEST_CASE("no percentile lies below the exact one, nor beyond twice it") {
    std::mt19937_64 random(test::seed());
    std::vector<std::uint64_t> waits(1000);
    for (auto& each : waits) each = (random() >> 40) + 64;
    const auto all = histogram_of(waits);
    std::sort(waits.begin(), waits.end());
    for (const std::size_t rank : {1U, 10U, 500U, 990U, 999U, 1000U}) {
      const auto exact = waits[rank - 1];
      const auto told = static_cast<std::uint64_t>(
          all.percentile((static_cast<double>(rank) - 0.5) / 1000).count());
      CHECK(told > exact);
      CHECK(told <= 2 * exact);
    }
  }

  TEST_CASE("histograms add up") {
    auto sum = histogram_of({1, 1, 1000});
    sum += histogram_of({1, 5000});
    CHECK(sum.total() == 5);
    CHECK(sum.counts[0] == 3);
    CHECK(sum.percentile(1.0) == 8192ns);
  }
}
