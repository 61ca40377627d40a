// SPDX-License-Identifier: Apache-2.0
#include "hawser/executor.hpp"

namespace hawser::detail {
namespace {

thread_local executor* current_executor = nullptr;

}  // namespace

[[gnu::noinline]] executor* executor::current() noexcept {
  return current_executor;
}

[[gnu::noinline]] void executor::bind(executor* here) noexcept {
  current_executor = here;
}

}  // namespace hawser::detail
