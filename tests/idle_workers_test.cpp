// SPDX-License-Identifier: Apache-2.0
#include "exec/idle_workers.hpp"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "exec/inbox.hpp"
#include "exec/steal_deque.hpp"
#include "exec/work_list.hpp"
#include "support/environment.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::detail::work;
using idle_workers = hawser::detail::idle_workers<>;
using reason = idle_workers::reason;

// In the place of a reactor.
class event {
 public:
  void signal() {
    const std::lock_guard lock(mutex_);
    signalled_ = true;
    changed_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return signalled_; });
    signalled_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool signalled_ = false;
};

struct item : work {
  item() : work([](work&) noexcept {}) {}
  item* spawned = nullptr;  // queued by whoever runs this
  std::atomic<int> runs{0};
};

// Workers that park between items, as those of a runtime do, with the smallest of queues.
class pool {
 public:
  pool(unsigned workers, unsigned limit) : limit_(limit), idle_(workers), workers_(workers) {
    for (unsigned i = 0; i < workers; ++i) {
      workers_[i].thread = std::thread([this, i] { loop(i); });
    }
  }
  ~pool() {
    over_.store(true, std::memory_order_seq_cst);
    for (auto& each : workers_) each.wake_up.signal();
    for (auto& each : workers_) each.thread.join();
  }

  void post_to(unsigned target, item& posted) {
    if (!workers_[target].inbox.push(posted, hawser::priority::rpc)) return;
    if (idle_.call(target)) wake(target);
  }
  void post(item& posted) {
    {
      const std::lock_guard lock(mutex_);
      injected_.push_back(&posted);
      injected_count_.fetch_add(1, std::memory_order_seq_cst);
    }
    notice();
  }

  /// Returns when `count` items have run.
  void wait_for(unsigned count) const {
    for (auto seen = ran_.load(); seen < count; seen = ran_.load()) ran_.wait(seen);
  }
  /// Returns when all workers sleep and none is called to search, as it must come to when there is
  /// no more to do.
  void wait_for_rest() const {
    while (idle_.parked() != workers_.size() || idle_.searching() != 0) std::this_thread::yield();
  }
  [[nodiscard]] bool no_sleep_ended_twice() const { return calls_.load() <= sleeps_.load(); }

 private:
  struct worker {
    hawser::detail::steal_deque<2> queue;
    hawser::detail::inbox inbox;
    hawser::detail::work_list received;
    event wake_up;
    std::thread thread;
  };

  void loop(unsigned self) {
    bool searching = false;
    while (!over_.load(std::memory_order_seq_cst)) {
      work* found = own(self);
      if (found == nullptr) {
        searching = searching || idle_.begin_search(limit_);
        if (searching) found = steal(self);
      }
      if (found != nullptr) {
        if (searching && idle_.end_search() && any_work()) notice();
        searching = false;
        run(self, static_cast<item&>(*found));
        continue;
      }
      const bool last = idle_.announce(self, searching);
      sleeps_.fetch_add(1);
      if (workers_[self].inbox.empty() && !(last && any_work())) workers_[self].wake_up.wait();
      searching = idle_.awake(self) == reason::called_to_search;
    }
  }

  work* own(unsigned self) {
    worker& me = workers_[self];
    me.inbox.drain([&me](work& posted, hawser::priority) noexcept { me.received.push(posted); });
    return me.received.empty() ? me.queue.take() : &me.received.pop();
  }

  work* steal(unsigned self) {
    {
      const std::lock_guard lock(mutex_);
      if (!injected_.empty()) {
        work* const first = injected_.front();
        injected_.pop_front();
        injected_count_.fetch_sub(1, std::memory_order_relaxed);
        return first;
      }
    }
    for (auto& victim : workers_) {
      if (&victim == &workers_[self]) continue;
      if (work* const stolen = workers_[self].queue.steal_half(victim.queue).item) return stolen;
    }
    return nullptr;
  }

  bool any_work() const {
    if (injected_count_.load(std::memory_order_seq_cst) != 0) return true;
    for (const auto& each : workers_) {
      if (!each.queue.empty()) return true;
    }
    return false;
  }

  void run(unsigned self, item& one) {
    if (one.spawned != nullptr) {
      if (workers_[self].queue.push(*one.spawned)) {
        notice();
      } else {
        run(self, *one.spawned);
      }
    }
    one.runs.fetch_add(1);
    ran_.fetch_add(1);
    ran_.notify_all();
  }

  void notice() {
    if (const auto sleeper = idle_.notify()) wake(*sleeper);
  }
  void wake(unsigned target) {
    calls_.fetch_add(1);
    workers_[target].wake_up.signal();
  }

  const unsigned limit_;
  idle_workers idle_;
  std::atomic<unsigned> sleeps_{0};
  std::atomic<unsigned> calls_{0};
  std::atomic<unsigned> ran_{0};
  std::atomic<bool> over_{false};
  std::mutex mutex_;
  std::deque<work*> injected_;
  std::atomic<int> injected_count_{0};
  std::vector<worker> workers_;
};

