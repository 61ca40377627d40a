// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace test {

/// Ends the process if the test that holds it has not gone on within `limit`: a deadlock becomes a
/// failure that names its place, not a run that never ends.
///
/// Sanitizers slow everything down; the limit is stretched for them.
class watchdog {
 public:
  explicit watchdog(std::chrono::seconds limit, const char* file = __builtin_FILE(),
                    int line = __builtin_LINE());
  ~watchdog();
  watchdog(const watchdog&) = delete;
  watchdog& operator=(const watchdog&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace test
