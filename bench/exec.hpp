// SPDX-License-Identifier: Apache-2.0
// Benchmarks of what runs tasks: one process, a pool of one or two workers, and a thread that is
// none of them and posts. What is asked of every pool is written once, here, as a template over
// the pool, so that all do equal work; a program bench_exec_NAME says how its pool posts.
// Nothing is pinned.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "program.hpp"

namespace bench::exec {

struct question {
  std::string_view name;
  std::uint64_t smallest_round = 1;  ///< operations: enough to be timed at all
  unsigned fewest_workers = 1;
};

inline constexpr unsigned most_workers = 2;

inline constexpr question post_closure{"post_closure", 1024};
inline constexpr question post_item{"post_item", 1024};
inline constexpr question yield{"yield", 1024};
inline constexpr question hop{"hop", 64, 2};
inline constexpr question fork_join{"fork_join"};
inline constexpr question urgent{"urgent"};
inline constexpr question urgent_capped{"urgent_capped", 1, 2};
inline constexpr question flood{"flood"};
inline constexpr question idle_wake{"idle_wake", 1, 2};

/// How urgent a task is, for pools that know such a thing.
enum class level : std::uint8_t { high, normal, low };

// ---- one run ----------------------------------------------------------------------------------

/// What a run is told, its stopwatch, and the figures it found.
class seat {
 public:
  seat(const question& asked, unsigned workers, const run_plan& planned)
      : workers_(workers), rounds_(planned, {.smallest = asked.smallest_round}) {}

  [[nodiscard]] unsigned workers() const noexcept { return workers_; }
  [[nodiscard]] const run_plan& planned() const noexcept { return rounds_.planned(); }

  /// Ends a round, if one runs, and begins the next: so many operations. 0: that was the last.
  ///
  /// Rounds grow until one takes a good part of the wanted time; then comes the one that counts.
  [[nodiscard]] std::uint64_t next_round();

  /// For what is asked at a pace: how many operations, one every `pace`.
  [[nodiscard]] std::uint64_t count_at(clock::duration pace) const noexcept;
  /// Times what follows, up to the next stop().
  void start();
  void stop();
  [[nodiscard]] seconds taken() const noexcept { return end_.time - begin_.time; }

  void add(std::string metric, std::string unit, double value);
  /// Messages a second, and the CPU time of the whole process for one of `messages`.
  void add_rate(double messages);
  /// The same as a time.
  void add_time(double operations);
  void add_cpu(std::string metric, double operations);
  /// p50 and one more: p99, or the largest.
  void add_median_and_p99(std::vector<clock::duration> times);
  void add_median_and_max(std::vector<clock::duration> times);

  [[nodiscard]] const std::vector<sample>& samples() const noexcept { return samples_; }

 private:
  struct instant {
    clock::time_point time;
    std::chrono::nanoseconds cpu;
  };
  [[nodiscard]] static instant look();

