// SPDX-License-Identifier: Apache-2.0
#include "hawser/executor.hpp"

#include "core/current_executor.hpp"

namespace hawser::detail {

constinit thread_local executor* current_executor = nullptr;

[[gnu::noinline]] executor* executor::current() noexcept {
  return current_executor;
}

[[gnu::noinline]] void executor::bind(executor* here) noexcept {
  current_executor = here;
}

priority parent_urgency::raise_by(priority own, const parent_urgency& parent) noexcept {
  const parent_urgency* at = &parent;
  for (unsigned level = 0; at != nullptr && level < levels; ++level, at = at->outer_) {
    if (!at->waits_.load(std::memory_order_relaxed)) break;
    if (at->own_ < own) own = at->own_;
  }
  return own;
}

}  // namespace hawser::detail
