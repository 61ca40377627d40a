// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "hawser/executor_config.hpp"
#include "hawser/runtime.hpp"

namespace hawser {

/// A runtime of one worker without a thread, for a program that has an event loop already: that
/// loop waits for it and runs it.
///
///   wait until poll_handle() is readable or next_deadline() has come -> run_ready() until false
///
/// Tasks, links and listeners in it run inside run_ready(), on the thread of the loop, beside
/// whatever else the loop does. run() and sync_wait() drive it themselves until their task has
/// ended; start() does not wait. Nothing spins. Calls that block, as offload() makes them, still
/// have threads of their own.
///
/// The destructor closes the links in order, as that of runtime, and meanwhile blocks.
///
/// Threads: everything that drives it, and the destructor, on the thread that made it; the members
///          of runtime on any: what they queue makes poll_handle() readable.
class driven_runtime : public runtime {
 public:
  /// `threads` is one or not set.
  ///
  /// Errors: as runtime; errc::unsupported if this system's loops cannot wait for a reactor.
  explicit driven_runtime(executor_config config = {});
  ~driven_runtime();

  /// Runs what is ready, for about `poll_interval`; never waits. True: there is more, call again
  /// soon.
  ///
  /// Shape: not from inside a task of any runtime. `readable` may be false, which spares a system
  ///        call, where poll_handle() is still being waited for.
  bool run_ready(bool readable = true) noexcept;
  /// When run_ready() has to be called even if nothing has become readable; none: no timer is set.
  [[nodiscard]] std::optional<clock::time_point> next_deadline() const noexcept;
  /// What becomes readable when there is something to do: a file descriptor. It stays the
  /// runtime's, and is the same from beginning to end.
  [[nodiscard]] std::intptr_t poll_handle() const noexcept;
  /// Tasks that were started, links or listeners live in it: something may happen by itself.
  ///
  /// Threads: any.
  [[nodiscard]] bool has_work() const noexcept;

  /// From now on, when the thread that drives it queues something from outside of run_ready(),
  /// `wanted(context)` is called and poll_handle() stays as it is: no system call. run_ready() has
  /// to be called soon then.
  ///
  /// Shape: `wanted` only takes a note; null: no more calls.
  void on_wanted(void (*wanted)(void* context) noexcept, void* context) noexcept;
};

}  // namespace hawser