  unsigned workers_;
  rounds rounds_;
  instant begin_{};
  instant end_{};
  std::vector<sample> samples_;
};

/// One pool's answer to one question, asked for each number of workers.
struct entry {
  const question* asked;
  std::string_view impl;
  void (*run)(seat&);
};

/// The main function of a program; `--help` says how it is used.
[[nodiscard]] int main_of(int argc, char** argv, std::span<const entry> entries);

// ---- what runs in a pool ----------------------------------------------------------------------

/// Burns `length` of CPU time: a loop whose pace was measured once, because a clock also counts
/// the time for which the thread had no core.
void burn(std::chrono::microseconds length) noexcept;
/// Measures the pace now and not within the first burn().
void calibrate_burn();

/// Counts what runs on several threads without a cache line that all of them write, and sums
/// the numbers of what ran, so that an item that ran twice for one that was lost shows.
class counter {
 public:
  void add(std::uint64_t number) noexcept {
    auto& mine = cells_[thread_cell()];
    mine.sum.store(mine.sum.load(std::memory_order_relaxed) + number, std::memory_order_relaxed);
    // release: whoever has seen the count sees what the task wrote.
    mine.count.store(mine.count.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
  [[nodiscard]] std::uint64_t count() const noexcept;
  /// Sleeps until the count is reached. False: not within the limit.
  [[nodiscard]] bool reaches(std::uint64_t target, clock::duration limit) const;
  /// Sleeps until `posted` have run that had the numbers 0, 1, 2, ... up to it.
  ///
  /// Errors: throws if not within half a minute, or if others ran.
  void expect_all(std::uint64_t posted) const;

 private:
  static constexpr std::size_t threads_max = 16;
  struct alignas(64) cell {
    std::atomic<std::uint64_t> count{0};
    std::atomic<std::uint64_t> sum{0};
  };
  /// A number that no other living thread has.
  [[nodiscard]] static std::size_t thread_cell() noexcept;

  std::array<cell, threads_max> cells_;
};

/// Keeps a poster no further ahead of the pool than `size`, so that a slow pool costs time and
/// not memory. Wakes it at half of that, early enough that the pool does not run dry.
class window {
 public:
  static constexpr std::uint64_t size = 8192;

  explicit window(const counter& ran) noexcept : ran_(&ran) {}

  void before_post(std::uint64_t posted) const {
    if (posted % look_every != 0 || posted < size) return;
    const auto allowed = size - look_every;
    if (posted - ran_->count() > allowed) wait(posted);
  }

 private:
  static constexpr std::uint64_t look_every = 256;
  void wait(std::uint64_t posted) const;

  const counter* ran_;
};

/// Tasks that post themselves again as soon as they have run, until the object ends.
template <class Pool>
class closed_loop {
 public:
  closed_loop(Pool& pool, level urgency, unsigned tasks, std::chrono::microseconds length)
      : pool_(pool), urgency_(urgency), tasks_(tasks), length_(length) {
    calibrate_burn();
    for (unsigned i = 0; i < tasks; ++i) post();
  }
  ~closed_loop() { stop(); }
  closed_loop(const closed_loop&) = delete;
  closed_loop& operator=(const closed_loop&) = delete;

  /// Returns when none of them waits or runs any more.
  void stop() {
    stopping_.store(true, std::memory_order_relaxed);
    while (!ended_.reaches(tasks_, std::chrono::seconds(1))) {
    }
  }
  /// How many have begun.
  [[nodiscard]] std::uint64_t dispatches() const noexcept { return begun_.count(); }

 private:
  void post() {
    pool_.post([this] { turn(); }, urgency_);
  }
  void turn() {
    begun_.add(0);
    burn(length_);
    if (stopping_.load(std::memory_order_relaxed)) {
      ended_.add(0);
    } else {
      post();
    }
  }

  Pool& pool_;
  const level urgency_;
  const unsigned tasks_;
  const std::chrono::microseconds length_;
  std::atomic<bool> stopping_{false};
  counter begun_;
  counter ended_;
};

/// The times from post to start of tasks that are posted one after the other.
class start_times {
 public:
  explicit start_times(std::uint64_t tasks) : times_(tasks) {}

  /// The task with number `index` starts.
  void note(std::uint64_t index, clock::time_point posted) noexcept {
    times_[index] = clock::now() - posted;
    started_.add(index);
  }
  /// Sleeps until all have started.
  [[nodiscard]] std::vector<clock::duration> take() {
    started_.expect_all(times_.size());
    return std::move(times_);
  }

 private:
  std::vector<clock::duration> times_;
  counter started_;
};

/// A sleeping thread and whoever wakes it.
class bell {
 public:
  void ring() {
    const std::lock_guard guard(mutex_);
    rung_ = true;
    heard_.notify_one();  // under the lock: the sleeper may end us
  }
  /// False: not within the limit.
  [[nodiscard]] bool wait(clock::duration limit) {
    std::unique_lock guard(mutex_);
    const bool rung = heard_.wait_for(guard, limit, [this] { return rung_; });
    if (rung) rung_ = false;
    return rung;
  }

 private:
  std::mutex mutex_;
  std::condition_variable heard_;
  bool rung_ = false;
};

// ---- the questions ----------------------------------------------------------------------------
// A Pool has a constructor that takes the number of workers, and post(function, level).

template <class Pool>
void ask_post_closure(seat& seat) {
  Pool pool(seat.workers());
  double messages = 0;
  while (const auto round = seat.next_round()) {
    counter ran;
    const window ahead(ran);
    for (std::uint64_t i = 0; i < round; ++i) {
      ahead.before_post(i);
      pool.post([&ran, i] { ran.add(i); }, level::normal);
    }
    ran.expect_all(round);
    messages = static_cast<double>(round);
  }
  seat.add_rate(messages);
}

/// `Throw(side, function)` runs the function on the pool of that side, 0 or 1.
template <class Throw>
void ask_hop(seat& seat, Throw to) {
  struct ball {
    Throw& to;
    bell over{};
    std::uint64_t left = 0;

    void fly(unsigned side) {
      to(side, [this, side] { land(side); });
    }
    void land(unsigned side) {
      if (--left == 0) {
        over.ring();
      } else {
        fly(1 - side);
      }
    }
  } game{to};
  double hops = 0;
  while (const auto round = seat.next_round()) {
    game.left = round;
    game.fly(0);
    while (!game.over.wait(std::chrono::seconds(1))) {
    }
    hops = static_cast<double>(round);
  }
  seat.add_time(hops);
}

/// Errors: throws if `fib(n)`, with a task a node, yields another number than it should.
template <class Fib>
void ask_fork_join(seat& seat, Fib fib) {
  constexpr unsigned n = 24;
  constexpr std::uint64_t result = 46'368;
  constexpr double forks = 75'024;  // fib(25) - 1
  double trees = 0;
  while (const auto round = seat.next_round()) {
    for (std::uint64_t i = 0; i < round; ++i) {
      if (fib(n) != result) throw std::runtime_error("the wrong Fibonacci number");
    }
    trees = static_cast<double>(round);
  }
  seat.add_time(trees * forks);
}

inline constexpr unsigned bulk_tasks = 64;
inline constexpr std::chrono::microseconds bulk_length{50};

template <class Pool>
void ask_urgent(seat& seat, Pool& pool) {
  using std::chrono::milliseconds;
  const auto count = seat.count_at(milliseconds(1));
  start_times times(count);
  std::minstd_rand random(1);
  std::uniform_real_distribution<double> pause(0.5e-3, 1.5e-3);

  closed_loop bulk(pool, level::low, bulk_tasks, bulk_length);
  std::this_thread::sleep_for(milliseconds(10));
  seat.start();
  const auto before = bulk.dispatches();
  for (std::uint64_t i = 0; i < count; ++i) {
    std::this_thread::sleep_for(seconds(pause(random)));
    const auto posted = clock::now();
    pool.post([&times, i, posted] { times.note(i, posted); }, level::high);
  }
  auto taken = times.take();
  const auto turns = static_cast<double>(bulk.dispatches() - before);
  seat.stop();

  seat.add_median_and_p99(std::move(taken));
  const seconds used = turns * bulk_length;
  seat.add("bulk_share", "of workers", used / (seat.taken() * seat.workers()));
}

template <class Pool>
void ask_urgent(seat& seat) {
  Pool pool(seat.workers());
  ask_urgent(seat, pool);
}

inline constexpr unsigned rpc_tasks_each = 8;
inline constexpr std::chrono::microseconds rpc_length{5};
inline constexpr std::chrono::seconds starved_after{1};

struct flood_figures {
  std::vector<clock::duration> waits;
  std::uint64_t dispatches_max = 0;
};

/// Adds what it found to the seat, too. Nothing in `waits`: starved.
template <class Pool>
flood_figures ask_flood(seat& seat, Pool& pool) {
  struct {
    clock::time_point at;
    std::uint64_t dispatches = 0;
  } start;
  bell ended;
  closed_loop rpc(pool, level::normal, rpc_tasks_each * seat.workers(), rpc_length);
  const auto run_bulk = [&] {
    start = {clock::now(), rpc.dispatches()};
    burn(bulk_length);
    ended.ring();
  };
  std::this_thread::sleep_for(std::chrono::milliseconds(10));

  flood_figures found;
  bool starved = false;
  const auto fixed = seat.planned().fixed_count;
  const auto end = clock::now() + seat.planned().wanted;
  while (fixed == 0 ? clock::now() < end : found.waits.size() < fixed) {
    const auto posted = clock::now();
    pool.post([&run_bulk] { run_bulk(); }, level::low);
    // After the post: before it this thread may lose its core to the flood for milliseconds.
    const auto before = rpc.dispatches();
    starved = !ended.wait(starved_after);
    if (starved) break;
    found.waits.push_back(start.at - posted);
    const auto passed = start.dispatches - std::min(start.dispatches, before);
    found.dispatches_max = std::max(found.dispatches_max, passed);
  }
  rpc.stop();
  seat.add("starved", "", starved ? 1 : 0);
  if (starved) {
    // It runs now, and must find what it uses.
    while (!ended.wait(starved_after)) {
    }
    return {};
  }
  seat.add_median_and_max(found.waits);
  seat.add("dispatches_max", "tasks", static_cast<double>(found.dispatches_max));
  return found;
}

template <class Pool>
void ask_idle_wake(seat& seat) {
  constexpr std::chrono::microseconds pace(200);
  constexpr std::uint64_t warm_up = 16;
  Pool pool(seat.workers());
  const auto count = seat.count_at(pace);
  start_times first(warm_up);
  start_times times(count);
  auto due = clock::now();
  const auto post_to = [&](start_times& into, std::uint64_t tasks) {
    for (std::uint64_t i = 0; i < tasks; ++i) {
      due = std::max(due + pace, clock::now());
      std::this_thread::sleep_until(due);
      const auto posted = clock::now();
      pool.post([&into, i, posted] { into.note(i, posted); }, level::normal);
    }
    return into.take();
  };
  static_cast<void>(post_to(first, warm_up));
  seat.start();
  auto taken = post_to(times, count);
  seat.stop();
  seat.add_median_and_p99(std::move(taken));
  seat.add_cpu("cpu_ns_per_message", static_cast<double>(count));
}

}  // namespace bench::exec
