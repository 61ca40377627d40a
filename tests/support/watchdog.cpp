// SPDX-License-Identifier: Apache-2.0
#include "support/watchdog.hpp"

#include <cstdlib>
#include <iostream>

namespace test {
namespace {

constexpr int stretch = 5;

}  // namespace

watchdog::watchdog(std::chrono::seconds limit, const char* file, int line)
    : thread_([this, limit, file, line] {
        std::unique_lock guard(mutex_);
        if (changed_.wait_for(guard, limit * stretch, [this] { return over_; })) return;
        std::cerr << file << ':' << line << ": no end within " << (limit * stretch).count()
                  << " s\n";
        std::abort();
      }) {}

watchdog::~watchdog() {
  {
    const std::lock_guard guard(mutex_);
    over_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

}  // namespace test
