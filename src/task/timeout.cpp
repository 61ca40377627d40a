// SPDX-License-Identifier: Apache-2.0
#include "hawser/timeout.hpp"

#include <algorithm>
#include <string>

#include "core/assert.hpp"
#include "hawser/errc.hpp"
#include "hawser/group.hpp"

namespace hawser::detail {
namespace {

// Longer than any process lives, and small enough to be added to the clock.
constexpr clock::duration longest = std::chrono::hours(24 * 365 * 100);

executor& require_current() noexcept {
  executor* const here = executor::current();
  HAWSER_ASSERT(here != nullptr);
  return *here;
}

std::string in_words(clock::duration limit) {
  using namespace std::chrono;
  const auto whole = duration_cast<milliseconds>(limit);
  if (whole >= 1ms) return std::to_string(whole.count()) + " ms";
  return std::to_string(duration_cast<microseconds>(limit).count()) + " us";
}

}  // namespace

time_limit::time_limit(const task_context& around, clock::duration limit) noexcept
    : timer(&time_limit::run_fire),
      stop_(around.stop),
      home_(&require_current()),
      limit_(std::clamp(limit, clock::duration::zero(), longest)),
      parent_(around.parent),
      urgency_(around.urgency) {
  home_->arm(*this, home_->now() + limit_);
}

time_limit::time_limit(const task_context& around, clock::time_point when) noexcept
    : time_limit(around, when - require_current().now()) {}

task_context time_limit::context() noexcept {
  task_context inside;
  inside.stop = stop_.token();
  inside.parent = parent_;
  inside.urgency = urgency_;
  return inside;
}

void time_limit::disarm() noexcept {
  if (armed()) home_->disarm(*this);
}

// A stop request from around us that came first is not ours to rename.
void time_limit::run_fire(timer& self) noexcept {
  auto& limit = static_cast<time_limit&>(self);
  limit.expired_ = limit.stop_.request_stop();
}

void time_limit::raise(std::exception_ptr error) const {
  if (expired_ && is_cancelled(error)) {
    failure(errc::timed_out, "not done within " + in_words(limit_)).raise();
  }
  std::rethrow_exception(std::move(error));
}

}  // namespace hawser::detail
