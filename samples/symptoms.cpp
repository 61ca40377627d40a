// SPDX-License-Identifier: Apache-2.0
// Programs that are unwell, each in one way, for src/exec/README.md: watch one with `top`, turn a
// HAWSER_* variable, and compare the figures, a line of JSON each.
//
//   symptoms NAME [--seconds 2] [--stats URI]        symptoms --list
#include <hawser/hawser.hpp>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "stats_service.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::priority;
using hawser::task;
using nanoseconds = std::chrono::nanoseconds;

constexpr int exit_failed = 1;
constexpr int exit_usage = 2;

// ---- what all of them need --------------------------------------------------------------------

nanoseconds cpu_time(clockid_t whose) {
  timespec spent{};
  ::clock_gettime(whose, &spent);
  return std::chrono::seconds(spent.tv_sec) + nanoseconds(spent.tv_nsec);
}

// CPU time, not time: a thread that loses its core has as much left to do.
void compute(nanoseconds length) {
  const auto end = cpu_time(CLOCK_THREAD_CPUTIME_ID) + length;
  while (cpu_time(CLOCK_THREAD_CPUTIME_ID) < end) {
  }
}

/// What a run is given, and what it found.
class patient {
 public:
  patient(hawser::runtime& where, nanoseconds length) : runtime(where), length_(length) {}

  hawser::runtime& runtime;

  void start() {
    began_ = hawser::clock::now();
    cpu_before_ = cpu_time(CLOCK_PROCESS_CPUTIME_ID);
  }
  [[nodiscard]] bool goes_on() const { return hawser::clock::now() - began_ < length_; }
  void stop() {
    seconds_ = std::chrono::duration<double>(hawser::clock::now() - began_).count();
    const auto cpu = cpu_time(CLOCK_PROCESS_CPUTIME_ID) - cpu_before_;
    add("cpu_percent", 100 * std::chrono::duration<double>(cpu).count() / seconds_);
  }
  void add(std::string name, double value) { figures_.emplace_back(std::move(name), value); }
  /// After stop().
  void add_rate(std::string name, std::uint64_t count) {
    add(std::move(name), static_cast<double>(count) / seconds_);
  }
  void add_times(const std::string& name, std::vector<nanoseconds> times) {
    if (times.empty()) return;
    std::sort(times.begin(), times.end());
    for (const int percent : {50, 99}) {
      const auto at = (times.size() - 1) * static_cast<std::size_t>(percent) / 100;
      add(name + "_p" + std::to_string(percent) + "_us",
          std::chrono::duration<double, std::micro>(times[at]).count());
    }
  }
  void print(std::string_view name) const {
    std::printf(R"({"symptom":"%.*s")", static_cast<int>(name.size()), name.data());
    for (const auto& [figure, value] : figures_) {
      std::printf(R"(,"%s":%.4g)", figure.c_str(), value);
    }
    std::printf("}\n");
  }

 private:
  nanoseconds length_;
  hawser::clock::time_point began_;
  nanoseconds cpu_before_{};
  double seconds_ = 0;
  std::vector<std::pair<std::string, double>> figures_;
};

// A thread that is no worker posts a small rpc task every millisecond; how long each waits.
std::vector<nanoseconds> waits_of_posts(patient& run) {
  constexpr auto pace = 1ms;
  std::vector<std::atomic<std::int64_t>> waits(1 << 16);
  std::size_t count = 0;
  for (auto due = hawser::clock::now(); run.goes_on() && count < waits.size(); due += pace) {
    std::this_thread::sleep_until(due);
    auto& wait = waits[count++];
    const auto posted = hawser::clock::now();
    run.runtime.post([&wait, posted] {
      wait.store(nanoseconds(hawser::clock::now() - posted).count(), std::memory_order_release);
    });
  }
  std::vector<nanoseconds> all;
  for (std::size_t i = 0; i < count; ++i) {
    auto wait = waits[i].load(std::memory_order_acquire);
    for (; wait == 0; wait = waits[i].load(std::memory_order_acquire)) {
      std::this_thread::sleep_for(1ms);
    }
    all.emplace_back(wait);
  }
  return all;
}

// ---- bulk_beside_rpc, held, giving_way --------------------------------------------------------

using piece = task<void> (*)(std::atomic<std::uint64_t>& done);

task<void> two_milliseconds(std::atomic<std::uint64_t>& done) {
  compute(2ms);
  done.fetch_add(1, std::memory_order_relaxed);
  co_return;
}

task<void> twenty_milliseconds(std::atomic<std::uint64_t>& done) {
  compute(20ms);
  done.fetch_add(1, std::memory_order_relaxed);
  co_return;
}

task<void> twenty_milliseconds_giving_way(std::atomic<std::uint64_t>& done) {
  constexpr auto step = 50us;
  for (auto left = nanoseconds(20ms); left > 0ns; left -= step) {
    compute(step);
    co_await hawser::this_task::yield();
  }
  done.fetch_add(1, std::memory_order_relaxed);
}

