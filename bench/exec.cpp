// SPDX-License-Identifier: Apache-2.0
#include "exec.hpp"

#include <cstdlib>
#include <ctime>
#include <stdexcept>

namespace bench::exec {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view usage = R"(usage: PROGRAM BENCH CASE IMPL [--seconds S | --count N]
       PROGRAM --list
       PROGRAM --all [--seconds S]

  BENCH CASE IMPL  one run; --list names what there is; w2 means two workers
  --seconds S      aim at a run of S seconds (default 1)
  --count N        exactly N operations and no warm-up
  --all            every benchmark of this program once
)";

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
  const auto count = rounds_.next(taken());
  if (count != 0) start();
  return count;
}

std::uint64_t seat::count_at(clock::duration pace) const noexcept {
  if (planned().fixed_count != 0) return planned().fixed_count;
  return std::max<std::uint64_t>(static_cast<std::uint64_t>(planned().wanted / seconds(pace)), 1);
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

int main_of(int argc, char** argv, std::span<const entry> entries) {
  std::vector<choice> choices;
  for (const auto& one : entries) {
    for (auto workers = one.asked->fewest_workers; workers <= most_workers; ++workers) {
      choices.push_back(
          {{std::string(one.asked->name), "w" + std::to_string(workers), std::string(one.impl)},
           [&one, workers](const run_plan& plan) {
             seat seat(*one.asked, workers, plan);
             one.run(seat);
             return seat.samples();
           }});
    }
  }
  return run_program(argc, argv, usage, choices);
}

}  // namespace bench::exec
