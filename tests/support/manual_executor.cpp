// SPDX-License-Identifier: Apache-2.0
#include "support/manual_executor.hpp"

#include <algorithm>

namespace test {

manual_executor::manual_executor(std::optional<std::uint64_t> seed)
    : head_([](timer&) noexcept {}) {
  if (seed) random_.emplace(*seed);
  head_.previous = head_.next = &head_;
}

manual_executor::manual_executor(const hawser::detail::dispatcher& chooser) : manual_executor() {
  chooser_.emplace(chooser);
}

manual_executor::~manual_executor() {
  if (!queue_.empty() || armed_ != 0) std::terminate();  // a test left something behind
}

void manual_executor::post(work& item, hawser::priority urgency) noexcept {
  const std::lock_guard guard(mutex_);
  queue_.emplace_back(&item, urgency);
  changed_.notify_one();
}

bool manual_executor::should_yield() const noexcept {
  const std::lock_guard guard(mutex_);
  const bool urgent = std::any_of(queue_.begin(), queue_.end(), [this](const queued& each) {
    return each.second < last_urgency_;
  });
  return urgent || now_ - item_start_ >= turn_limit;
}

void manual_executor::raise() noexcept {
  const std::lock_guard guard(mutex_);
  for (queued& each : queue_) each.second = hawser::detail::urgency_of(*each.first, each.second);
}

void manual_executor::arm(timer& entry, time_point deadline) noexcept {
  if (current() != this || entry.armed()) std::terminate();
  entry.deadline = deadline;
  entry.previous = head_.previous;
  entry.next = &head_;
  entry.previous->next = &entry;
  head_.previous = &entry;
  ++armed_;
}

void manual_executor::disarm(timer& entry) noexcept {
  if (current() != this || !entry.armed()) std::terminate();
  entry.previous->next = entry.next;
  entry.next->previous = entry.previous;
  entry.previous = entry.next = nullptr;
  --armed_;
}

hawser::errc manual_executor::post_blocking(work& item) noexcept {
  if (blocking_.size() >= blocking_max) return hawser::errc::limit_reached;
  blocking_.push_back(&item);
  return {};
}

void manual_executor::report_failure(std::exception_ptr failure) noexcept {
  failures_.push_back(std::move(failure));
}

std::vector<manual_executor::queued>::iterator manual_executor::next_entry() {
  if (chooser_) {
    unsigned waiting = 0;
    for (const queued& each : queue_) waiting |= 1U << static_cast<unsigned>(each.second);
    const auto chosen = static_cast<hawser::priority>(chooser_->pick(waiting));
    return std::find_if(queue_.begin(), queue_.end(),
                        [chosen](const queued& each) { return each.second == chosen; });
  }
  const auto index = random_ ? (*random_)() % queue_.size() : 0;
  return queue_.begin() + static_cast<std::ptrdiff_t>(index);
}

manual_executor::work* manual_executor::take() {
  const std::lock_guard guard(mutex_);
  if (queue_.empty()) return nullptr;
  const auto at = next_entry();
  work* const item = at->first;
  last_urgency_ = at->second;
  queue_.erase(at);
  return item;
}

bool manual_executor::run_one() {
  work* const item = take();
  if (item == nullptr) return false;
  const auto urgency = last_urgency_;
  const auto start = item_start_ = now_;
  enter([item] { item->run(*item); });
  if (chooser_) {
    const auto spent = std::chrono::nanoseconds(now_ - start).count();
    chooser_->charge(static_cast<unsigned>(urgency), static_cast<std::uint64_t>(spent));
  }
  return true;
}

std::size_t manual_executor::run() {
  std::size_t count = 0;
  while (run_one()) ++count;
  return count;
}

manual_executor::timer* manual_executor::earliest() noexcept {
  timer* found = nullptr;
  for (timer* each = head_.next; each != &head_; each = each->next) {
    if (found == nullptr || each->deadline < found->deadline) found = each;
  }
  return found;
}

void manual_executor::advance(duration by) {
  const time_point until = now_ + by;
  run();
  for (timer* next = earliest(); next != nullptr && next->deadline <= until; next = earliest()) {
    now_ = std::max(now_, next->deadline);
    enter([&] {
      disarm(*next);
      next->fire(*next);
    });
    run();
  }
  now_ = until;
}

bool manual_executor::advance_to_next() {
  timer* const next = earliest();
  if (next == nullptr) return false;
  advance(std::max(next->deadline - now_, duration::zero()));
  return true;
}

bool manual_executor::run_blocking_one() {
  if (blocking_.empty()) return false;
  work* const item = blocking_.front();
  blocking_.erase(blocking_.begin());
  item->run(*item);
  return true;
}

void manual_executor::run_until_finished() {
  for (;;) {
    run();
    std::unique_lock guard(mutex_);
    changed_.wait(guard, [this] { return !queue_.empty() || finished_; });
    if (queue_.empty()) return;
  }
}

void manual_executor::restart() noexcept {
  const std::lock_guard guard(mutex_);
  finished_ = false;
}

void manual_executor::finish() noexcept {
  const std::lock_guard guard(mutex_);
  finished_ = true;
  changed_.notify_one();
}

}  // namespace test