task<void> repeat(const patient& run, piece work, std::atomic<std::uint64_t>& done) {
  while (run.goes_on()) {
    co_await work(done);
    co_await hawser::this_task::yield();
  }
}

task<void> saturate(hawser::scope& scope, patient& run, piece work,
                    std::atomic<std::uint64_t>& done) {
  for (unsigned i = 0; i < 4 * run.runtime.threads(); ++i) {
    scope.spawn(repeat(run, work, done), priority::bulk);
  }
  co_return;
}

void run_saturated(patient& run, piece work) {
  std::atomic<std::uint64_t> done{0};
  run.start();
  std::thread bulk([&] {
    hawser::run(run.runtime, saturate, std::ref(run), work, std::ref(done));
  });
  auto waits = waits_of_posts(run);
  bulk.join();
  run.stop();
  run.add_times("rpc_wait", std::move(waits));
  run.add_rate("bulk_per_s", done.load(std::memory_order_relaxed));
}

void bulk_beside_rpc(patient& run) {
  run_saturated(run, two_milliseconds);
}

void held(patient& run) {
  run_saturated(run, twenty_milliseconds);
}

void giving_way(patient& run) {
  run_saturated(run, twenty_milliseconds_giving_way);
}

// ---- blocking_call, offloaded_call ------------------------------------------------------------

task<void> call_file_system() {
  std::this_thread::sleep_for(30ms);  // what a slow disk does to a thread
  co_return;
}

task<void> offload_file_system() {
  co_await hawser::offload([] { std::this_thread::sleep_for(30ms); });
}

task<void> call_again(const patient& run, task<void> (*call)()) {
  while (run.goes_on()) {
    co_await call();
    co_await hawser::this_task::sleep_for(10ms);
  }
}

task<void> call_on_each(hawser::scope& scope, const patient& run, task<void> (*call)()) {
  for (unsigned i = 0; i < run.runtime.threads(); ++i) scope.spawn(call_again(run, call));
  co_return;
}

void run_calls(patient& run, task<void> (*call)()) {
  run.start();
  std::thread calls([&] { hawser::run(run.runtime, call_on_each, std::cref(run), call); });
  auto waits = waits_of_posts(run);
  calls.join();
  run.stop();
  run.add_times("rpc_wait", std::move(waits));
}

void blocking_call(patient& run) {
  run_calls(run, call_file_system);
}

void offloaded_call(patient& run) {
  run_calls(run, offload_file_system);
}

// ---- one_giver --------------------------------------------------------------------------------

task<void> half_a_millisecond() {
  compute(500us);
  co_return;
}

task<void> give_work(hawser::scope& scope) {
  for (int i = 0; i < 32; ++i) scope.spawn(half_a_millisecond());
  co_return;
}

task<void> give_rounds(patient& run, std::uint64_t& rounds) {
  for (; run.goes_on(); ++rounds) co_await hawser::with_scope(give_work);
}

void one_giver(patient& run) {
  std::uint64_t rounds = 0;
  run.start();
  hawser::run(run.runtime, give_rounds, std::ref(run), std::ref(rounds));
  run.stop();
  run.add_rate("rounds_per_s", rounds);
}

// ---- round_trip, round_trip_beside_work -------------------------------------------------------

task<void> echo(hawser::link link) {
  while (auto message = co_await link.rpc().recv()) co_await link.rpc().send(std::move(*message));
}

task<void> accept_one(hawser::scope& scope, hawser::listener& listener) {
  auto link = co_await listener.accept();
  scope.serve(echo(std::move(link)));
}

task<void> work_on(const patient& run, nanoseconds length) {
  while (run.goes_on()) {
    compute(length);
    co_await hawser::this_task::yield();
  }
}

task<void> ping(hawser::scope& scope, patient& run, hawser::listener listener, bool beside_work,
                std::vector<nanoseconds>& times) {
  scope.spawn(accept_one(scope, listener));
  auto link = co_await hawser::connect(listener.uri());
  run.start();
  // One a worker, of the priority of the pings: sockets are what a busy worker looks at last.
  for (unsigned i = 0; beside_work && i < run.runtime.threads(); ++i) {
    scope.spawn(work_on(run, 5us));
  }
  while (run.goes_on()) {
    const auto sent = hawser::clock::now();
    co_await link.rpc().send(std::string_view("ping"));
    auto answer = co_await link.rpc().recv();
    if (!answer) throw std::runtime_error("the echo has ended");
    times.emplace_back(hawser::clock::now() - sent);
  }
  run.stop();
  co_await link.close();
}

void run_pings(patient& run, bool beside_work) {
  std::vector<nanoseconds> times;
  hawser::run(run.runtime, ping, std::ref(run), hawser::listen(run.runtime, "tcp://127.0.0.1:0"),
              beside_work, std::ref(times));
  run.add_rate("round_trips_per_s", times.size());
  run.add_times("round_trip", std::move(times));
}

void round_trip(patient& run) {
  run_pings(run, false);
}

