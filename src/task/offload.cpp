// SPDX-License-Identifier: Apache-2.0
#include "hawser/offload.hpp"

#include "core/assert.hpp"

namespace hawser::detail {

// After post_blocking() has taken it, the call may end and the frame be gone at any moment.
bool offload_base::suspend(std::coroutine_handle<> waiter, const task_context& context) noexcept {
  home_ = executor::current();
  HAWSER_ASSERT(home_ != nullptr);
  waiter_ = waiter;
  context_ = context;
  if (context.stop.stop_requested()) {
    state_ = state::skipped;
    return false;
  }
  const errc refusal = home_->post_blocking(*this);
  if (refusal == errc{}) return true;
  refusal_ = refusal;
  state_ = state::refused;
  return false;
}

void offload_base::run_blocking(work& self) noexcept {
  auto& call = static_cast<offload_base&>(self);
  if (call.context_.stop.stop_requested()) {
    call.state_ = state::skipped;
  } else {
    call.call();
  }
  call.run = &offload_base::run_resume;
  call.home_->post(call, call.context_.effective());
}

void offload_base::run_resume(work& self) noexcept {
  static_cast<offload_base&>(self).waiter_.resume();
}

void offload_base::require_called() const {
  if (state_ == state::skipped) failure(errc::cancelled, "offload").raise();
  if (state_ != state::refused) return;
  const bool full = refusal_ == errc::limit_reached;
  failure(refusal_, full ? "offload: queue is full" : "offload: no thread").raise();
}

}  // namespace hawser::detail
