// SPDX-License-Identifier: Apache-2.0
#pragma once

// All that an application needs. `link` also belongs to POSIX: write hawser::link, and do not use
// the namespace as a whole.

#include "hawser/as_result.hpp"
#include "hawser/async_generator.hpp"
#include "hawser/buffer.hpp"
#include "hawser/errc.hpp"
#include "hawser/link.hpp"
#include "hawser/log.hpp"
#include "hawser/message.hpp"
#include "hawser/offload.hpp"
#include "hawser/parallel.hpp"
#include "hawser/result.hpp"
#include "hawser/run.hpp"
#include "hawser/runtime.hpp"
#include "hawser/scope.hpp"
#include "hawser/task.hpp"
#include "hawser/this_task.hpp"
#include "hawser/timeout.hpp"
#include "hawser/when.hpp"
