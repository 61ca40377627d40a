// SPDX-License-Identifier: Apache-2.0
#include "hawser/group.hpp"

#include <system_error>

#include "core/assert.hpp"

namespace hawser::detail {

bool is_cancelled(const std::error_code& code) noexcept {
  return code == std::errc::operation_canceled;
}

bool is_cancelled(const std::exception_ptr& error) noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const std::system_error& why) {
    return is_cancelled(why.code());
  } catch (...) {
    return false;
  }
}

void child::promise_type::run_start(work& self) noexcept {
  const auto frame = handle::from_promise(static_cast<promise_type&>(self));
  executor::current()->note_resumed(frame);
  frame.resume();
}

priority urgency_of(const work& item, priority queued) noexcept {
  if (item.run != &child::promise_type::run_start) return queued;
  const priority now = static_cast<const child::promise_type&>(item).context().effective();
  return now < queued ? now : queued;
}

// All let go of the frame first: it destroys itself, maybe before resume() or post() return.
void child::start(const task_context& context) noexcept {
  const handle frame = std::exchange(frame_, {});
  frame.promise().set_context(context);
  frame.resume();
}

void child::start_on(executor& where, const task_context& context) noexcept {
  const handle frame = std::exchange(frame_, {});
  frame.promise().set_context(context);
  where.post(frame.promise(), context.effective());
}

void child::spawn_on(executor& where, const task_context& context) noexcept {
  const handle frame = std::exchange(frame_, {});
  frame.promise().set_context(context);
  where.spawn(frame.promise(), context.effective());
}

void group::enter() noexcept {
  // relaxed: whoever starts a child is a member itself, so the count cannot reach zero meanwhile
  const auto before = members_.fetch_add(one_child, std::memory_order_relaxed);
  HAWSER_ASSERT(before != 0);
}

void group::start(child member) noexcept {
  enter();
  member.start(context());
}

void group::post(child member, priority urgency) noexcept {
  executor* const here = executor::current();
  HAWSER_ASSERT(here != nullptr);
  enter();
  // relaxed: for wait(), which sees what the parent has posted, and learns of others in vain
  if (urgency > urgency_) has_less_urgent_.store(true, std::memory_order_relaxed);
  member.spawn_on(*here, context(urgency));
}

void group::post_independent(child member, priority urgency) noexcept {
  executor* const here = executor::current();
  HAWSER_ASSERT(here != nullptr);
  enter();
  member.spawn_on(*here, independent_context(urgency));
}

// The last one resumes the parent, which may destroy the group at once on another thread: so
// nothing of the group is touched after the wake, and nothing after the count unless last.
void group::leave() noexcept {
  // acq_rel: what members did, failure_ included, comes before what the parent does
  if (members_.fetch_sub(one_child, std::memory_order_acq_rel) != one_child) return;
  home_->wake(*this, parent_urgency_.effective());
}

bool group::all_left() const noexcept {
  // acquire pairs with the acq_rel in leave()
  return members_.load(std::memory_order_acquire) == parent_present;
}

// True: somebody is left, who will wake the parent: maybe elsewhere, and before we return, so
// nothing of it is touched after the count.
bool group::wait(std::coroutine_handle<> parent) noexcept {
  home_ = executor::current();
  HAWSER_ASSERT(home_ != nullptr);
  parent_ = parent;
  parent_urgency_.wait();
  if (has_less_urgent_.load(std::memory_order_relaxed)) home_->raise();
  // acq_rel: parent_ and home_ are visible to the last in leave(), what members did to us
  return members_.fetch_sub(parent_present, std::memory_order_acq_rel) != parent_present;
}

void group::cut() noexcept {
  cut_.store(true, std::memory_order_release);  // pairs with the acquire in is_cut()
  stop_.request_stop();
}

void group::fail(std::exception_ptr error) noexcept {
  if (is_cut() && is_cancelled(error)) return;
  record(std::move(error));
}

void group::fail(const failure& why) noexcept {
  if (is_cut() && is_cancelled(why.code())) return;
  try {
    why.raise();
  } catch (...) {
    record(std::current_exception());
  }
}

void group::record(std::exception_ptr error) noexcept {
  // relaxed: the value alone decides, failure_ is published by leave() or read by the parent itself
  if (!failed_.exchange(true, std::memory_order_relaxed)) failure_ = std::move(error);
  cut();
}

}  // namespace hawser::detail
