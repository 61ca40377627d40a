// SPDX-License-Identifier: Apache-2.0
#include "exec/spin_budget.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "os/platform.hpp"
#include "support/child.hpp"
#include "support/pool.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::clock;
using hawser::spin_policy;
using hawser::detail::spin_budget;
using nanoseconds = std::chrono::nanoseconds;
using mode = spin_policy::mode;

constexpr spin_policy adaptive{mode::adaptive, 10us};

// A worker that waits, with a clock of its own.
struct waiter {
  explicit waiter(const spin_policy& policy) : budget(policy) {}

  // A wait of that length, after which `run` passes; true: it was spun for to its end.
  bool wait(nanoseconds length, nanoseconds run = 1us) {
    const auto spin = budget.next();
    const bool paid = spin >= length;
    if (paid) {
      budget.found(length);
    } else {
      if (spin > 0ns) budget.missed(spin);
      budget.slept(length);
    }
    spun += std::min(spin, length);
    now += length + run;
    return paid;
  }

  spin_budget budget;
  clock::time_point now{1h};
  nanoseconds spun{};
};

// Posts that go back and forth between the first workers of two runtimes.
class ping_pong {
 public:
  explicit ping_pong(const hawser::executor_config& config) : left_(config), right_(config) {}

  void run(unsigned rounds) {
    left_count_ = rounds;
    done_ = std::promise<void>();
    send();
    done_.get_future().wait();
  }
  struct spins {
    std::uint64_t paid = 0, in_vain = 0;
  };
  [[nodiscard]] spins spun() const {
    spins sum;
    for (const auto* each : {&left_, &right_}) {
      const auto stats = each->stats().workers[0];
      sum.paid += stats.spins_paid;
      sum.in_vain += stats.spins - std::min(stats.spins, stats.spins_paid);
    }
    return sum;
  }

 private:
  void send() {
    test::post_to(right_.core().worker(0), [this] {
      test::post_to(left_.core().worker(0), [this] {
        if (--left_count_ == 0) {
          done_.set_value();
        } else {
          send();
        }
      });
    });
  }

  hawser::runtime left_, right_;
  unsigned left_count_ = 0;
  std::promise<void> done_;
};

// Spinning is counted, not timed: how often it was tried in vain, at four limits each, of the time
// that passed. So other load on the machine can only make the share smaller. Where it pays it may
// go on: with half a core to be had the two still run side by side for as long as the quota lasts,
// and each time that it ends under one of them the other looks in vain, which is worth it while ten
// looks have paid for each such one.
void check_that_spinning_fades() {
  auto config = test::config(1);
  ping_pong pair(config);
  constexpr unsigned rounds = 20'000;
  pair.run(rounds);
  const auto before = pair.spun();
  const auto start = clock::now();
  pair.run(rounds);
  const auto passed = clock::now() - start;
  const auto after = pair.spun();
  const auto in_vain = after.in_vain - before.in_vain;
  const auto paid = after.paid - before.paid;
  std::cout << "spun in vain " << in_vain << " times, paid " << paid << " times in "
            << passed.count() / 1000 << " us, in vain before that " << before.in_vain << std::endl;

  // Two workers, each of which may spend 1/128 of the time.
  const auto unpaid = in_vain - std::min(in_vain, paid / 10);
  CHECK(unpaid * 4 * config.spin.limit <= passed * 3 / 100 * 2);
}

// A control group in which half a core is to be had.
class half_a_core {
 public:
  half_a_core() {
    namespace fs = std::filesystem;
    const auto name = "hawser-test-" + std::to_string(clock::now().time_since_epoch().count());
    std::error_code error;
    if (fs::exists("/sys/fs/cgroup/cgroup.controllers")) {
      folder_ = "/sys/fs/cgroup/" + name;
      if (fs::create_directory(folder_, error)) made_ = write("cpu.max", "10000 20000");
    } else if (fs::create_directory("/sys/fs/cgroup/cpu/" + name, error)) {
      folder_ = "/sys/fs/cgroup/cpu/" + name;
      made_ = write("cpu.cfs_period_us", "20000") && write("cpu.cfs_quota_us", "10000");
    }
  }
  ~half_a_core() {
    std::error_code error;
    if (!folder_.empty()) std::filesystem::remove(folder_, error);
  }
  half_a_core(const half_a_core&) = delete;
  half_a_core& operator=(const half_a_core&) = delete;

