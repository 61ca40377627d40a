// SPDX-License-Identifier: Apache-2.0
#include "hawser/this_task.hpp"

#include <algorithm>

#include "core/assert.hpp"
#include "core/current_executor.hpp"

namespace hawser {
namespace {

// Longer than any process lives, and small enough to be added to the clock.
constexpr clock::duration longest = std::chrono::hours(24 * 365 * 100);

}  // namespace

sleep_op::sleep_op(clock::duration length) noexcept
    : timer(&sleep_op::run_wake),
      length_(std::clamp(length, clock::duration::zero(), longest)),
      has_end_(false) {}

sleep_op::sleep_op(clock::time_point end) noexcept
    : timer(&sleep_op::run_wake), length_(), end_(end), has_end_(true) {}

sleep_op::sleep_op(sleep_op&& other) noexcept
    : operation(std::move(other)),
      timer(&sleep_op::run_wake),
      length_(other.length_),
      end_(other.end_),
      has_end_(other.has_end_) {}

void sleep_op::suspend(std::coroutine_handle<> sleeper,
                       const detail::task_context& context) noexcept {
  detail::executor* const here = detail::current_executor;
  HAWSER_ASSERT(here != nullptr);
  begin(*here, sleeper, context);
  here->arm(*this, has_end_ ? end_ : here->now() + length_);
  watch_stop();
}

void sleep_op::run_wake(detail::timer& self) noexcept {
  static_cast<sleep_op&>(self).finish();
}

void sleep_op::on_cancel() noexcept {
  if (armed()) home().disarm(*this);
  cancelled_ = true;
  finish();
}

result<void> sleep_op::await_result() const {
  if (cancelled_) return failure(errc::cancelled, "sleep");
  return {};
}

bool this_task::should_yield() noexcept {
  const detail::executor* const here = detail::executor::current();
  return here != nullptr && here->should_yield();
}

void yield_op::suspend(std::coroutine_handle<> yielder,
                       const detail::task_context& context) noexcept {
  detail::executor* const here = detail::current_executor;
  HAWSER_ASSERT(here != nullptr);
  yielder_ = yielder;
  home_ = here;
  stop_ = context.stop;
  here->post(*this, context.effective());
}

void yield_op::run_resume(detail::work& self) noexcept {
  auto& yielded = static_cast<yield_op&>(self);
  const auto yielder = yielded.yielder_;
  yielded.home_->note_resumed(yielder);
  yielder.resume();
}

result<void> yield_op::await_result() const {
  if (stop_.stop_requested()) return failure(errc::cancelled, "yield");
  return {};
}

}  // namespace hawser