void stress(std::uint64_t seed, unsigned workers, unsigned limit) {
  constexpr unsigned posters = 2;
  constexpr unsigned each = 10'000;
  const test::watchdog guard(60s);
  std::deque<item> items(posters * each);
  std::deque<item> children(posters * each);
  {
    pool all(workers, limit);
    std::vector<std::thread> threads;
    for (unsigned p = 0; p < posters; ++p) {
      threads.emplace_back([&, p] {
        std::minstd_rand random(static_cast<unsigned>(seed + p));
        for (unsigned i = p * each; i < (p + 1) * each; ++i) {
          items[i].spawned = &children[i];
          if (random() % 2 == 0) {
            all.post(items[i]);
          } else {
            all.post_to(random() % workers, items[i]);
          }
          // Now and then everybody has gone to sleep before the next one comes.
          if (random() % 64 == 0) std::this_thread::yield();
        }
      });
    }
    for (auto& thread : threads) thread.join();
    all.wait_for(2 * posters * each);
    all.wait_for_rest();
    CHECK(all.no_sleep_ended_twice());
  }
  unsigned wrong = 0;
  for (const auto& one : items) wrong += one.runs.load() == 1 ? 0 : 1;
  for (const auto& one : children) wrong += one.runs.load() == 1 ? 0 : 1;
  CHECK(wrong == 0);
}

}  // namespace

TEST_SUITE("idle_workers") {
  TEST_CASE("no more than the limit search at a time, and the last is told that it was") {
    idle_workers idle(4);
    CHECK(idle.begin_search(2));
    CHECK(idle.begin_search(2));
    CHECK(!idle.begin_search(2));
    CHECK(idle.searching() == 2);

    CHECK(!idle.end_search());
    CHECK(idle.end_search());
    CHECK(idle.searching() == 0);
  }

  TEST_CASE("notify names a sleeper if nobody searches, and counts it as searching") {
    idle_workers idle(3);
    CHECK(idle.notify() == std::nullopt);
    CHECK(idle.announce(1, false));
    CHECK(idle.announce(2, false));
    CHECK(idle.begin_search(1));
    CHECK(idle.notify() == std::nullopt);

    CHECK(idle.end_search());
    CHECK(idle.notify() == 1U);
    CHECK(idle.searching() == 1);
    CHECK(idle.notify() == std::nullopt);
    CHECK(idle.awake(1) == reason::called_to_search);
    CHECK(idle.parked() == 1);
    CHECK(idle.end_search());
    CHECK(idle.notify() == 2U);
  }

  TEST_CASE("a sleep is ended by one call") {
    idle_workers idle(2);
    CHECK(!idle.call(0));
    CHECK(idle.announce(0, false));
    CHECK(idle.call(0));
    CHECK(!idle.call(0));
    CHECK(idle.notify() == std::nullopt);
    CHECK(idle.searching() == 0);

    CHECK(idle.awake(0) == reason::called);
    CHECK(idle.parked() == 0);
    CHECK(!idle.call(0));
  }

  TEST_CASE("a worker that wakes by itself was not called") {
    idle_workers idle(1);
    CHECK(idle.announce(0, false));
    CHECK(idle.awake(0) == reason::own);
    CHECK(idle.parked() == 0);
    CHECK(!idle.call(0));
    CHECK(idle.notify() == std::nullopt);
  }

  TEST_CASE("announce leaves the queues of all to the others that search") {
    idle_workers idle(3);
    CHECK(idle.begin_search(2));
    CHECK(idle.begin_search(2));

    CHECK(!idle.announce(0, true));
    CHECK(!idle.announce(1, false));
    CHECK(idle.searching() == 1);
    CHECK(idle.announce(2, true));
    CHECK(idle.searching() == 0);
    CHECK(idle.parked() == 3);
  }

  TEST_CASE("a thousand workers sleep and are called, one by one") {
    constexpr unsigned count = idle_workers::workers_most;
    idle_workers idle(count);
    for (unsigned i = 0; i < count; ++i) CHECK(idle.announce(i, false));
    CHECK(idle.parked() == count);
    for (unsigned i = 0; i < count; ++i) {
      CHECK(idle.notify() == i);
      CHECK(idle.awake(i) == reason::called_to_search);
      CHECK(idle.end_search());
    }
    CHECK(idle.parked() == 0);
  }

  TEST_CASE("workers that park between items run each once, and then all sleep") {
    for (unsigned round = 0; round < 3; ++round) {
      INFO("round " << round << ", seed " << test::seed());
      stress(test::seed() + round, 1, 1);
      stress(test::seed() + round, 2, 1);
      stress(test::seed() + round, 4, 2);
    }
  }
}
