// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "core/counter.hpp"
#include "exec/component.hpp"
#include "exec/inbox.hpp"
#include "exec/memory_source.hpp"
#include "exec/ready_queues.hpp"
#include "exec/spin_budget.hpp"
#include "exec/timer_wheel.hpp"
#include "hawser/executor.hpp"
#include "hawser/runtime.hpp"
#include "os/reactor.hpp"

namespace hawser::detail {

class runtime_core;
class worker;

/// One thread of the runtime: run queues by priority, a timer wheel and a reactor.
///
///   loop: look for posts -> run queues (a budget) -> at_turn_end -> timers -> reactor, memory
///
/// What timers send leaves in the same turn, too. With nothing to
/// run a worker searches the others, looks at its reactor for as long as that pays, and then
/// sleeps in it.
///
/// Threads: its own, except where a member says otherwise.
class alignas(64) worker final : public executor {
 public:
  worker(runtime_core& owner, unsigned index);
  ~worker();

  /// The worker whose thread this is, or null (also on a simulated executor). Never inlined, for
  /// the same reason as executor::current().
  [[nodiscard]] static worker* current() noexcept;

  // executor; post(), spawn(), wake() and now() from any thread.
  void post(work& item, priority urgency) noexcept override;
  void spawn(work& item, priority urgency) noexcept override;
  [[nodiscard]] bool fork(work& item, priority urgency) noexcept override;
  [[nodiscard]] bool take_back(work& item, priority urgency) noexcept override;
  void wake(work& item, priority urgency) noexcept override;
  void deliver(work& item, priority urgency) noexcept override;
  [[nodiscard]] bool should_yield() const noexcept override;
  void raise() noexcept override;
  void arm(timer& entry, clock::time_point deadline) noexcept override;
  void disarm(timer& entry) noexcept override;
  [[nodiscard]] clock::time_point now() const noexcept override;
  /// The time, or a time a little before: some microseconds, but for what runs long.
  [[nodiscard]] clock::time_point lately() const noexcept { return slept_ ? now() : latest_; }
  [[nodiscard]] errc post_blocking(work& item) noexcept override;
  void report_failure(std::exception_ptr failure) noexcept override;

  /// Runs `hook` once, after this turn's work and before the reactor is asked: where dirty sockets
  /// are written. A hook that is added by a hook runs at the end of the next turn, which does not
  /// sleep.
  ///
  /// Shape: in at most one queue at a time; not posted elsewhere meanwhile.
  void at_turn_end(work& hook) noexcept;

  /// Looks there in every turn from now on, and while it looks for work. Nothing happens if it does
  /// already; unwatch() likewise.
  void watch(memory_source& added) noexcept;
  void unwatch(memory_source& gone) noexcept;

  void add_component(component& added) noexcept;
  void remove_component(component& gone) noexcept;

