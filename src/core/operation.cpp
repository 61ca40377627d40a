// SPDX-License-Identifier: Apache-2.0
#include "hawser/operation.hpp"

namespace hawser::detail {

void operation::finish() noexcept {
  waiting_->finished = true;
  // From here no stop request can post a cancel; one that is running elsewhere is waited for, and
  // what it wrote to `cancel` is visible to us then.
  waiting_->on_request.reset();
  if (waiting_->cancel.has_value() && !waiting_->cancel_passed) return;  // run_cancel() resumes
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
  owner.waiting_->home->note_resumed(owner.waiting_->waiter);
  owner.waiting_->waiter.resume();
}

void operation::stop_requested() noexcept {
  if (executor::current() == waiting_->home) {
    if (!waiting_->finished) on_cancel();
    return;
  }
  waiting_->cancel.emplace(*this);
  queue(*waiting_->cancel);
}

void operation::run_cancel(work& self) noexcept {
  operation& owner = *static_cast<cancel_work&>(self).owner_;
  owner.waiting_->cancel_passed = true;
  if (owner.waiting_->finished) {
    owner.queue(owner);
  } else {
    owner.on_cancel();
  }
}

}  // namespace hawser::detail
