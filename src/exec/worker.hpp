// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "exec/inbox.hpp"
#include "exec/run_queue.hpp"
#include "exec/timer_wheel.hpp"
#include "hawser/executor.hpp"
#include "hawser/runtime.hpp"
#include "os/reactor.hpp"

namespace hawser::detail {

class runtime_core;
class worker;

/// Something of the runtime that has to end in order before its worker may: a link, a listener.
///
/// Threads: registered, removed and called on its home worker only.
class component {
 public:
  component(const component&) = delete;
  component& operator=(const component&) = delete;

  /// The runtime ends: close in order, then remove_component(). Called once, from the worker's
  /// loop, also for a component that is added later.
  virtual void on_shutdown() noexcept = 0;
  /// `shutdown_deadline` has passed: close hard. The worker turns a little longer, so that
  /// on_closed of sockets still arrives; what is not removed then is left behind.
  virtual void on_abandon() noexcept = 0;

 protected:
  component() = default;
  ~component() = default;

 private:
  friend class worker;

  component* previous_ = nullptr;
  component* next_ = nullptr;
  unsigned told_ = 0;  // 1: on_shutdown, 2: on_abandon
};

/// One thread of the runtime: run queues by priority, a timer wheel and a reactor.
///
///   loop: inbox -> run queues (a budget) -> timers -> at_turn_end -> reactor.turn()
///
/// Timers come before the hooks, so that what they send leaves in the same turn.
///
/// Threads: its own, except where a member says otherwise.
class alignas(64) worker final : public executor {
 public:
  worker(runtime_core& owner, unsigned index);
  ~worker();

  /// The worker whose thread this is, or null (also on a simulated executor). Never inlined, for
  /// the same reason as executor::current().
  [[nodiscard]] static worker* current() noexcept;

  // executor; post() and now() from any thread.
  void post(work& item, priority urgency) noexcept override;
  void arm(timer& entry, clock::time_point deadline) noexcept override;
  void disarm(timer& entry) noexcept override;
  [[nodiscard]] clock::time_point now() const noexcept override;
  [[nodiscard]] bool post_blocking(work& item) noexcept override;
  void report_failure(std::exception_ptr failure) noexcept override;

  /// Runs `hook` once, after this turn's work and before the reactor is asked: where dirty sockets
  /// are written. A hook that is added by a hook runs at the end of the next turn, which does not
  /// sleep.
  ///
  /// Shape: in at most one queue at a time; not posted elsewhere meanwhile.
  void at_turn_end(work& hook) noexcept;

  void add_component(component& added) noexcept;
  void remove_component(component& gone) noexcept;

  /// Threads: any, for all four.
  [[nodiscard]] runtime_core& runtime() const noexcept { return owner_; }
  [[nodiscard]] unsigned index() const noexcept { return index_; }
  /// Links that live here; what pick_home() compares.
  void link_opened() noexcept { open_links_.fetch_add(1, std::memory_order_relaxed); }
  void link_closed() noexcept { open_links_.fetch_sub(1, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t open_links() const noexcept {
    return open_links_.load(std::memory_order_relaxed);
  }

  [[nodiscard]] hawser::reactor& reactor() noexcept { return *reactor_; }

 private:
  friend class runtime_core;

  enum class phase : std::uint8_t { running, closing, abandoning, stopping };
  struct component_list {
    component* first = nullptr;
    component* cursor = nullptr;  // next to be told
    bool untold = false;          // somebody has not heard of the current phase
  };
  // Written by the worker's thread only, read by anybody.
  struct published_counters {
    std::atomic<std::uint64_t> turns{0};
    std::atomic<std::uint64_t> executed{0};
    std::atomic<std::uint64_t> posts_received{0};
    std::atomic<std::uint64_t> timers_fired{0};
    std::atomic<std::uint64_t> system_calls{0};
    std::atomic<std::uint64_t> completions{0};
    std::atomic<std::uint64_t> multishot{0};
    std::atomic<std::uint64_t> bytes_read{0};
    std::atomic<std::uint64_t> bytes_written{0};
  };

  // What runtime_core drives.
  void adopt(std::unique_ptr<hawser::reactor> own) noexcept { reactor_ = std::move(own); }
  void drop_reactor() noexcept { reactor_.reset(); }
  void loop() noexcept;
  void enter_phase(phase next) noexcept;  // any thread
  [[nodiscard]] worker_stats stats() const noexcept;

  void drain_inbox() noexcept;
  void run_items() noexcept;
  void run_hooks() noexcept;
  void see_phase() noexcept;
  void tell_components() noexcept;
  [[nodiscard]] clock::duration time_to_sleep() noexcept;
  void turn_reactor() noexcept;
  void publish() noexcept;

  // The worker's own.
  runtime_core& owner_;
  const unsigned index_;
  std::unique_ptr<hawser::reactor> reactor_;
  run_queue queue_;
  work_list hooks_;
  timer_wheel timers_;
  component_list components_;
  phase told_phase_ = phase::running;
  bool quiet_ = false;  // has told runtime_core::may_end() that it is out of work
  worker_stats counts_;
  alignas(64) published_counters published_;
  // What other threads write.
  alignas(64) inbox inbox_;
  std::atomic<bool> parked_{false};
  std::atomic<phase> phase_{phase::running};
  std::atomic<std::uint64_t> wakeups_sent_{0};
  std::atomic<std::uint64_t> open_links_{0};
};

}  // namespace hawser::detail
