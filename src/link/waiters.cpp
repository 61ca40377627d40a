// SPDX-License-Identifier: Apache-2.0
#include "link/waiters.hpp"

namespace hawser::detail {

void waiter_list::push(channel_operation& added) noexcept {
  added.queue_previous_ = last_;
  added.queue_next_ = nullptr;
  (last_ == nullptr ? first_ : last_->queue_next_) = &added;
  last_ = &added;
}

void waiter_list::remove(channel_operation& gone) noexcept {
  (gone.queue_previous_ == nullptr ? first_ : gone.queue_previous_->queue_next_) =
      gone.queue_next_;
  (gone.queue_next_ == nullptr ? last_ : gone.queue_next_->queue_previous_) = gone.queue_previous_;
}

}  // namespace hawser::detail
