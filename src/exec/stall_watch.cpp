// SPDX-License-Identifier: Apache-2.0
#include "exec/stall_watch.hpp"

#include <algorithm>
#include <chrono>

#include "exec/runtime_core.hpp"
#include "os/platform.hpp"

namespace hawser::detail {
namespace {

// Of the threshold: a stall is seen at most a quarter of it late.
constexpr int looks_a_threshold = 4;

}  // namespace

stall_watch::stall_watch(runtime_core& owner, clock::duration threshold)
    : owner_(owner),
      threshold_(threshold),
      reported_(owner.size()),
      thread_(platform::start_thread("hawser-watch", [this] { thread_main(); })) {}

stall_watch::~stall_watch() {
  {
    const std::lock_guard guard(mutex_);
    stopped_ = true;
    changed_.notify_one();
  }
  thread_.join();
}

void stall_watch::thread_main() noexcept {
  std::unique_lock guard(mutex_);
  while (!stopped_) {
    changed_.wait_for(guard, threshold_ / looks_a_threshold, [this] { return stopped_; });
    if (!stopped_) look();
  }
}

void stall_watch::look() noexcept {
  const auto now = clock::now().time_since_epoch().count();
  for (unsigned i = 0; i < owner_.size(); ++i) {
    const worker& each = owner_.worker(i);
    const auto since = each.alive();
    if (since == worker::asleep || since == reported_[i]) continue;
    const std::chrono::nanoseconds held(now - since);
    if (held < threshold_) continue;
    reported_[i] = since;
    owner_.report_stall(each, held);
  }
}

}  // namespace hawser::detail
