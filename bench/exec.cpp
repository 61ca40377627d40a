// SPDX-License-Identifier: Apache-2.0
#include "exec.hpp"

#include <getopt.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <stdexcept>

namespace bench::exec {
namespace {

using namespace std::chrono_literals;

// ---- the command line -------------------------------------------------------------------------

constexpr std::string_view usage = R"(usage: PROGRAM BENCH CASE IMPL [--seconds S | --count N]
       PROGRAM --list
       PROGRAM --all [--seconds S]

  BENCH CASE IMPL  one run; --list names what there is; w2 means two workers
  --seconds S      aim at a run of S seconds (default 1)
  --count N        exactly N operations and no warm-up
  --all            every benchmark of this program once
)";

enum class action : std::uint8_t { run, list, all, help };

struct command {
  action what = action::run;
  seat::plan plan;
  std::vector<std::string> words;  // BENCH CASE IMPL
};

double positive_number(const char* text) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(value > 0)) {
    throw std::invalid_argument("'" + std::string(text) + "' is not a positive number");
  }
  return value;
}

command parse(int argc, char** argv) {
  static const std::array<option, 6> known{{{"seconds", required_argument, nullptr, 's'},
                                            {"count", required_argument, nullptr, 'c'},
                                            {"list", no_argument, nullptr, 'l'},
                                            {"all", no_argument, nullptr, 'a'},
                                            {"help", no_argument, nullptr, 'h'},
                                            {nullptr, 0, nullptr, 0}}};
  command parsed;
  for (int found = 0; (found = ::getopt_long(argc, argv, "h", known.data(), nullptr)) != -1;) {
    switch (found) {
      case 's':
        parsed.plan.wanted = seconds(positive_number(optarg));
        break;
      case 'c':
        parsed.plan.fixed_count = static_cast<std::uint64_t>(positive_number(optarg));
        break;
      case 'l':
        parsed.what = action::list;
        break;
      case 'a':
        parsed.what = action::all;
        break;
      case 'h':
        parsed.what = action::help;
        break;
      default:
        throw std::invalid_argument("try --help");
    }
  }
  parsed.words.assign(argv + optind, argv + argc);
  if (parsed.words.size() != (parsed.what == action::run ? 3 : 0)) {
    throw std::invalid_argument("try --help");
  }
  return parsed;
}

struct choice {
  const entry* chosen;
  unsigned workers;

  [[nodiscard]] std::array<std::string, 3> words() const {
    return {std::string(chosen->asked->name), "w" + std::to_string(workers),
            std::string(chosen->impl)};
  }
};

std::vector<choice> choices(std::span<const entry> entries) {
  std::vector<choice> all;
  for (const auto& one : entries) {
    for (auto workers = one.asked->fewest_workers; workers <= most_workers; ++workers) {
      all.push_back({&one, workers});
    }
  }
  return all;
}

choice choose(std::span<const entry> entries, const std::vector<std::string>& words) {
  for (const auto& candidate : choices(entries)) {
    const auto name = candidate.words();
    if (std::equal(name.begin(), name.end(), words.begin())) return candidate;
  }
  throw std::invalid_argument("no benchmark '" + words[0] + " " + words[1] + " " + words[2] +
                              "' here: --list names them");
}

void print_list(std::span<const entry> entries) {
  for (const auto& one : choices(entries)) {
    const auto [bench, workers, impl] = one.words();
    std::printf("%s %s %s\n", bench.c_str(), workers.c_str(), impl.c_str());
  }
}

void measure(const choice& what, seat::plan plan) {
  seat seat(*what.chosen->asked, what.workers, plan);
  what.chosen->run(seat);
  const auto [bench, workers, impl] = what.words();
  for (const auto& one : seat.samples()) {
    std::printf(R"({"bench":"%s","case":"%s","impl":"%s","metric":"%s","unit":"%s","value":%.6g})"
                "\n",
                bench.c_str(), workers.c_str(), impl.c_str(), one.metric.c_str(), one.unit.c_str(),
                one.value);
  }
  std::fflush(stdout);
}

// ---- figures ----------------------------------------------------------------------------------

// The smallest value that `share` of all do not exceed.
double percentile_us(std::vector<clock::duration>& times, double share) {
  if (times.empty()) throw std::logic_error("nothing was timed");
  const auto rank = static_cast<std::size_t>(share * static_cast<double>(times.size() - 1));
  const auto at = times.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(times.begin(), at, times.end());
  return std::chrono::duration<double, std::micro>(*at).count();
}

// ---- burning CPU time -------------------------------------------------------------------------

// Each step needs the result of the one before, so that no compiler and no core can shorten it.
void spin(std::uint64_t steps) noexcept {
  std::uint64_t x = steps;
  for (; steps != 0; --steps) x = x * 6364136223846793005U + 1442695040888963407U;
  // As good as never, but the compiler cannot know and must compute x.
  static std::atomic<std::uint64_t> sink;
  if (x == 0) sink.store(steps, std::memory_order_relaxed);
}

// The fastest of several trials is the one that nobody disturbed.
double measured_steps_per_microsecond() {
  constexpr std::uint64_t steps = 50'000;
  auto best = clock::duration::max();
  for (int trial = 0; trial < 30; ++trial) {
    const auto begin = clock::now();
    spin(steps);
    best = std::min(best, clock::now() - begin);
  }
  return static_cast<double>(steps) / std::chrono::duration<double, std::micro>(best).count();
}