  /// Threads: any, for all that follow.
  [[nodiscard]] runtime_core& runtime() const noexcept { return owner_; }
  [[nodiscard]] unsigned index() const noexcept { return index_; }
  /// Links that live here; what pick_home() compares.
  void link_opened() noexcept { open_links_.fetch_add(1, std::memory_order_relaxed); }
  void link_closed() noexcept { open_links_.fetch_sub(1, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t open_links() const noexcept {
    return open_links_.load(std::memory_order_relaxed);
  }
  /// How much of what was injected this worker has taken over, and how much of that came from it.
  [[nodiscard]] std::uint64_t injected_taken(std::size_t at) const noexcept {
    return injected_taken_[at].load(std::memory_order_seq_cst);
  }
  [[nodiscard]] std::uint64_t overflowed() const noexcept {
    return overflowed_;
  }
  /// Posts wait, and this worker will run them.
  [[nodiscard]] bool has_posts() const noexcept {
    return !gone_.load(std::memory_order_relaxed) && !inbox_.empty();
  }
  /// It may run roaming work of that priority, which is capped.
  [[nodiscard]] bool has_permit(std::size_t at) const noexcept {
    return (permits() & 1U << at) != 0;
  }
  /// Something was queued elsewhere that this worker should look at before its next item.
  void attract() noexcept { attention_.store(true, std::memory_order_release); }

  /// When the turn that runs began, in the ticks of clock; `asleep` while it waits.
  [[nodiscard]] std::int64_t alive() const noexcept {
    return alive_.load(std::memory_order_relaxed);
  }
  static constexpr std::int64_t asleep = 0;

  [[nodiscard]] hawser::reactor& reactor() noexcept { return *reactor_; }

  // Of a worker without a thread, on the thread that drives it.
  /// One turn, before which it waits at most `limit` if there is nothing to do. True: there is more
  /// to do at once.
  bool drive(clock::duration limit, bool readable = true) noexcept;
  [[nodiscard]] std::optional<clock::time_point> next_deadline() const noexcept {
    return timers_.next();
  }

 private:
  friend class runtime_core;

  enum class phase : std::uint8_t { running, closing, abandoning, stopping };
  struct component_list {
    component* first = nullptr;
    component* cursor = nullptr;  // next to be told
    bool untold = false;          // somebody has not heard of the current phase
  };
  struct priority_counters {
    counter stolen;
    std::array<counter, wait_histogram::buckets> waits;
  };
  struct counters {
    std::array<priority_counters, priority_count> priorities;
    counter turns;
    counter posts_received;
    counter parks;
    counter spins;
    counter spins_paid;
    counter spin_ns;
    counter timers_fired;
    counter longest_gap_ns;
    counter stalls;
  };
  // The item of a priority that is timed on its way through a queue.
  struct wait_sample {
    clock::time_point queued;
    unsigned skipped = 0;  // that would have been the next, had this one come through
  };

  // What runtime_core drives.
  void adopt(std::unique_ptr<hawser::reactor> own) noexcept;
  [[nodiscard]] bool ended() const noexcept { return ended_; }
  void drop_reactor() noexcept { reactor_.reset(); }
  void loop() noexcept;
  void enter_phase(phase next) noexcept;  // any thread
  [[nodiscard]] worker_stats stats() const noexcept;

  // A turn.
  void look() noexcept;
  void take_injected() noexcept;
  unsigned take_injected(priority urgency, unsigned most) noexcept;
  [[nodiscard]] bool wants_injected() const noexcept;
  void see_adjustment() noexcept;
  void run_items() noexcept;
  void run_hooks() noexcept;
  void see_phase() noexcept;
  [[nodiscard]] bool stir() noexcept;
  /// What comes before the reactor's turn, and when it was done. Empty: the worker ends.
  [[nodiscard]] std::optional<clock::time_point> run_turn() noexcept;
  [[nodiscard]] bool ends() noexcept;
  void enter() noexcept;
  void leave() noexcept;
  void run_rest() noexcept;
  void tell_components() noexcept;
  void end_turn(clock::time_point now) noexcept;
  // Queues.
  void spawn_here(work& item, priority urgency) noexcept;
  void share(work& item, priority urgency) noexcept;
  void hand_over(work& item, priority urgency) noexcept;
  void post_from_elsewhere(work& item, priority urgency) noexcept;
  void push_bound(work& item, priority urgency) noexcept {
    const auto at = static_cast<std::size_t>(urgency);
    if (ready_.push_bound(item, at)) time_bound(item, at);
  }
  void count_roaming(const work& item, std::size_t at) noexcept {
    if (ready_.count_roaming(item, at)) time_roaming(item, at);
  }
  void time_bound(const work& item, std::size_t at) noexcept;
  void time_roaming(const work& item, std::size_t at) noexcept;
  [[nodiscard]] bool take_sample(std::size_t at) noexcept;
  void end_sample(std::size_t at) noexcept;
  // Nothing to run.
  [[nodiscard]] bool has_work() const noexcept { return !ready_.empty() || !hooks_.empty(); }
  [[nodiscard]] bool is_wanted() const noexcept {
    return attention_.load(std::memory_order_seq_cst) ||
           phase_.load(std::memory_order_seq_cst) != told_phase_;
  }
  [[nodiscard]] clock::duration time_to_sleep(clock::time_point now) noexcept;
  void idle(clock::time_point start, clock::duration limit) noexcept;
  bool look_at_memory() noexcept;
  [[nodiscard]] bool doze() noexcept;
  [[nodiscard]] bool spin(clock::time_point start, clock::duration limit, bool searching) noexcept;
  void note_found(clock::duration spent) noexcept;
  void run_stirred(clock::time_point when) noexcept;
  void park(bool searching) noexcept;
  /// Says that it sleeps. False: there is something to do; answer_call() follows in any case.
  [[nodiscard]] bool announce(bool searching) noexcept;
  void answer_call() noexcept;
  [[nodiscard]] bool rest() noexcept;
  [[nodiscard]] bool search() noexcept;
  [[nodiscard]] bool search_stuck() noexcept;
  void stop_searching() noexcept;
  [[nodiscard]] bool anything_for_thieves() noexcept;
  // Caps: a worker takes roaming work of a capped priority only while it holds a permit.
  [[nodiscard]] unsigned permits() const noexcept {
    return permits_.load(std::memory_order_relaxed);
  }
  void set_permits(unsigned held) noexcept { permits_.store(held, std::memory_order_relaxed); }
  [[nodiscard]] bool may_take(std::size_t at) const noexcept;
  [[nodiscard]] bool hold_permit(std::size_t at) noexcept;
  bool give_up_permits(unsigned which) noexcept;
  void give_up_idle_permits(std::size_t running) noexcept;
  void see_cap(std::size_t at) noexcept;
  // Figures.
  void note_gap(clock::time_point now) noexcept;
  void note_awake() noexcept;

  // The worker's own.
  runtime_core& owner_;
  const unsigned index_;
  const bool alone_;
  std::unique_ptr<hawser::reactor> reactor_;
  ready_queues ready_;
  work_list hooks_;
  timer_wheel timers_;
  component_list components_;
  memory_source* sources_ = nullptr;  // that it looks at
  memory_source* next_source_ = nullptr;
  phase told_phase_ = phase::running;
  clock::time_point give_up_ = clock::time_point::max();  // when it ends in spite of work
  // Driven:
  bool idle_ = false;     // there was nothing to do when it was left
  bool resting_ = false;  // announced as asleep
  bool ended_ = false;
  bool quiet_ = false;  // has told the runtime that it is out of work; only when that ends
  std::atomic<unsigned> permits_{0};  // by priority; only the worker itself changes it
  unsigned more_injected_ = 0;  // priorities of which some were left for want of room
  std::size_t running_ = 0;  // priority of what runs
  unsigned next_victim_ = 0;
  std::uint64_t adjustment_ = 0;
  spin_budget spin_;
  std::array<wait_sample, priority_count> samples_;
  clock::time_point turn_start_;
  clock::time_point latest_;  // when the clock was read last
  bool slept_ = false;        // perhaps long ago
  alignas(64) counters counts_;
  std::array<std::atomic<std::uint64_t>, priority_count> injected_taken_{};
  counter overflowed_;
  // What other threads write.
  alignas(64) inbox inbox_;
  std::atomic<bool> attention_{false};
  std::atomic<bool> gone_{false};
  std::atomic<phase> phase_{phase::running};
  std::atomic<std::uint64_t> wakeups_sent_{0};
  std::atomic<std::uint64_t> wakeups_spared_{0};
  std::atomic<std::uint64_t> open_links_{0};
  // Read by thieves and by the watch: when the last turn began, on the clock of now().
  alignas(64) std::atomic<std::int64_t> alive_{0};
};

}  // namespace hawser::detail
