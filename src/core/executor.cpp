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

}  // namespace hawser::detail