double steps_per_microsecond() {
  static const double pace = measured_steps_per_microsecond();
  return pace;
}

}  // namespace

void calibrate_burn() {
  static_cast<void>(steps_per_microsecond());
}

void burn(std::chrono::microseconds length) noexcept {
  spin(static_cast<std::uint64_t>(steps_per_microsecond() * static_cast<double>(length.count())));
}

// ---- counter and window -----------------------------------------------------------------------

std::size_t counter::thread_cell() noexcept {
  static std::array<std::atomic<bool>, threads_max> taken{};
  class claim {
   public:
    claim() noexcept {
      while (taken[cell_].exchange(true, std::memory_order_acquire)) {
        if (++cell_ == threads_max) std::abort();
      }
    }
    // release: the next owner sees the last counts of this one.
    ~claim() { taken[cell_].store(false, std::memory_order_release); }

    std::size_t cell_ = 0;
  };
  thread_local const claim own;
  return own.cell_;
}

std::uint64_t counter::count() const noexcept {
  std::uint64_t all = 0;
  for (const auto& one : cells_) all += one.count.load(std::memory_order_acquire);
  return all;
}

// Looks now and then: a poster that is woken by the pool would be work of the pool.
bool counter::reaches(std::uint64_t target, clock::duration limit) const {
  const auto end = clock::now() + limit;
  while (count() < target) {
    if (clock::now() > end) return false;
    std::this_thread::sleep_for(50us);
  }
  return true;
}

void counter::expect_all(std::uint64_t posted) const {
  if (!reaches(posted, 30s)) {
    throw std::runtime_error(std::to_string(posted) + " tasks were posted and " +
                             std::to_string(count()) + " ran");
  }
  std::uint64_t all = 0;
  for (const auto& one : cells_) all += one.sum.load(std::memory_order_relaxed);
  if (count() != posted || all != posted * (posted - 1) / 2) {
    throw std::runtime_error("other tasks ran than were posted");
  }
}

void window::wait(std::uint64_t posted) const {
  if (!ran_->reaches(posted - size / 2, 30s)) throw std::runtime_error("the pool stands still");
}

// ---- seat -------------------------------------------------------------------------------------

seat::instant seat::look() {
  timespec spent{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
  return {clock::now(),
          std::chrono::seconds(spent.tv_sec) + std::chrono::nanoseconds(spent.tv_nsec)};
}

void seat::start() {
  begin_ = look();
}

void seat::stop() {
  end_ = look();
}

std::uint64_t seat::next_round() {
  stop();
  if (counts_) return 0;
  if (plan_.fixed_count != 0) {
    counts_ = true;
    count_ = plan_.fixed_count;
  } else if (count_ == 0) {
    count_ = asked_->smallest_round;
  } else {
    counts_ = taken() > plan_.wanted / 8;
    // At most 16 times the last round: the first ones are slower than what follows.
    const double factor =
        std::clamp(plan_.wanted / std::max<seconds>(taken(), seconds(1us)), 0.01, 16.0);
    count_ = std::max(static_cast<std::uint64_t>(factor * static_cast<double>(count_)),
                      asked_->smallest_round);
  }
  start();
  return count_;
}

std::uint64_t seat::count_at(clock::duration pace) const noexcept {
  if (plan_.fixed_count != 0) return plan_.fixed_count;
  return std::max<std::uint64_t>(static_cast<std::uint64_t>(plan_.wanted / seconds(pace)), 1);
}

void seat::add(std::string metric, std::string unit, double value) {
  samples_.push_back({std::move(metric), std::move(unit), value});
}

void seat::add_cpu(std::string metric, double operations) {
  add(std::move(metric), "ns", static_cast<double>((end_.cpu - begin_.cpu).count()) / operations);
}

void seat::add_rate(double messages) {
  add("throughput", "messages/s", messages / taken().count());
  add_cpu("cpu_ns_per_message", messages);
}

void seat::add_time(double operations) {
  add("time", "ns", taken().count() * 1e9 / operations);
  add_cpu("cpu_ns_per_operation", operations);
}

void seat::add_median_and_p99(std::vector<clock::duration> times) {
  add("p50", "us", percentile_us(times, 0.50));
  add("p99", "us", percentile_us(times, 0.99));
}

void seat::add_median_and_max(std::vector<clock::duration> times) {
  add("p50", "us", percentile_us(times, 0.50));
  add("max", "us", percentile_us(times, 1.0));
}

int main_of(int argc, char** argv, std::span<const entry> entries) try {
  const auto asked = parse(argc, argv);
  switch (asked.what) {
    case action::help:
      std::fputs(usage.data(), stdout);
      break;
    case action::list:
      print_list(entries);
      break;
    case action::all:
      for (const auto& one : choices(entries)) measure(one, asked.plan);
      break;
    case action::run:
      measure(choose(entries, asked.words), asked.plan);
      break;
  }
  return 0;
} catch (const std::exception& problem) {
  std::fprintf(stderr, "%s:", argv[0]);
  for (int i = 1; i < argc; ++i) std::fprintf(stderr, " %s", argv[i]);
  std::fprintf(stderr, ": %s\n", problem.what());
  return 1;
}

}  // namespace bench::exec
