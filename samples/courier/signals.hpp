// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace courier {

/// Blocks SIGINT and SIGTERM in the calling thread and in all that it starts later, for a
/// signal_watch to hear them. Also keeps SIGPIPE and SIGXFSZ from ending the process: their causes
/// are reported as errors. Call it before any thread is started.
void block_signals();

/// Calls a function for each SIGINT and SIGTERM, on a thread of its own, also for those that came
/// after block_signals() and before the watch.
class signal_watch {
 public:
  /// Shape: `on_signal` gets 1 for the first signal, 2 for the second, ...
  explicit signal_watch(std::function<void(int)> on_signal);
  ~signal_watch();
  signal_watch(const signal_watch&) = delete;
  signal_watch& operator=(const signal_watch&) = delete;

 private:
  std::function<void(int)> on_signal_;
  std::atomic<bool> ended_{false};
  std::thread waiter_;
};

}  // namespace courier
