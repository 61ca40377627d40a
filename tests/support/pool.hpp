// SPDX-License-Identifier: Apache-2.0
#pragma once

// What tests of the runtime's scheduling share.

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "exec/runtime_core.hpp"
#include "hawser/errc.hpp"
#include "hawser/runtime.hpp"
#include "support/config.hpp"
#include "support/environment.hpp"

namespace test {

/// Runs `action` as one piece of work, once, and frees itself.
template <class F>
struct job final : hawser::detail::work {
  explicit job(F what) : work(&job::run_and_free), action(std::move(what)) {}
  static void run_and_free(work& self) noexcept {
    const std::unique_ptr<job> owned(static_cast<job*>(&self));
    owned->action();
  }
  F action;
};

template <class F>
[[nodiscard]] hawser::detail::work& make_job(F action) {
  return *new job<F>(std::move(action));
}

template <class F>
void post_to(hawser::detail::executor& where, F action,
             hawser::priority urgency = hawser::priority::rpc) {
  where.post(make_job(std::move(action)), urgency);
}

template <class F>
void spawn_on(hawser::detail::executor& where, F action,
              hawser::priority urgency = hawser::priority::rpc) {
  where.spawn(make_job(std::move(action)), urgency);
}

/// Runs `action` on that worker and waits for it.
template <class F>
void run_on(hawser::detail::executor& where, F action) {
  std::promise<void> done;
  post_to(where, [&] {
    action();
    done.set_value();
  });
  done.get_future().wait();
}

template <class F>
void wait_until(F condition) {
  while (!condition()) std::this_thread::yield();
}

/// The runtime under test, or null after skip().
[[nodiscard]] inline std::unique_ptr<hawser::runtime> make_runtime(hawser::executor_config config) {
  try {
    return std::make_unique<hawser::runtime>(std::move(config));
  } catch (const std::system_error& error) {
    if (error.code() != hawser::errc::unsupported) throw;
    skip(error.what());
    return nullptr;
  }
}

/// Holds a worker's thread from hold() until release().
class holder {
 public:
  explicit holder(hawser::detail::executor& held) { hold(held); }
  ~holder() { release(); }
  holder(const holder&) = delete;
  holder& operator=(const holder&) = delete;

  void release() {
    if (!released_) open_.set_value();
    released_ = true;
    ended_.wait();
  }

 private:
  void hold(hawser::detail::executor& held) {
    std::promise<void> begun;
    auto gone = std::make_shared<std::promise<void>>();
    ended_ = gone->get_future().share();
    post_to(
        held,
        [&begun, gone, open = open_.get_future().share()] {
          begun.set_value();
          open.wait();
          gone->set_value();
        },
        hawser::priority::control);
    begun.get_future().wait();
  }

  std::promise<void> open_;
  std::shared_future<void> ended_;
  bool released_ = false;
};

}  // namespace test
