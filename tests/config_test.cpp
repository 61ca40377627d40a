// SPDX-License-Identifier: Apache-2.0
#include "exec/config.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "hawser/errc.hpp"
#include "os/platform.hpp"
#include "support/environment.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::executor_config;
using hawser::pinning;
using hawser::priority;
using hawser::spin_policy;
using hawser::detail::adjusted;
using hawser::detail::checked;
using mode = spin_policy::mode;

// What can be said in text; the rest has no equality.
auto values_of(const executor_config& of) {
  return std::tie(of.threads, of.backend, of.pin, of.cpus, of.spin, of.policy, of.weights,
                  of.max_workers, of.steal, of.queue_limit, of.on_full, of.poll_interval,
                  of.blocking_threads, of.blocking_queue, of.stall_threshold, of.stats_sample,
                  of.shutdown_deadline);
}

template <class F>
std::string fault_of(F&& action) {
  try {
    action();
  } catch (const std::system_error& error) {
    CHECK(error.code() == hawser::errc::bad_config);
    return hawser::failure(error).detail();
  }
  return "no error";
}

std::string fault_of_text(std::string_view text) {
  return fault_of([text] { static_cast<void>(executor_config::parse(text)); });
}

std::string fault_of_config(const executor_config& config) {
  return fault_of([&] { static_cast<void>(checked(config)); });
}

// Sets a variable while it lives. The tests of this suite run on one thread.
class variable {
 public:
  variable(std::string name, const char* value) : name_(std::move(name)) {
    ::setenv(name_.c_str(), value, 1);
  }
  ~variable() { ::unsetenv(name_.c_str()); }
  variable(const variable&) = delete;
  variable& operator=(const variable&) = delete;

 private:
  std::string name_;
};

