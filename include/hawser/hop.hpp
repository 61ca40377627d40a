// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <coroutine>

#include "hawser/executor.hpp"
#include "hawser/task.hpp"

namespace hawser::detail {

/// Continues the awaiting task on `target`; at once if it is there already.
///
/// Shape:  `target` outlives the await.
/// Cancel: not by the stop token: it waits for nobody.
/// Cost:   one post, no allocation.
class [[nodiscard]] hop_to final : private work {
 public:
  explicit hop_to(executor& target) noexcept : work(&hop_to::run_resume), target_(&target) {}

  [[nodiscard]] bool await_ready() const noexcept { return executor::current() == target_; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> traveller) noexcept {
    traveller_ = traveller;
    target_->post(*this, context_of(traveller).effective());
  }
  void await_resume() const noexcept {}

 private:
  static void run_resume(work& self) noexcept { static_cast<hop_to&>(self).traveller_.resume(); }

  executor* target_;
  std::coroutine_handle<> traveller_;
};

}  // namespace hawser::detail
