// SPDX-License-Identifier: Apache-2.0
#include "hawser/operation.hpp"

namespace hawser::detail {

void operation::finish() noexcept {
  finished_ = true;
  // From here no stop request can post a cancel; one that is running elsewhere is waited for, and
  // what it wrote to cancel_ is visible to us then.
  stop_.reset();
  if (cancel_.has_value() && !cancel_passed_) return;  // run_cancel() resumes
  queue(*this);
}

void operation::travel() noexcept {
  run = &operation::run_arrival;
  queue(*this);
}

void operation::run_arrival(work& self) noexcept {
  self.run = &operation::run_resume;
  static_cast<operation&>(self).on_arrival();
}

void operation::run_resume(work& self) noexcept {
  auto& owner = static_cast<operation&>(self);
  owner.home_->note_resumed(owner.waiter_);
  owner.waiter_.resume();
}

void operation::stop_requested() noexcept {
  if (executor::current() == home_) {
    if (!finished_) on_cancel();
    return;
  }
  cancel_.emplace(*this);
  queue(*cancel_);
}

void operation::run_cancel(work& self) noexcept {
  operation& owner = *static_cast<cancel_work&>(self).owner_;
  owner.cancel_passed_ = true;
  if (owner.finished_) {
    owner.queue(owner);
  } else {
    owner.on_cancel();
  }
}

}  // namespace hawser::detail
