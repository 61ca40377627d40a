// SPDX-License-Identifier: Apache-2.0
#include "exec/dispatcher.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <optional>
#include <random>
#include <string_view>
#include <vector>

#include "support/environment.hpp"
#include "support/manual_executor.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::dispatch_policy;
using hawser::executor_config;
using hawser::longest_wait;
using hawser::priority;
using hawser::priority_count;
using hawser::detail::dispatcher;

constexpr std::array all_priorities{priority::control, priority::rpc, priority::stream,
                                    priority::bulk};
constexpr unsigned all_waiting = 0b1111;

constexpr unsigned index(priority of) {
  return static_cast<unsigned>(of);
}
constexpr unsigned bit(priority of) {
  return 1U << index(of);
}

// Jobs of an executor with a dispatcher. A job spends `run_time()`, then is gone, or queues itself
// again if its priority is backlogged. Counts how many others run while a priority waits.
class load {
 public:
  explicit load(const executor_config& config) : config_(config), here_(dispatcher(config)) {}
  ~load() {
    backlogged_.fill(false);
    while (run_one()) {
    }
  }
  load(const load&) = delete;
  load& operator=(const load&) = delete;

  void post(priority urgency) {
    jobs_.emplace_back(*this, urgency);
    queue(jobs_.back());
  }
  /// `count` jobs that never end.
  void flood(priority urgency, unsigned count = 1) {
    backlogged_[index(urgency)] = true;
    for (unsigned i = 0; i < count; ++i) post(urgency);
  }
  void stop_flood(priority urgency) { backlogged_[index(urgency)] = false; }

  bool run_one() { return here_.run_one(); }
  /// What ran in the next `count` dispatches.
  std::array<unsigned, priority_count> run(unsigned count) {
    std::array<unsigned, priority_count> ran{};
    for (unsigned i = 0; i < count && run_one(); ++i) ++ran[index(here_.last_urgency())];
    return ran;
  }
  [[nodiscard]] priority last() const { return here_.last_urgency(); }
  [[nodiscard]] bool waits(priority urgency) const { return waiting_[index(urgency)] != 0; }
  [[nodiscard]] std::uint64_t longest(priority urgency) const { return longest_[index(urgency)]; }
  [[nodiscard]] bool within_bounds() const {
    return std::all_of(all_priorities.begin(), all_priorities.end(), [this](priority each) {
      const auto bound = longest_wait(config_, each);
      return !bound || longest(each) <= *bound;
    });
  }
  void adjust(const dispatcher::weights& weights) {
    here_.chooser().adjust(weights);
    config_.weights = weights;
  }

  std::function<std::chrono::nanoseconds(priority)> run_time = [](priority) { return 0ns; };
  std::array<std::chrono::nanoseconds, priority_count> spent{};

 private:
  struct job : hawser::detail::work {
    job(load& in, priority level) : work(&run_job), owner(in), urgency(level) {}
    static void run_job(work& self) noexcept {
      auto& ran = static_cast<job&>(self);
      ran.owner.on_run(ran);
    }
    load& owner;
    priority urgency;
  };

  void queue(job& queued) {
    if (waiting_[index(queued.urgency)]++ == 0) waited_[index(queued.urgency)] = 0;
    here_.post(queued, queued.urgency);
  }
  void on_run(job& ran) {
    const auto self = index(ran.urgency);
    for (unsigned i = 0; i < priority_count; ++i) {
      if (i != self && waiting_[i] != 0) longest_[i] = std::max(longest_[i], ++waited_[i]);
    }
    --waiting_[self];
    waited_[self] = 0;
    const auto time = run_time(ran.urgency);
    here_.spend(time);
    spent[self] += time;
    if (backlogged_[self]) queue(ran);
  }

  executor_config config_;
  test::manual_executor here_;
  std::deque<job> jobs_;
  std::array<bool, priority_count> backlogged_{};
  std::array<unsigned, priority_count> waiting_{};
  std::array<std::uint64_t, priority_count> waited_{}, longest_{};
};

