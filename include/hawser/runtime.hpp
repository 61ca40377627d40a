// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <concepts>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hawser/executor.hpp"
#include "hawser/executor_config.hpp"
#include "hawser/posted.hpp"
#include "hawser/stats.hpp"

namespace hawser {

/// Which reactor runs, and why.
struct backend_report {
  backend chosen = backend::asio;
  std::string mechanism;             ///< "io_uring" or what Asio uses: "epoll", "kqueue", "iocp"
  std::string reason;                ///< one sentence: asked for, probed, or why it was refused
  std::vector<std::string> features; ///< what the probe found and the reactor uses
};

[[nodiscard]] std::string to_string(const backend_report& report);

namespace detail {
class runtime_core;
}

/// The executor: workers that each own a reactor, run queues by priority and a timer wheel.
///
/// The destructor asks everything to stop, closes the links in order within
/// `shutdown_deadline`, and joins its threads.
///
/// Threads: all members may be called from any thread; the destructor from no worker.
class runtime {
 public:
  /// Errors: throws std::system_error: errc::bad_config, errc::unsupported (a backend that was
  ///         asked for by name is not available), errc::resource_exhausted.
  explicit runtime(executor_config config = {});
  ~runtime();
  runtime(const runtime&) = delete;
  runtime& operator=(const runtime&) = delete;

  /// Requests stop of every task that runs in it; run() and sync_wait() end with their outcome.
  void request_stop() noexcept;
  [[nodiscard]] backend_report report() const;
  /// Cost: sums a few counters a worker; workers are not disturbed.
  [[nodiscard]] runtime_stats stats() const;
  [[nodiscard]] unsigned threads() const noexcept;

  /// Runs `function` once, on whichever worker is free first. What it throws is logged and
  /// counted. What waits when the runtime ends still runs.
  ///
  /// Errors:  throws std::bad_alloc; errc::limit_reached at queue_limit with overflow::reject.
  /// Threads: any; at queue_limit a thread that is no worker may sleep, see executor_config.
  /// Cost:    one recycled block of memory; a wake-up only if nobody is awake to take it.
  template <std::invocable F>
  void post(F&& function, priority urgency = priority::rpc) {
    post(detail::make_posted(std::forward<F>(function)), urgency);
  }

  /// What can change while it runs; what is not set stays.
  struct adjustment {
    std::optional<spin_policy> spin{};
    std::optional<std::array<unsigned, priority_count>> weights{};
    std::optional<std::array<unsigned, priority_count>> max_workers{};
  };
  /// Takes effect within a turn of each worker.
  ///
  /// Errors: throws errc::bad_config as the constructor does; nothing has changed then.
  void adjust(const adjustment& change);

  [[nodiscard]] detail::runtime_core& core() const noexcept { return *core_; }

 protected:
  explicit runtime(std::unique_ptr<detail::runtime_core> core) noexcept;

 private:
  void post(detail::posted_work& item, priority urgency);

  std::unique_ptr<detail::runtime_core> core_;
};

namespace detail {

/// Where sync_wait() starts a task, and under which stop token.
[[nodiscard]] executor& entry_executor(runtime& where) noexcept;
[[nodiscard]] stop_token entry_stop(runtime& where) noexcept;
/// The end of the runtime waits for what has begun, as for a link, until it has ended.
void work_began(runtime& where) noexcept;
void work_ended(runtime& where) noexcept;
/// This thread is a worker of it, and runs something.
[[nodiscard]] bool runs_here(const runtime& where) noexcept;

}  // namespace detail

}  // namespace hawser
