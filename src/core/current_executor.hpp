// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "hawser/executor.hpp"

namespace hawser::detail {

/// What executor::current() tells, for functions that run on one thread from begin to end: never
/// for coroutines, see there.
extern constinit thread_local executor* current_executor;

}  // namespace hawser::detail
