// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

#include "hawser/hawser.hpp"
#include "support/config.hpp"
#include "support/watchdog.hpp"

namespace test {

/// Runs `body` on a worker of a runtime, for what has its home there.
template <class Body>
void on_worker(Body body) {
  const watchdog dog(std::chrono::seconds(60));
  hawser::runtime runtime(config(1));
  hawser::run(runtime, [&]() -> hawser::task<void> {
    body();
    co_return;
  });
}

}  // namespace test
