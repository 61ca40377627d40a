// SPDX-License-Identifier: Apache-2.0
#include "hawser/scope.hpp"

namespace hawser {
namespace {

using detail::child;
using detail::group;

// The task's frame is gone before the scope hears of its end.
child run_spawned(group& siblings, task<void> body) {
  std::exception_ptr error;
  try {
    task<void> own = std::move(body);
    co_await std::move(own);
  } catch (...) {
    error = std::current_exception();
  }
  if (error) siblings.fail(std::move(error));
  siblings.leave();
}

child run_served(group& siblings, task<void> body) {
  std::exception_ptr error;
  try {
    task<void> own = std::move(body);
    co_await std::move(own);
  } catch (...) {
    error = std::current_exception();
  }
  const bool expected = !error || (siblings.stop_requested() && detail::is_cancelled(error));
  if (!expected) detail::executor::current()->report_failure(std::move(error));
  error = nullptr;
  siblings.leave();
}

}  // namespace

void scope::spawn(task<void> work) {
  spawn(std::move(work), urgency_);
}

void scope::spawn(task<void> work, priority urgency) {
  children_.post(run_spawned(children_, std::move(work)), urgency);
}

void scope::serve(task<void> work) {
  serve(std::move(work), urgency_);
}

void scope::serve(task<void> work, priority urgency) {
  children_.post_independent(run_served(children_, std::move(work)), urgency);
}

}  // namespace hawser