void round_trip_beside_work(patient& run) {
  run_pings(run, true);
}

// ---- ticks ------------------------------------------------------------------------------------

task<void> tick(patient& run, std::uint64_t& count) {
  for (; run.goes_on(); ++count) co_await hawser::this_task::sleep_for(1ms);
}

void ticks(patient& run) {
  std::uint64_t count = 0;
  run.start();
  hawser::run(run.runtime, tick, std::ref(run), std::ref(count));
  run.stop();
  run.add_rate("ticks_per_s", count);
}

// ---- burst ------------------------------------------------------------------------------------

// Posts come faster than they are run.
void burst(patient& run) {
  std::atomic<std::uint64_t> ran{0};
  std::atomic<std::int64_t> longest{0};
  std::uint64_t accepted = 0;
  std::uint64_t refused = 0;
  run.start();
  while (run.goes_on()) {
    const auto posted = hawser::clock::now();
    try {
      run.runtime.post([&ran, &longest, posted] {
        compute(20us);
        const auto wait = nanoseconds(hawser::clock::now() - posted).count();
        auto seen = longest.load(std::memory_order_relaxed);
        while (wait > seen && !longest.compare_exchange_weak(seen, wait, std::memory_order_relaxed,
                                                             std::memory_order_relaxed)) {
        }
        ran.fetch_add(1, std::memory_order_release);
      });
      ++accepted;
    } catch (const std::system_error& error) {
      if (error.code() != hawser::errc::limit_reached) throw;
      ++refused;
      std::this_thread::sleep_for(100us);  // somebody else's turn: drop, or try again later
    }
  }
  while (ran.load(std::memory_order_acquire) != accepted) std::this_thread::sleep_for(1ms);
  run.stop();
  run.add_rate("ran_per_s", accepted);
  run.add("refused", static_cast<double>(refused));
  run.add("longest_wait_ms",
          static_cast<double>(longest.load(std::memory_order_relaxed)) / 1e6);
}

// ---- the command line -------------------------------------------------------------------------

struct symptom {
  const char* name;
  void (*run)(patient&);
};

constexpr std::array symptoms{symptom{"bulk_beside_rpc", bulk_beside_rpc},
                              symptom{"held", held},
                              symptom{"giving_way", giving_way},
                              symptom{"blocking_call", blocking_call},
                              symptom{"offloaded_call", offloaded_call},
                              symptom{"one_giver", one_giver},
                              symptom{"round_trip", round_trip},
                              symptom{"round_trip_beside_work", round_trip_beside_work},
                              symptom{"ticks", ticks},
                              symptom{"burst", burst}};

task<void> serve_stats(hawser::scope& scope, hawser::listener listener,
                       const hawser::runtime& runtime) {
  co_await samples::serve_stats(scope, std::move(listener), runtime);
}

void run_one(const symptom& chosen, nanoseconds length, const std::string& stats_uri) {
  auto config = hawser::executor_config::from_environment();
  config.log = [](const hawser::log_event& event) {
    if (event.level < hawser::log_level::warning) return;
    std::fprintf(stderr, "%.*s: %.*s\n", static_cast<int>(event.area.size()), event.area.data(),
                 static_cast<int>(event.text.size()), event.text.data());
  };
  hawser::runtime runtime(std::move(config));
  std::thread stats;
  if (!stats_uri.empty()) {
    auto listener = hawser::listen(runtime, stats_uri);
    stats = std::thread([&runtime, listener = std::move(listener)]() mutable {
      try {
        hawser::run(runtime, serve_stats, std::move(listener), std::cref(runtime));
      } catch (const std::system_error&) {
        // The end of this program.
      }
    });
  }
  patient run(runtime, length);
  chosen.run(run);
  run.print(chosen.name);
  std::fflush(stdout);
  runtime.request_stop();
  if (stats.joinable()) stats.join();
}

void run_named(const std::string& name, nanoseconds length, const std::string& stats) {
  const bool all = name == "all";
  bool found = false;
  for (const auto& each : symptoms) {
    if (!all && each.name != name) continue;
    found = true;
    run_one(each, length, stats);
  }
  if (!found) throw std::invalid_argument("no symptom '" + name + "': --list names them");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Programs that are unwell, each in one way.");
  std::string name;
  std::string stats;
  double seconds = 2;
  bool list = false;
  app.add_option("NAME", name, "which, or all");
  app.add_option("--seconds", seconds, "how long")->check(CLI::PositiveNumber);
  app.add_option("--stats", stats, "where `top` can ask for its figures")->option_text("URI");
  app.add_flag("--list", list, "names");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_usage;
  }
  if (list) {
    for (const auto& each : symptoms) std::printf("%s\n", each.name);
    return 0;
  }
  try {
    run_named(name, std::chrono::duration_cast<nanoseconds>(std::chrono::duration<double>(seconds)),
              stats);
    return 0;
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "symptoms: %s\n", error.what());
    return exit_usage;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "symptoms: %s\n", error.what());
    return exit_failed;
  }
}
