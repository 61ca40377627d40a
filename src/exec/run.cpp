// SPDX-License-Identifier: Apache-2.0
#include "hawser/run.hpp"

#include "core/assert.hpp"

namespace hawser::detail {

void blocking_wait::run(runtime& where, child root) {
  HAWSER_ASSERT(executor::current() == nullptr);
  task_context context;
  context.stop = entry_stop(where);
  root.start_on(entry_executor(where), context);
  std::unique_lock guard(mutex_);
  changed_.wait(guard, [this] { return done_; });
}

// Notifies under the lock: the sleeper cannot return, and end us, before we have let go.
void blocking_wait::done() noexcept {
  const std::lock_guard guard(mutex_);
  done_ = true;
  changed_.notify_one();
}

}  // namespace hawser::detail
