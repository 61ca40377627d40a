// SPDX-License-Identifier: Apache-2.0
// Goal: whatever a network and the hosts on it do, links and everything below them keep their
// promises to applications: order within a lane, nothing twice, nothing lost that an orderly end
// covers, a cancelled send sends nothing and a cancelled recv loses nothing, true counts, every
// await ends, and nothing is left behind.
// Method: the library itself, unmodified, on a simulated platform: several hosts, each with its
// runtime, one clock, and faults. A seed that fails is run again, which must fail alike, and then
// what happened is told; HAWSER_TEST_SEED=N begins with it.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "sim/scenario.hpp"
#include "support/environment.hpp"

namespace {

// Minutes that HAWSER_SOAK_MINUTES asks for, beyond the usual seeds.
std::chrono::minutes soak() {
  return std::chrono::minutes(test::asked("HAWSER_SOAK_MINUTES", 0));
}

}  // namespace

TEST_SUITE("link_simulation") {
  TEST_CASE("links keep their promises on a simulated network") {
    constexpr std::uint64_t seeds = 500;
    const auto until = std::chrono::steady_clock::now() + soak();
    std::uint64_t tried = 0;
    for (; tried < seeds || std::chrono::steady_clock::now() < until; ++tried) {
      const std::uint64_t seed = test::seed() + tried;
      const std::string failure = sim::failure_of(seed, false);
      if (failure.empty()) continue;
      const std::string again = sim::failure_of(seed, true);
      FAIL_CHECK("seed " << seed << ": " << failure << "; HAWSER_TEST_SEED=" << seed
                         << " repeats it");
      CHECK(again == failure);
      break;
    }
    MESSAGE(tried << " seeds");
  }
}
