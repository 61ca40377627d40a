// SPDX-License-Identifier: Apache-2.0
#include "courier/signals.hpp"

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace courier {
namespace {

sigset_t endings() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGINT);
  ::sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

void block_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  const auto set = endings();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

signal_watch::signal_watch(std::function<void(int)> on_signal) : on_signal_(std::move(on_signal)) {
  const auto set = endings();
  waiter_ = std::thread([this, set] {
    for (int count = 1, number = 0;; ++count) {
      if (::sigwait(&set, &number) != 0 || ended_.load()) return;
      on_signal_(count);
    }
  });
}

signal_watch::~signal_watch() {
  ended_.store(true);
  ::pthread_kill(waiter_.native_handle(), SIGTERM);
  waiter_.join();
}

}  // namespace courier
