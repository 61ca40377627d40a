// SPDX-License-Identifier: Apache-2.0
#include "hawser/run.hpp"

#include <chrono>
#include <system_error>
#include <utility>

#include "core/assert.hpp"
#include "exec/runtime_core.hpp"
#include "hawser/errc.hpp"
#include "hawser/posted.hpp"

namespace hawser {
namespace detail {
namespace {

child run_started(runtime_core& inside, task<void> work, stop_token stop) {
  try {
    task<void> own = std::move(work);
    co_await std::move(own);
  } catch (const std::system_error& error) {
    if (error.code() != errc::cancelled || !stop.stop_requested()) report_posted_failure();
  } catch (...) {
    report_posted_failure();
  }
  inside.work_ended();
}

}  // namespace

void blocking_wait::run(runtime& where, child root) {
  HAWSER_ASSERT(executor::current() == nullptr);
  task_context context;
  context.stop = entry_stop(where);
  root.start_on(entry_executor(where), context);
  if (where.core().is_driven()) {
    while (!done_) where.core().worker(0).drive(std::chrono::hours(1));
    return;
  }
  std::unique_lock guard(mutex_);
  changed_.wait(guard, [this] { return done_; });
}

// Notifies under the lock: the sleeper cannot return, and end us, before we have let go.
void blocking_wait::done() noexcept {
  const std::lock_guard guard(mutex_);
  done_ = true;
  changed_.notify_one();
}

}  // namespace detail

void start(runtime& where, task<void> work) {
  detail::task_context context;
  context.stop = detail::entry_stop(where);
  auto root = detail::run_started(where.core(), std::move(work), context.stop);
  where.core().work_began();
  std::move(root).start_on(detail::entry_executor(where), context);
}

}  // namespace hawser