executor_config config_of(dispatch_policy policy) {
  executor_config config;
  config.policy = policy;
  return config;
}

executor_config random_config(std::mt19937_64& random) {
  executor_config config;
  config.policy = random() % 2 == 0 ? dispatch_policy::fair_time : dispatch_policy::weighted;
  const unsigned most = random() % 2 == 0 ? 10 : 1000;
  for (auto& weight : config.weights) weight = 1 + static_cast<unsigned>(random() % most);
  config.poll_interval = std::chrono::microseconds(10 + random() % 200);
  return config;
}

// Short, ordinary, and beyond all that is charged.
std::chrono::nanoseconds random_time(std::mt19937_64& random) {
  constexpr std::array<std::uint64_t, 4> most{1, 2000, 100'000, 10'000'000};
  return std::chrono::nanoseconds(random() % most[random() % most.size()]);
}

}  // namespace

TEST_SUITE("dispatcher") {
  TEST_CASE("one that waits alone runs, whatever it owes") {
    for (const auto policy :
         {dispatch_policy::fair_time, dispatch_policy::weighted, dispatch_policy::strict}) {
      dispatcher chooser(config_of(policy));
      for (unsigned round = 0; round < 100; ++round) {
        for (unsigned each = 0; each < priority_count; ++each) {
          CHECK(chooser.pick(1U << each) == each);
          chooser.charge(each, 1'000'000'000);
        }
      }
    }
  }

  TEST_CASE("only fair_time measures") {
    CHECK(dispatcher(config_of(dispatch_policy::fair_time)).measures());
    CHECK_FALSE(dispatcher(config_of(dispatch_policy::weighted)).measures());
    CHECK_FALSE(dispatcher(config_of(dispatch_policy::strict)).measures());
  }

  TEST_CASE("strict: the most urgent always") {
    load all(config_of(dispatch_policy::strict));
    all.run_time = [](priority) { return 1ms; };
    for (const auto each : all_priorities) all.flood(each);
    CHECK(all.run(1000)[index(priority::control)] == 1000);
    all.stop_flood(priority::control);
    static_cast<void>(all.run(1));
    CHECK(all.run(1000)[index(priority::rpc)] == 1000);
  }

  TEST_CASE("weighted: dispatches as the weights say, however long they take") {
    load all(config_of(dispatch_policy::weighted));
    all.run_time = [](priority urgency) { return urgency == priority::bulk ? 1ms + 0us : 1us; };
    for (const auto each : all_priorities) all.flood(each);

    CHECK(all.run(15 * 100) == std::array<unsigned, 4>{800, 400, 200, 100});
  }

  TEST_CASE("fair_time: run time as the weights say, however it is cut") {
    load all(config_of(dispatch_policy::fair_time));
    all.run_time = [](priority urgency) { return urgency == priority::bulk ? 50us : 3us; };
    for (const auto each : all_priorities) all.flood(each);
    static_cast<void>(all.run(100'000));

    const auto bulk = static_cast<double>(all.spent[index(priority::bulk)].count());
    CHECK(static_cast<double>(all.spent[0].count()) / bulk == doctest::Approx(8).epsilon(0.01));
    CHECK(static_cast<double>(all.spent[1].count()) / bulk == doctest::Approx(4).epsilon(0.01));
    CHECK(static_cast<double>(all.spent[2].count()) / bulk == doctest::Approx(2).epsilon(0.01));
  }

  TEST_CASE("fair_time: a dispatch that was not measured counts as the least") {
    dispatcher chooser(config_of(dispatch_policy::fair_time));
    std::array<unsigned, 4> picked{};
    for (unsigned i = 0; i < 15 * 100; ++i) ++picked[chooser.pick(all_waiting)];
    CHECK(picked == std::array<unsigned, 4>{800, 400, 200, 100});
  }

  TEST_CASE("an urgent item that comes alone runs next, however deep the backlog of bulk") {
    std::mt19937_64 random(test::seed());
    for (const auto policy :
         {dispatch_policy::fair_time, dispatch_policy::weighted, dispatch_policy::strict}) {
      load all(config_of(policy));
      all.run_time = [&](priority urgency) {
        const auto least = urgency == priority::bulk ? 50'000 : 0;
        return std::chrono::nanoseconds(least + random() % 10'000);
      };
      all.flood(priority::bulk, 20);
      for (unsigned i = 0; i < 2000; ++i) {
        REQUIRE(all.run(1)[index(priority::bulk)] == 1);
        const auto urgent = all_priorities[random() % 3];
        all.post(urgent);
        REQUIRE(all.run_one());
        REQUIRE(all.last() == urgent);
      }
    }
  }

  TEST_CASE("of several that come at once the most urgent is first") {
    load all(executor_config{});
    all.run_time = [](priority) { return 50us; };
    all.flood(priority::bulk);
    static_cast<void>(all.run(100));
    for (const auto each : {priority::stream, priority::rpc, priority::control}) all.post(each);
    for (const auto each : {priority::control, priority::rpc, priority::stream, priority::bulk}) {
      REQUIRE(all.run_one());
      CHECK(all.last() == each);
    }
  }

  TEST_CASE("idling earns nothing: after any pause the shares are the same") {
    load all(config_of(dispatch_policy::weighted));
    all.flood(priority::bulk);
    static_cast<void>(all.run(100'000));
    all.flood(priority::rpc);
    const auto ran = all.run(500);
    CHECK(ran[index(priority::bulk)] >= 99);
  }

  TEST_CASE("the bounds that the tuning guide tells") {
    using bounds = std::array<std::optional<std::uint64_t>, priority_count>;
    const auto bounds_of = [](std::string_view text) {
      const auto config = executor_config::parse(text);
      bounds found;
      for (const auto each : all_priorities) found[index(each)] = longest_wait(config, each);
      return found;
    };
    CHECK(bounds_of("") == bounds{175, 551, 1302, 2803});
    CHECK(bounds_of("poll_interval=50us") == bounds{45, 139, 327, 703});
    CHECK(bounds_of("policy=weighted") == bounds{3, 5, 9, 17});
    CHECK(bounds_of("policy=weighted weights=1") == bounds{3, 4, 5, 6});
    CHECK(bounds_of("policy=strict") == bounds{0, std::nullopt, std::nullopt, std::nullopt});
  }

  TEST_CASE("a bound takes zeros for defaults, as the runtime does") {
    executor_config zeros;
    zeros.weights = {};
    zeros.poll_interval = 0us;
    for (const auto each : all_priorities) {
      CHECK(longest_wait(zeros, each) == longest_wait(executor_config{}, each));
    }
  }

  // Goal: whatever comes and however long it runs, none that waits is passed by more dispatches
  // than longest_wait(). Method: random weights, run times and arrivals; a priority is flooded,
  // comes in bursts or is silent, and that changes all the time.
  TEST_CASE("no priority waits for longer than its bound") {
    for (std::uint64_t round = 0; round < 60; ++round) {
      std::mt19937_64 random(test::seed() + round);
      load all(random_config(random));
      all.run_time = [&](priority) { return random_time(random); };
      all.flood(priority::bulk, 3);
      std::array<unsigned, priority_count> chance{};
      for (unsigned step = 0; step < 5000; ++step) {
        if (step % 64 == 0) {
          for (auto& each : chance) each = static_cast<unsigned>(random() % 4);
        }
        for (const auto each : all_priorities) {
          const bool comes = random() % 4 < chance[index(each)];
          if (comes && !all.waits(each)) all.post(each);
        }
        static_cast<void>(all.run_one());
      }
      REQUIRE_MESSAGE(all.within_bounds(), "seed " << test::seed() << ", round " << round);
    }
  }

  // Goal: the bound is no larger than need be. Method: the worst that can befall a priority: it
  // ran for as long as is charged, then all others flood it with the shortest of tasks.
  TEST_CASE("an adversary comes close to every bound, and not beyond") {
    std::mt19937_64 random(test::seed());
    for (unsigned round = 0; round < 50; ++round) {
      const auto config = random_config(random);
      for (const auto victim : all_priorities) {
        load all(config);
        all.run_time = [&](priority urgency) { return urgency == victim ? 10ms : 0ns; };
        all.flood(victim);
        REQUIRE(all.run_one());
        for (const auto each : all_priorities) {
          if (each != victim) all.flood(each);
        }
        const auto bound = longest_wait(config, victim).value();
        for (std::uint64_t i = 0; i <= bound; ++i) REQUIRE(all.run_one());
        CHECK(all.longest(victim) <= bound);
        CHECK(all.longest(victim) >= bound - bound / 4);
      }
    }
  }

  TEST_CASE("new weights hold from the next dispatch on, and so do their bounds") {
    load all(config_of(dispatch_policy::weighted));
    all.flood(priority::rpc);
    all.flood(priority::bulk);
    CHECK(all.run(500)[index(priority::bulk)] == 100);
    all.adjust({1, 10, 1, 10});
    CHECK(all.run(500)[index(priority::bulk)] == 250);
    all.adjust({1, 1, 1, 9});
    CHECK(all.run(500)[index(priority::bulk)] == 450);

    load timed(executor_config{});
    timed.run_time = [](priority) { return 100us; };
    timed.flood(priority::rpc);
    timed.flood(priority::bulk);
    CHECK(timed.run(500)[index(priority::bulk)] == 100);
    timed.adjust({1, 10, 1, 10});
    CHECK(timed.run(500)[index(priority::bulk)] == 250);
  }

  TEST_CASE("new weights forget what has run, so that their bounds hold at once") {
    executor_config config;
    config.weights = {1000, 1000, 1000, 1};
    load all(config);
    all.run_time = [](priority urgency) { return urgency == priority::bulk ? 10ms : 0ns; };
    all.flood(priority::bulk);
    REQUIRE(all.run_one());
    all.adjust({1000, 1000, 1000, 1000});
    for (const auto each : {priority::control, priority::rpc, priority::stream}) all.flood(each);
    static_cast<void>(all.run(2000));
    CHECK(all.within_bounds());
  }

  TEST_CASE("strict stays strict when the weights change") {
    dispatcher chooser(config_of(dispatch_policy::strict));
    chooser.adjust({1, 1, 1, 1000});
    for (unsigned i = 0; i < 100; ++i) CHECK(chooser.pick(all_waiting) == 0);
    CHECK_FALSE(chooser.longest_wait(priority::bulk).has_value());
  }

  TEST_CASE("weights beyond the range count as the nearest in it") {
    dispatcher chooser(dispatch_policy::weighted, {0, ~0U, 1, 1000}, 0us);
    dispatcher clamped(dispatch_policy::weighted, {1, 1000, 1, 1000}, 0us);
    for (unsigned i = 0; i < 10'000; ++i) {
      REQUIRE(chooser.pick(all_waiting) == clamped.pick(all_waiting));
    }
  }

  // At weight 1 and with the highest cost a dispatch, virtual time wraps after 88 000 of them.
  TEST_CASE("it goes on for ever") {
    executor_config config;
    config.weights = {1, 1, 1, 1};
    config.poll_interval = 100ms;
    dispatcher chooser(config);
    constexpr std::uint64_t run_time = 100'000'000;
    for (unsigned i = 0; i < 300'000; ++i) {
      REQUIRE(chooser.pick(bit(priority::bulk)) == index(priority::bulk));
      chooser.charge(index(priority::bulk), run_time);
      if (i % 1000 != 0) continue;
      const auto urgent = all_priorities[(i / 1000) % 3];
      REQUIRE(chooser.pick(bit(urgent) | bit(priority::bulk)) == index(urgent));
      chooser.charge(index(urgent), 1);
    }
    std::array<std::uint64_t, priority_count> picked{};
    for (unsigned i = 0; i < 400'000; ++i) {
      const auto chosen = chooser.pick(all_waiting);
      chooser.charge(chosen, run_time);
      ++picked[chosen];
    }
    for (const auto each : picked) CHECK(each == doctest::Approx(100'000).epsilon(0.001));
  }
}