executor_config random_config(std::mt19937_64& random) {
  const auto from = [&](std::uint64_t low, std::uint64_t high) {
    return static_cast<unsigned>(low + random() % (high - low + 1));
  };
  const auto often = [&] { return random() % 2 == 0; };
  executor_config config;
  if (often()) config.threads = from(0, 1024);
  if (often()) config.backend = static_cast<hawser::backend>(from(0, 2));
  if (often()) config.pin = static_cast<pinning>(from(0, 2));
  if (config.pin == pinning::list) {
    for (unsigned i = from(1, 5); i > 0; --i) config.cpus.push_back(from(0, 5000));
  }
  if (often()) config.spin.how = static_cast<mode>(from(0, 2));
  if (config.spin.how != mode::off && often()) {
    config.spin.limit = std::chrono::nanoseconds(from(100, 10'000'000));
  }
  if (often()) config.policy = static_cast<hawser::dispatch_policy>(from(0, 2));
  for (auto& each : config.weights) each = often() ? each : from(0, 1000);
  for (auto& each : config.max_workers) each = often() ? each : from(0, 1024);
  config.steal = often();
  for (auto& each : config.queue_limit) each = often() ? each : from(0, 1U << 24);
  if (often()) config.on_full = hawser::overflow::reject;
  if (often()) config.poll_interval = std::chrono::microseconds(from(10, 100'000));
  if (often()) config.blocking_threads = from(0, 1024);
  if (often()) config.blocking_queue = from(0, 1U << 20);
  if (often()) config.stall_threshold = std::chrono::milliseconds(from(1, 3'600'000));
  if (often()) config.stats_sample = from(0, 65'536);
  if (often()) config.shutdown_deadline = std::chrono::milliseconds(from(1, 86'400'000));
  return config;
}

std::vector<std::string> field_names() {
  std::vector<std::string> names;
  for (const auto& each : hawser::detail::config_fields()) names.emplace_back(each.name);
  return names;
}

}  // namespace

TEST_SUITE("config") {
  TEST_CASE("the default configuration is valid, and nothing has to be said about it") {
    const auto config = checked({});
    CHECK(config.threads == hawser::detail::default_threads());
    CHECK(to_string(executor_config{}).empty());
    CHECK(values_of(executor_config::parse("")) == values_of(executor_config{}));
    CHECK(values_of(executor_config::parse(" \t\n ")) == values_of(executor_config{}));
  }

  TEST_CASE("zeros mean the defaults") {
    executor_config zeros;
    zeros.threads = 3;
    zeros.spin.limit = 0ns;
    zeros.weights = {0, 7, 0, 0};
    zeros.queue_limit = {};
    zeros.poll_interval = 0us;
    zeros.blocking_threads = zeros.blocking_queue = zeros.stats_sample = 0;
    zeros.stall_threshold = zeros.shutdown_deadline = 0ms;
    executor_config expected;
    expected.threads = 3;
    expected.weights = {64, 7, 16, 8};
    CHECK(values_of(checked(zeros)) == values_of(expected));
  }

  TEST_CASE("every field out of range is an error that names field, value and range") {
    const auto core = hawser::platform::usable_core_list().front();
    const auto expect = [](auto change, const std::string& text) {
      executor_config config;
      config.threads = 4;
      change(config);
      CHECK(fault_of_config(config) == "executor_config::" + text);
    };
    expect([](executor_config& c) { c.threads = 1025; }, "threads is 1025, must be 1..1024");
    expect([](executor_config& c) { c.backend = static_cast<hawser::backend>(3); },
           "backend is 3, must be automatic|io_uring|asio");
    expect([](executor_config& c) { c.pin = static_cast<pinning>(3); },
           "pin is 3, must be none|cores|cores by number as in 0,2,4");
    expect([](executor_config& c) { c.spin.how = static_cast<mode>(3); },
           "spin is 3, must be off|100ns..10ms|adaptive|adaptive:100ns..10ms");
    for (const auto how : {mode::adaptive, mode::off}) {
      expect(
          [how](executor_config& c) {
            c.spin = {how, 99ns};
          },
          (how == mode::off ? std::string("spin is off:99ns") : "spin is adaptive:99ns") +
              ", must be off|100ns..10ms|adaptive|adaptive:100ns..10ms");
    }
    expect(
        [](executor_config& c) {
          c.spin = {mode::fixed, 11ms};
        },
        "spin is 11ms, must be off|100ns..10ms|adaptive|adaptive:100ns..10ms");
    expect([](executor_config& c) { c.policy = static_cast<hawser::dispatch_policy>(7); },
           "policy is 7, must be fair_time|weighted|strict");
    expect([](executor_config& c) { c.weights[2] = 1001; },
           "weights is 64:32:1001:8, must be 1..1000, one number or control:rpc:stream:bulk");
    expect([](executor_config& c) { c.max_workers[3] = 1025; },
           "max_workers is 0:0:0:1025, must be 0..1024, one number or control:rpc:stream:bulk");
    expect([](executor_config& c) { c.max_workers[3] = 5; },
           "max_workers is 5, must be 0..4, the number of threads; 0 means all");
    expect([](executor_config& c) { c.queue_limit[0] = (1 << 24) + 1; },
           "queue_limit is 16777217:65536:65536:65536, must be 1..16777216, one number or "
           "control:rpc:stream:bulk");
    expect([](executor_config& c) { c.on_full = static_cast<hawser::overflow>(2); },
           "on_full is 2, must be wait|reject");
    expect([](executor_config& c) { c.poll_interval = 9us; },
           "poll_interval is 9us, must be 10us..100ms in whole us");
    expect([](executor_config& c) { c.poll_interval = 101ms; },
           "poll_interval is 101ms, must be 10us..100ms in whole us");
    expect([](executor_config& c) { c.blocking_threads = 2000; },
           "blocking_threads is 2000, must be 1..1024");
    expect([](executor_config& c) { c.blocking_queue = (1 << 20) + 1; },
           "blocking_queue is 1048577, must be 1..1048576");
    expect([](executor_config& c) { c.stall_threshold = -1ms; },
           "stall_threshold is -1ms, must be 1ms..3600s in whole ms");
    expect([](executor_config& c) { c.stall_threshold = 3601s; },
           "stall_threshold is 3601s, must be 1ms..3600s in whole ms");
    expect([](executor_config& c) { c.stats_sample = 65'537; },
           "stats_sample is 65537, must be 1..65536");
    expect([](executor_config& c) { c.shutdown_deadline = std::chrono::milliseconds::min(); },
           "shutdown_deadline is -9223372036854775808ms, must be 1ms..86400s in whole ms");

    const auto usable = fault_of([] {
      executor_config config;
      config.pin = pinning::list;
      static_cast<void>(checked(config));
    });
    CHECK(usable.starts_with("executor_config::cpus is empty, must be cores of " +
                             std::to_string(core)));
    expect([core](executor_config& c) { c.cpus = {core}; },
           "cpus is " + std::to_string(core) + ", must be empty unless pin is pinning::list");
    executor_config foreign;
    foreign.pin = pinning::list;
    foreign.cpus = {core, 60'000};
    CHECK(fault_of_config(foreign).starts_with(
        "executor_config::cpus is 60000, must be of the cores this process may use: " +
        std::to_string(core)));
    foreign.cpus.pop_back();
    CHECK(checked(foreign).cpus == std::vector<unsigned>{core});
  }

  TEST_CASE("each end of every range is accepted") {
    for (const char* text :
         {"threads=1 spin=100ns weights=1 queue_limit=1 poll_interval=10us blocking_threads=1 "
          "blocking_queue=1 stall_threshold=1ms stats_sample=1 shutdown_deadline=1ms",
          "threads=1024 spin=adaptive:10ms weights=1000 max_workers=1024 queue_limit=16777216 "
          "poll_interval=100ms blocking_threads=1024 blocking_queue=1048576 "
          "stall_threshold=3600s stats_sample=65536 shutdown_deadline=86400s"}) {
      const auto config = executor_config::parse(text);
      CHECK(values_of(checked(config)) == values_of(config));
    }
  }

  TEST_CASE("what can change while it runs is checked as at the start") {
    executor_config config;
    config.threads = 2;
    config = checked(config);
    hawser::runtime::adjustment change;
    CHECK(values_of(adjusted(config, change)) == values_of(config));

    change.spin = spin_policy{mode::fixed, 20us};
    change.weights = {{5, 0, 6, 7}};
    change.max_workers = {{0, 0, 2, 1}};
    const auto changed = adjusted(config, change);
    CHECK(changed.spin == spin_policy{mode::fixed, 20us});
    CHECK(changed.weights == std::array<unsigned, 4>{5, 32, 6, 7});
    CHECK(changed.max_workers == std::array<unsigned, 4>{0, 0, 2, 1});
    CHECK(changed.threads == 2);

    const auto fault_of_change = [&](const hawser::runtime::adjustment& wrong) {
      return fault_of([&] { static_cast<void>(adjusted(config, wrong)); });
    };
    CHECK(fault_of_change({.spin = spin_policy{mode::fixed, 1s}, .weights = {}, .max_workers = {}})
              .starts_with("executor_config::spin is 1s, must be"));
    CHECK(fault_of_change({.spin = {}, .weights = {{1, 2, 3, 2000}}, .max_workers = {}})
              .starts_with("executor_config::weights is 1:2:3:2000, must be"));
    CHECK(fault_of_change({.spin = {}, .weights = {}, .max_workers = {{0, 0, 0, 3}}}) ==
          "executor_config::max_workers is 3, must be 0..2, the number of threads; 0 means all");
  }

  TEST_CASE("the text forms") {
    const auto config = executor_config::parse(
        "threads=4 backend=asio  pin=0,2,4 spin=20us\tpolicy=weighted weights=1:2:3:4\n"
        "max_workers=0:0:0:1 steal=off queue_limit=100 on_full=reject poll_interval=1ms "
        "blocking_threads=8 blocking_queue=16 stall_threshold=2s stats_sample=1 "
        "shutdown_deadline=1500ms");
    executor_config expected;
    expected.threads = 4;
    expected.backend = hawser::backend::asio;
    expected.pin = pinning::list;
    expected.cpus = {0, 2, 4};
    expected.spin = {mode::fixed, 20us};
    expected.policy = hawser::dispatch_policy::weighted;
    expected.weights = {1, 2, 3, 4};
    expected.max_workers = {0, 0, 0, 1};
    expected.steal = false;
    expected.queue_limit = {100, 100, 100, 100};
    expected.on_full = hawser::overflow::reject;
    expected.poll_interval = 1000us;
    expected.blocking_threads = 8;
    expected.blocking_queue = 16;
    expected.stall_threshold = 2000ms;
    expected.stats_sample = 1;
    expected.shutdown_deadline = 1500ms;
    CHECK(values_of(config) == values_of(expected));

    const auto spin = [](std::string_view text) { return executor_config::parse(text).spin; };
    CHECK(spin("spin=off") == spin_policy{mode::off, spin_policy{}.limit});
    CHECK(spin("spin=500ns") == spin_policy{mode::fixed, 500ns});
    CHECK(spin("spin=adaptive") == spin_policy{});
    CHECK(spin("spin=adaptive:1ms") == spin_policy{mode::adaptive, 1ms});
    CHECK(executor_config::parse("pin=cores").pin == pinning::cores);
    CHECK(executor_config::parse("pin=7").cpus == std::vector<unsigned>{7});
    CHECK(executor_config::parse("backend=io_uring").backend == hawser::backend::io_uring);
    CHECK(executor_config::parse("policy=strict").policy == hawser::dispatch_policy::strict);
    CHECK(executor_config::parse("poll_interval=0 stall_threshold=0ms").poll_interval == 0us);
  }

  TEST_CASE("text goes over the base, and what code alone can give stays") {
    executor_config base;
    base.threads = 3;
    base.pin = pinning::list;
    base.cpus = {1};
    base.weights = {9, 9, 9, 9};
    unsigned calls = 0;
    base.log = [&](const hawser::log_event&) { ++calls; };
    base.hooks.thread_start = [&](unsigned) { ++calls; };

    const auto changed = executor_config::parse("threads=5 pin=none", base);
    CHECK(changed.threads == 5);
    CHECK(changed.cpus.empty());
    CHECK(changed.weights == base.weights);
    auto preset = executor_config::parse("shared_host", base);
    CHECK(values_of(preset) == values_of(executor_config::shared_host()));
    preset.log({});
    preset.hooks.thread_start(0);
    CHECK(calls == 2);
  }

  TEST_CASE("presets are valid, differ from each other, and can be changed") {
    std::vector<std::string> texts;
    for (const auto* name : {"low_latency", "throughput", "shared_host"}) {
      const auto config = executor_config::parse(name);
      CHECK_NOTHROW(static_cast<void>(checked(config)));
      texts.push_back(to_string(config));
      CHECK(values_of(executor_config::parse(texts.back())) == values_of(config));
    }
    CHECK(texts[0] == "pin=cores spin=100us poll_interval=50us");
    CHECK(texts[1] == "poll_interval=1ms");
    CHECK(texts[2].ends_with(" spin=off max_workers=0:0:0:1"));
    CHECK(executor_config::shared_host().threads ==
          std::max(hawser::detail::default_threads() / 2, 1U));

    const auto changed = executor_config::parse("low_latency threads=2 spin=50us");
    CHECK(changed.threads == 2);
    CHECK(changed.pin == pinning::cores);
    CHECK(changed.spin == spin_policy{mode::fixed, 50us});
  }

  TEST_CASE("any valid configuration survives its text") {
    std::mt19937_64 random(test::seed());
    for (unsigned i = 0; i < 3000; ++i) {
      const auto config = random_config(random);
      const auto text = to_string(config);
      const auto back = executor_config::parse(text);
      REQUIRE_MESSAGE(values_of(back) == values_of(config),
                      "seed " << test::seed() << ": " << text);
      REQUIRE(to_string(back) == text);
    }
  }

  TEST_CASE("of a spin that is off no limit is told") {
    executor_config config;
    config.spin = {mode::off, 50us};
    CHECK(to_string(config) == "spin=off");
  }

  TEST_CASE("every bad text is an error that names field, value and range") {
    const std::vector<std::pair<std::string, std::vector<std::string>>> bad = {
        {"threads", {"", "x", "-1", "4x", "1.5", "1025", "99999999999999999999", "1:2"}},
        {"backend", {"", "epoll", "0", "ASIO"}},
        {"pin", {"", "all", "0,", ",0", "0;1", "-1", "list"}},
        {"spin",
         {"", "on", "0", "20", "99ns", "11ms", "20 us", "adaptive:", "adaptive:off", "adaptive:1s",
          "off:20us", "fixed:20us", "20usec", "us"}},
        {"policy", {"", "fair", "1"}},
        {"weights", {"", "1:2:3", "1:2:3:4:5", "1:2:3:1001", "a:b:c:d", "1:2:3:", "1,2,3,4"}},
        {"max_workers", {"", "1025", "1:1", "-1"}},
        {"steal", {"", "yes", "1", "true"}},
        {"queue_limit", {"", "16777217", "1:2", "64k"}},
        {"on_full", {"", "drop", "0"}},
        {"poll_interval", {"", "200", "9us", "101ms", "10500ns", "1m", "99999999999999999999s"}},
        {"blocking_threads", {"", "1025", "4 "}},
        {"blocking_queue", {"", "1048577"}},
        {"stall_threshold", {"", "999us", "3601s", "1h", "-1ms", "9223372036854775807s"}},
        {"stats_sample", {"", "65537", "1%"}},
        {"shutdown_deadline", {"", "1us", "86401s", "ms"}},
    };
    std::vector<std::string> covered;
    for (const auto& [name, values] : bad) covered.push_back(name);
    CHECK(covered == field_names());
    const auto fields = hawser::detail::config_fields();
    for (std::size_t i = 0; i < bad.size(); ++i) {
      for (const std::string& value : bad[i].second) {
        // A space ends the value; what follows is then no field.
        if (value.find(' ') != std::string::npos) continue;
        CHECK(fault_of_text(bad[i].first + "=" + value) ==
              "executor_config::" + bad[i].first + " is " + (value.empty() ? "empty" : value) +
                  ", must be " + fields[i].accepted());
      }
    }
  }

  TEST_CASE("unknown, doubled and misplaced words are errors that say what is known") {
    const auto unknown = fault_of_text("thread=4");
    CHECK(unknown.starts_with("executor_config has no field 'thread', it has threads, backend,"));
    for (const auto& name : field_names()) CHECK(unknown.find(name) != std::string::npos);
    CHECK(fault_of_text("=4").starts_with("executor_config has no field ''"));
    CHECK(fault_of_text("Threads=4").starts_with("executor_config has no field 'Threads'"));
    CHECK(fault_of_text("fast threads=2") ==
          "executor_config has no preset 'fast', it has low_latency, throughput, shared_host; "
          "fields are written name=value");
    CHECK(fault_of_text("threads=2 low_latency") == "'low_latency': a preset can only come first");
    CHECK(fault_of_text("threads=2 steal=on threads=2") ==
          "executor_config::threads is given twice");
  }

  TEST_CASE("the environment: the whole first, then field by field") {
    const variable whole("HAWSER_EXECUTOR", "low_latency threads=2 weights=1:2:3:4");
    const variable threads("HAWSER_THREADS", "7");
    const variable full("HAWSER_ON_FULL", "reject");
    const variable empty("HAWSER_SPIN", "");
    executor_config base;
    base.steal = false;
    auto expected = executor_config::low_latency();
    expected.threads = 7;
    expected.weights = {1, 2, 3, 4};
    expected.on_full = hawser::overflow::reject;
    CHECK(values_of(executor_config::from_environment()) == values_of(expected));
    CHECK(values_of(executor_config::from_environment(base)) == values_of(expected));
  }

  TEST_CASE("without variables the environment changes nothing") {
    executor_config base;
    base.threads = 3;
    CHECK(values_of(executor_config::from_environment(base)) == values_of(base));
    CHECK(values_of(executor_config::from_environment()) == values_of(executor_config{}));
  }

  TEST_CASE("every field has a variable, and its errors name it") {
    for (const auto& field : hawser::detail::config_fields()) {
      std::string name = "HAWSER_" + std::string(field.name);
      std::transform(name.begin(), name.end(), name.begin(),
                     [](char each) { return static_cast<char>(std::toupper(each)); });
      const variable wrong(name, "?");
      CHECK(fault_of([] { static_cast<void>(executor_config::from_environment()); }) ==
            name + ": executor_config::" + std::string(field.name) + " is ?, must be " +
                field.accepted());
    }
    const variable whole("HAWSER_EXECUTOR", "colour=red");
    CHECK(fault_of([] {
            static_cast<void>(executor_config::from_environment());
          }).starts_with("HAWSER_EXECUTOR: executor_config has no field 'colour'"));
  }

  TEST_CASE("a quota allows as many threads as it feeds, and at least one") {
    using hawser::detail::threads_for;
    CHECK(threads_for(8, std::nullopt) == 8);
    CHECK(threads_for(8, 0.5) == 1);
    CHECK(threads_for(8, 1.0) == 1);
    CHECK(threads_for(8, 1.5) == 2);
    CHECK(threads_for(8, 100.0) == 8);
    CHECK(threads_for(1, 0.001) == 1);
    CHECK(threads_for(5000, std::nullopt) == 1024);
  }

  TEST_CASE("the tuning guide lists every field") {
    std::ifstream file(HAWSER_SOURCE_DIR "/src/exec/README.md");
    const std::string text(std::istreambuf_iterator<char>(file), {});
    for (const auto& field : hawser::detail::config_fields()) {
      const auto row = "| `" + std::string(field.name) + "` |";
      CHECK_MESSAGE(text.find(row) != std::string::npos, field.name);
    }
  }
}
