// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/executor.hpp"
#include "hawser/log.hpp"

namespace hawser {

/// What a worker parks in. `automatic` takes the best that the system allows.
enum class backend : std::uint8_t { automatic, io_uring, asio };

/// Whether workers are bound to cores. `cores`: worker i to the i-th core the process may use,
/// around again if there are more workers. `list`: worker i to executor_config::cpus[i % size].
enum class pinning : std::uint8_t { none, cores, list };

/// How the next priority is chosen when several wait. Every policy but `strict` bounds how long a
/// backlogged priority waits, see longest_wait(). One that was idle comes back without credit; an
/// urgent one that has not just run for more than its share runs next.
enum class dispatch_policy : std::uint8_t {
  fair_time,  ///< least weighted run time first; of one task, 1 us to poll_interval count
  weighted,   ///< fewest tasks by weight first, however long they run
  strict      ///< the most urgent always; the others may starve
};

/// What happens to a post() from outside at its queue_limit.
enum class overflow : std::uint8_t {
  wait,   ///< the posting thread sleeps until there is room; a worker that posts never waits
  reject  ///< errc::limit_reached
};

/// How long a worker that has nothing to do looks for work before it sleeps.
struct spin_policy {
  enum class mode : std::uint8_t {
    adaptive,  ///< as long as it pays: a wait that ended within `limit` earns what it saved, one
               ///< that did not costs what it took; on credit gone the worker sleeps at once
    fixed,     ///< always for `limit`
    off
  };
  mode how = mode::adaptive;
  std::chrono::nanoseconds limit = std::chrono::microseconds(20);  ///< 100 ns..10 ms

  bool operator==(const spin_policy&) const = default;
};

/// Where randomness comes from: link ids and secrets, so it must be fit for cryptography outside
/// of tests.
///
/// Threads: called from any worker.
class random_source {
 public:
  virtual ~random_source() = default;
  virtual void fill(std::byte* bytes, std::size_t count) noexcept = 0;
};

/// A worker's task held its thread for too long, or holds it still.
struct stall_event {
  unsigned worker = 0;
  std::chrono::nanoseconds held{};  ///< so far
  std::string_view place;           ///< of the coroutine that was resumed: its name, or an address
};

/// Called on the thread that they are about. None may throw or block for long.
struct runtime_hooks {
  std::function<void(unsigned worker)> thread_start{};
  std::function<void(unsigned worker)> thread_stop{};
  std::function<void(const stall_event&)> stall{};  ///< on the watching thread
};

/// How a runtime is built. Zero in a number means its default, the one written here.
///
/// Errors: the runtime's constructor throws errc::bad_config naming field, value and range.
struct executor_config {
  unsigned threads = 0;  ///< 1..1024 workers; 0: cores by affinity, fewer under a cgroup quota
  hawser::backend backend = hawser::backend::automatic;
  pinning pin = pinning::none;
  std::vector<unsigned> cpus{};  ///< for pinning::list, else empty: cores the process may use
  spin_policy spin{};
  dispatch_policy policy = dispatch_policy::fair_time;
  /// Shares of control, rpc, stream and bulk when all wait: 1..1000 each.
  std::array<unsigned, priority_count> weights{64, 32, 16, 8};
  /// Workers that spawned and posted work of a priority may occupy at once, up to `threads`;
  /// 0: all.
  std::array<unsigned, priority_count> max_workers{};
  bool steal = true;  ///< idle workers take spawned work from busy ones
  /// Posts of a priority from outside that may wait; beyond: `on_full`. 1..2^24.
  std::array<unsigned, priority_count> queue_limit{65536, 65536, 65536, 65536};
  overflow on_full = overflow::wait;
  std::chrono::microseconds poll_interval{200};  ///< busy workers look at sockets; 10 us..100 ms
  unsigned blocking_threads = 4;                 ///< 1..1024, started on demand, for offload()
  /// Waiting offload() calls, 1..2^20; beyond: errc::limit_reached.
  unsigned blocking_queue = 4096;
  std::chrono::milliseconds stall_threshold{1000};  ///< 1 ms..1 h
  unsigned stats_sample = 256;  ///< one queue wait in so many is measured; 1..65536
  /// For links to close when the runtime ends; 1 ms..24 h.
  std::chrono::milliseconds shutdown_deadline{5000};
  runtime_hooks hooks{};
  log_sink log{};
  random_source* random = nullptr;  ///< null: the system's; must outlive the runtime

  /// For the shortest round trips on cores of its own: pinned, spins for 100 us before it sleeps,
  /// looks at sockets every 50 us.
  [[nodiscard]] static executor_config low_latency();
  /// For many connections on all cores: spins only where that pays, looks at sockets every 1 ms.
  [[nodiscard]] static executor_config throughput();
  /// For a machine that others use: half the cores, bulk on one, no spinning.
  [[nodiscard]] static executor_config shared_host();

  /// Fields separated by spaces, `threads=4 spin=20us weights=64:32:16:8`, over `base`; a preset's
  /// name may come first and replaces all of them. What code alone can give (hooks, log, random)
  /// stays as in `base`. The forms are listed in src/exec/README.md.
  ///
  /// Errors: throws errc::bad_config naming the field, the value and the accepted range. What
  ///         depends on other fields or on the machine (max_workers, cores) the runtime checks.
  [[nodiscard]] static executor_config parse(std::string_view text);
  [[nodiscard]] static executor_config parse(std::string_view text, executor_config base);
  /// HAWSER_EXECUTOR as a whole, then one variable a field, HAWSER_THREADS=4, over `base`. Nothing
  /// in the library calls this: an application that wants to be tuned from outside does.
  ///
  /// Errors:  as parse(), naming the variable. One that is empty counts as not set.
  /// Threads: while none changes the environment.
  [[nodiscard]] static executor_config from_environment();
  [[nodiscard]] static executor_config from_environment(executor_config base);
};

/// What parse() reads: every field that has a text form and is not the default. Of a spin_policy
/// that is off the limit, which then has no meaning, is left out.
[[nodiscard]] std::string to_string(const executor_config& config);

/// How many tasks of other priorities a worker begins at most, while tasks of priority `urgency`
/// wait, before the first of these: a function of policy, weights and poll_interval alone, given
/// in src/exec/README.md. Empty: no bound (dispatch_policy::strict, unless `urgency` is control).
[[nodiscard]] std::optional<std::uint64_t> longest_wait(const executor_config& config,
                                                        priority urgency) noexcept;

}  // namespace hawser
