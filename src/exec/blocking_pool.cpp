// SPDX-License-Identifier: Apache-2.0
#include "exec/blocking_pool.hpp"

#include <exception>

#include "os/platform.hpp"

namespace hawser::detail {

errc blocking_pool::post(work& item) noexcept {
  const std::lock_guard guard(mutex_);
  if (stopped_) return errc::closed;
  if (queued_ >= queue_max_) return errc::limit_reached;
  if (!ensure_thread()) return errc::resource_exhausted;
  queue_.push(item);
  ++queued_;
  changed_.notify_one();
  return {};
}

// One more thread if nobody is free for one more item. A thread that cannot be started is no
// failure as long as there is another one.
bool blocking_pool::ensure_thread() noexcept {
  if (idle_ > queued_ || threads_.size() >= threads_max_) return true;
  try {
    threads_.reserve(threads_.size() + 1);
    threads_.push_back(platform::start_thread("hawser-blocking", [this] { thread_main(); }));
  } catch (const std::exception&) {
    return !threads_.empty();
  }
  return true;
}

void blocking_pool::thread_main() noexcept {
  std::unique_lock guard(mutex_);
  for (;;) {
    while (queue_.empty() && !stopped_) {
      ++idle_;
      changed_.wait(guard);
      --idle_;
    }
    if (queue_.empty()) return;
    work& item = queue_.pop();
    --queued_;
    guard.unlock();
    item.run(item);
    guard.lock();
  }
}

void blocking_pool::stop() noexcept {
  std::vector<std::thread> ending;
  {
    const std::lock_guard guard(mutex_);
    stopped_ = true;
    ending.swap(threads_);
    changed_.notify_all();
  }
  for (std::thread& thread : ending) thread.join();
}

}  // namespace hawser::detail
