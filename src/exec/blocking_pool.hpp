// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

#include "exec/work_list.hpp"
#include "hawser/errc.hpp"
#include "hawser/executor.hpp"

namespace hawser::detail {

/// Threads for calls that block: started on demand, a bounded queue in front of them.
///
/// Threads: any.
class blocking_pool {
 public:
  blocking_pool(unsigned threads_max, unsigned queue_max) noexcept
      : threads_max_(threads_max), queue_max_(queue_max) {}
  blocking_pool(const blocking_pool&) = delete;
  blocking_pool& operator=(const blocking_pool&) = delete;
  ~blocking_pool() { stop(); }

  /// Queues `item`, or says why not: errc::limit_reached, `queue_max` items wait already;
  /// errc::resource_exhausted, no thread can be had; errc::closed, stopped. Zero: queued.
  [[nodiscard]] errc post(work& item) noexcept;
  /// Runs what is queued, then ends the threads. Waits for both.
  void stop() noexcept;

 private:
  void thread_main() noexcept;
  [[nodiscard]] bool ensure_thread() noexcept;

  const std::size_t threads_max_;
  const std::size_t queue_max_;
  std::mutex mutex_;  // what follows
  std::condition_variable changed_;
  work_list queue_;
  std::size_t queued_ = 0;
  std::size_t idle_ = 0;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace hawser::detail
