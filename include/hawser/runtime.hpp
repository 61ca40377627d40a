// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/executor.hpp"
#include "hawser/log.hpp"

namespace hawser {

/// What a worker parks in. `automatic` takes the best that the system allows.
enum class backend : std::uint8_t { automatic, io_uring, asio };

/// Where randomness comes from: link ids and secrets, so it must be fit for cryptography outside
/// of tests.
///
/// Threads: called from any worker.
class random_source {
 public:
  virtual ~random_source() = default;
  virtual void fill(std::byte* bytes, std::size_t count) noexcept = 0;
};

/// How a runtime is built. Zero in a number means its default, the one written here.
///
/// Errors: the runtime's constructor throws errc::bad_config naming field, value and range.
struct executor_config {
  unsigned threads = 0;  ///< 1..1024 workers; 0: as many as the process may use cores
  hawser::backend backend = hawser::backend::automatic;
  unsigned blocking_threads = 4;      ///< 1..1024, started on demand, for offload()
  unsigned blocking_queue = 4096;     ///< waiting offload() calls; beyond: errc::limit_reached
  std::chrono::milliseconds shutdown_deadline{5000};  ///< for links to close when the runtime ends
  log_sink log{};
  random_source* random = nullptr;  ///< null: the system's; must outlive the runtime
};

/// Which reactor runs, and why.
struct backend_report {
  backend chosen = backend::asio;
  std::string mechanism;             ///< "io_uring" or what Asio uses: "epoll", "kqueue", "iocp"
  std::string reason;                ///< one sentence: asked for, probed, or why it was refused
  std::vector<std::string> features; ///< what the probe found and the reactor uses
};

[[nodiscard]] std::string to_string(const backend_report& report);

/// Counters of one worker since its start; all monotonic.
struct worker_stats {
  std::uint64_t turns = 0;              ///< looks at the reactor
  std::uint64_t executed = 0;           ///< work items run
  std::uint64_t posts_received = 0;     ///< work items that came from other threads
  std::uint64_t wakeups_sent = 0;       ///< by other threads to this worker
  std::uint64_t timers_fired = 0;
  std::uint64_t system_calls = 0;       ///< made by the reactor (io_uring: io_uring_enter)
  std::uint64_t completions = 0;        ///< I/O completions or readiness events
  std::uint64_t multishot = 0;          ///< completions that announced more to come (F_MORE)
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
};

struct runtime_stats {
  std::vector<worker_stats> workers;
  std::uint64_t failed_tasks = 0;       ///< failures of scope::serve children
  std::uint64_t open_links = 0;
};

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

  [[nodiscard]] detail::runtime_core& core() const noexcept { return *core_; }

 private:
  std::unique_ptr<detail::runtime_core> core_;
};

namespace detail {

/// Where sync_wait() starts a task, and under which stop token.
[[nodiscard]] executor& entry_executor(runtime& where) noexcept;
[[nodiscard]] stop_token entry_stop(runtime& where) noexcept;

}  // namespace detail

}  // namespace hawser