  [[nodiscard]] bool made() const noexcept { return made_; }
  [[nodiscard]] std::string procs() const { return folder_ + "/cgroup.procs"; }

 private:
  bool write(const char* name, const char* text) const {
    std::ofstream file(folder_ + "/" + name);
    file << text << std::flush;
    return static_cast<bool>(file);
  }

  std::string folder_;
  bool made_ = false;
};

}  // namespace

TEST_SUITE("spin") {
  TEST_CASE("waits that end within the limit are always spun for") {
    waiter each(adaptive);
    for (unsigned i = 0; i < 10'000; ++i) CHECK(each.wait(i % 2 == 0 ? 2us : 9us));
  }

  TEST_CASE("waits that never end in time cost less than one per cent") {
    for (const auto length : {50us, 200us, 3000us}) {
      waiter each(adaptive);
      for (unsigned i = 0; i < 1000; ++i) each.wait(length);
      const auto start = each.now;
      each.spun = {};
      for (unsigned i = 0; i < 20'000; ++i) each.wait(length);
      CHECK(each.spun * 100 < each.now - start);
    }
  }

  TEST_CASE("at first there is enough to find out, not more than 16 limits and a wait") {
    waiter each(adaptive);
    for (unsigned i = 0; i < 100; ++i) each.wait(500us);
    CHECK(each.spun >= 10us);
    CHECK(each.spun <= 16 * 10us + 5 * 10us);
    CHECK(each.budget.next() == 0ns);
  }

  TEST_CASE("it recovers once waits are short again, later each time that they were not for long") {
    waiter each(adaptive);
    unsigned longest = 0;
    for (unsigned round = 0; round < 3; ++round) {
      for (unsigned i = 0; i < 1000; ++i) each.wait(100us);
      REQUIRE(each.budget.next() == 0ns);

      unsigned missed = 0;
      while (!each.wait(3us)) ++missed;
      CHECK(missed > longest);
      longest = missed;
    }
    CHECK(longest <= 256);
    for (unsigned i = 0; i < 1000; ++i) CHECK(each.wait(3us));
  }

  TEST_CASE("waits that stay short make it forget, and so does a long one") {
    waiter each(adaptive);
    const auto misses = [&each] {
      for (unsigned i = 0; i < 1000; ++i) each.wait(100us);
      unsigned missed = 0;
      while (!each.wait(3us)) ++missed;
      return missed;
    };
    const unsigned first = misses();
    for (unsigned i = 0; i < 1000; ++i) each.wait(3us);
    CHECK(misses() == first);
    for (unsigned i = 0; i < 1000; ++i) each.wait(100us);
    each.wait(2s);
    CHECK(each.wait(3us));
  }

  TEST_CASE("fixed spinning is always the limit, off is none, and adjust() changes over") {
    spin_budget budget({mode::fixed, 20us});
    for (unsigned i = 0; i < 1000; ++i) {
      CHECK(budget.next() == 20us);
      budget.missed(20us);
    }
    budget.adjust({mode::off, 20us});
    CHECK(budget.next() == 0ns);
    budget.adjust(adaptive);
    CHECK(budget.next() > 0ns);
  }

  TEST_CASE("without spinning no worker spins, and adjust() makes it") {
    const test::watchdog dog(60s);
    auto config = test::config(1);
    config.spin = {mode::off, 10us};
    const auto runtime = test::make_runtime(config);
    if (!runtime) return;
    auto& only = runtime->core().worker(0);
    for (unsigned i = 0; i < 50; ++i) test::run_on(only, [] {});
    CHECK(runtime->stats().workers[0].spins == 0);
    CHECK(runtime->stats().workers[0].spin_ns == 0);

    hawser::runtime::adjustment change;
    change.spin = spin_policy{mode::fixed, 1us};
    runtime->adjust(change);
    test::run_on(only, [] {});
    test::wait_until([&] { return runtime->stats().workers[0].spins > 0; });
  }

  TEST_CASE("a timer that ends while its worker spins is not put off by the sleep after it") {
    const test::watchdog dog(60s);
    auto config = test::config(1);
    config.spin = {mode::fixed, 10ms};
    const auto runtime = test::make_runtime(config);
    if (!runtime) return;
    auto& only = runtime->core().worker(0);
    struct alarm : hawser::detail::timer {
      alarm() : timer([](timer& self) noexcept { static_cast<alarm&>(self).rang.set_value(); }) {}
      std::promise<void> rang;
    };
    for (unsigned i = 0; i < 20; ++i) {
      alarm each;
      std::uint64_t parks = 0;
      test::run_on(only, [&] { only.arm(each, only.now() + 2ms); });
      parks = runtime->stats().workers[0].parks;
      each.rang.get_future().wait();
      test::run_on(only, [] {});
      CHECK(runtime->stats().workers[0].parks <= parks + 2);
    }
  }

  TEST_CASE("a timer that comes due while its worker looks was not looked for in vain") {
    const test::watchdog dog(60s);
    for (const auto how : {mode::adaptive, mode::fixed}) {
      auto config = test::config(1);
      config.spin = {how, 10ms};
      const auto runtime = test::make_runtime(config);
      if (!runtime) return;
      auto& only = runtime->core().worker(0);
      struct clockwork : hawser::detail::timer {
        explicit clockwork(hawser::detail::worker& on)
            : timer([](timer& self) noexcept { static_cast<clockwork&>(self).tick(); }), home(on) {}
        void tick() {
          if (ticks-- == 0) return done.set_value();
          home.arm(*this, home.now() + 1ms);
        }
        hawser::detail::worker& home;
        unsigned ticks = 100;
        std::promise<void> done;
      };
      clockwork each(only);
      test::run_on(only, [&] { each.tick(); });
      const auto before = runtime->stats().workers[0];
      each.done.get_future().wait();
      const auto after = runtime->stats().workers[0];
      CHECK(after.parks <= before.parks + 3);
      CHECK(after.spins_paid >= before.spins_paid + 90);
    }
  }

  // Posts between two workers of one process on cores of their own find each other spinning. How
  // often depends on who else uses the cores, so what is checked holds always.
  TEST_CASE("what finds its target spinning pays, and never costs more than it was tried") {
    const test::watchdog dog(60s);
    if (hawser::platform::usable_cores() < 2) return test::skip("one core");
    const auto runtime = test::make_runtime(test::config(2));
    if (!runtime) return;
    auto& core = runtime->core();
    std::promise<void> done;
    struct ball {
      hawser::detail::runtime_core& core;
      std::promise<void>& done;
      unsigned left;
      void operator()() {
        if (left == 0) return done.set_value();
        test::post_to(core.worker(left % 2), ball{core, done, left - 1});
      }
    };
    test::post_to(core.worker(0), ball{core, done, 50'000});
    done.get_future().wait();

    const auto stats = runtime->stats();
    std::uint64_t spins = 0, paid = 0;
    for (const auto& each : stats.workers) {
      spins += each.spins;
      paid += each.spins_paid;
    }
    std::cout << "spins " << spins << ", paid " << paid << std::endl;
    CHECK(paid <= spins);
    CHECK(spins > 0);
  }

  TEST_CASE("on one core spinning fades to nothing") {
    const test::watchdog dog(120s);
    const auto core = hawser::platform::usable_core_list().front();
    if (!test::make_runtime(test::config(1))) return;
    const auto child = test::run_child("taskset -c " + std::to_string(core), "spinning fades");
    if (child.status == 127) return test::skip("taskset is missing");
    CHECK_MESSAGE(child.status == 0, child.output);
    std::cout << child.output;
  }

  TEST_CASE("under a quota of half a core spinning fades to nothing") {
    const test::watchdog dog(120s);
    if (!test::make_runtime(test::config(1))) return;
    const half_a_core group;
    if (!group.made()) return test::skip("no control group with a quota can be made");
    const auto child = test::run_child(
        "sh -c 'echo $$ > " + group.procs() + " && exec \"$0\" \"$@\"'", "spinning fades");
    CHECK_MESSAGE(child.status == 0, child.output);
    std::cout << child.output;
  }

  TEST_CASE("child: spinning fades" * doctest::skip()) {
    check_that_spinning_fades();
  }
}
