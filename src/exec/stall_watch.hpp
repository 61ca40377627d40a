// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "hawser/executor.hpp"

namespace hawser::detail {

class runtime_core;

/// A thread that looks at the workers now and then and says which of them is held by a task that
/// does not give way, while it is.
///
/// Threads: made and destroyed by the runtime's owner.
class stall_watch {
 public:
  /// Errors: throws std::system_error if the system has no thread.
  stall_watch(runtime_core& owner, clock::duration threshold);
  stall_watch(const stall_watch&) = delete;
  stall_watch& operator=(const stall_watch&) = delete;
  ~stall_watch();

 private:
  void thread_main() noexcept;
  void look() noexcept;

  runtime_core& owner_;
  const clock::duration threshold_;
  std::vector<std::int64_t> reported_;  // by worker: the turn that was reported last
  std::mutex mutex_;                    // what follows
  std::condition_variable changed_;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace hawser::detail
