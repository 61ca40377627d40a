// SPDX-License-Identifier: Apache-2.0
// Goal: a server that restarts under many links is not run over when it comes back.
// Method: 500 links of default options that survive, on one simulated client; the server crashes,
// is away for a while, and starts anew. When each link is open again is known to the microsecond.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "hawser/driven_runtime.hpp"
#include "hawser/hawser.hpp"
#include "sim/world.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::task;
using condition = hawser::link::condition;

constexpr std::size_t links = 500;
constexpr auto bucket = 100ms;

class restart {
 public:
  explicit restart(std::uint64_t seed) : world_(seed, sim::habits{}) {
    options_.survive = 10min;
    options_.channels = 1;
  }

  void run(std::chrono::milliseconds away) {
    boot_server();
    const unsigned client = world_.boot(config());
    for (std::size_t i = 0; i < links; ++i) hawser::start(world_.runtime(client), watch());
    REQUIRE(world_.run_until([&] { return open_ == links; }, world_.now() + 1min));
    world_.crash(server_, false);
    const auto crashed = world_.now();
    world_.at(crashed + away, [this] { boot_server(); });
    REQUIRE(world_.run_until([&] { return open_again_.size() == links; }, crashed + 10min));
    world_.shut_down(client);
    world_.shut_down(server_);
  }
  /// The most links that were open again within the same 100 ms.
  [[nodiscard]] std::size_t busiest() const {
    std::map<std::int64_t, std::size_t> counts;
    for (const auto each : open_again_) ++counts[each.time_since_epoch() / bucket];
    return std::ranges::max_element(counts, {}, [](const auto& each) { return each.second; })
        ->second;
  }
  [[nodiscard]] std::chrono::milliseconds longest() const {
    const auto [first, last] = std::ranges::minmax(open_again_);
    return std::chrono::duration_cast<std::chrono::milliseconds>(last - first);
  }

 private:
  static hawser::executor_config config() {
    hawser::executor_config made;
    made.shutdown_deadline = 1s;
    return made;
  }
  void boot_server() {
    server_ = world_.boot(config());
    hawser::listen_options options;
    options.link = options_;
    options.max_links_per_user = 2 * links;
    hawser::start(world_.runtime(server_),
                  serve(hawser::listen(world_.runtime(server_), "unix:/sim/server", options)));
  }
  static task<void> serve(hawser::listener listener) {
    std::vector<hawser::link> held;
    for (;;) {
      auto next = co_await hawser::as_result(listener.accept());
      if (!next.has_value()) co_return;
      held.push_back(std::move(*next));
    }
  }
  task<void> watch() {
    const auto link = co_await hawser::connect("unix:/sim/server", options_);
    auto status = co_await link.changed();
    ++open_;
    while (status.connections < 2 || status.now != condition::open) {
      status = co_await link.changed(status);
    }
    open_again_.push_back(world_.now());
    static_cast<void>(co_await hawser::as_result(link.ended()));
  }

  hawser::link_options options_;
  unsigned server_ = 0;
  std::size_t open_ = 0;
  std::vector<sim::time> open_again_;
  sim::world world_;  // ends first
};

}  // namespace

TEST_SUITE("stampede") {
  TEST_CASE("no 100 ms see more than a tenth of the links come back, however long it was away") {
    constexpr std::array absences{10ms, 1000ms, 5000ms, 60'000ms};
    for (const auto away : absences) {
      restart one(1);  // what holds by chance is shown by one draw, not by a new one each time
      one.run(away);
      MESSAGE("away for " << away.count() << " ms: at most " << one.busiest()
                          << " links in 100 ms, all within " << one.longest().count() << " ms");
      CHECK(one.busiest() <= links / 10);
    }
  }
}
