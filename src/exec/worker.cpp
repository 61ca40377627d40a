// SPDX-License-Identifier: Apache-2.0
#include "exec/worker.hpp"

#include <algorithm>

#include "exec/runtime_core.hpp"

namespace hawser::detail {
namespace {

using namespace std::chrono_literals;

// A turn ends after so many items or so long, so that sockets and timers are looked at in time.
constexpr unsigned items_a_turn = 256;
constexpr unsigned items_between_looks = 16;
constexpr clock::duration time_a_turn = 200us;
// Nothing is armed: any long time does, wake() ends it.
constexpr clock::duration longest_sleep = 1h;
// How long work that never ends may hold up the end of its worker.
constexpr clock::duration stopping_limit = 1s;
constexpr clock::duration stopping_sleep = 10ms;

thread_local worker* current_worker = nullptr;

// Single writer: a plain store is enough, and readers see whole numbers.
void put(std::atomic<std::uint64_t>& to, std::uint64_t value) noexcept {
  to.store(value, std::memory_order_relaxed);
}

std::uint64_t get(const std::atomic<std::uint64_t>& from) noexcept {
  return from.load(std::memory_order_relaxed);
}

}  // namespace

worker::worker(runtime_core& owner, unsigned index)
    : owner_(owner), index_(index), timers_(clock::now()) {}

worker::~worker() = default;

[[gnu::noinline]] worker* worker::current() noexcept {
  return current_worker;
}

void worker::post(work& item, priority urgency) noexcept {
  if (current_worker == this) {
    queue_.push(item, urgency);
    return;
  }
  if (!inbox_.push(item, urgency)) return;
  // Sequentially consistent with turn_reactor(): either we see the worker parked, or it sees the
  // item. The exchange lets one of several wakers through.
  if (parked_.load(std::memory_order_seq_cst) &&
      parked_.exchange(false, std::memory_order_relaxed)) {
    wakeups_sent_.fetch_add(1, std::memory_order_relaxed);
    reactor_->wake();
  }
}

void worker::arm(timer& entry, clock::time_point deadline) noexcept {
  timers_.arm(entry, deadline);
}

void worker::disarm(timer& entry) noexcept {
  timers_.disarm(entry);
}

clock::time_point worker::now() const noexcept {
  return reactor_->now();
}

bool worker::post_blocking(work& item) noexcept {
  return owner_.post_blocking(item);
}

void worker::report_failure(std::exception_ptr failure) noexcept {
  owner_.report_failure(std::move(failure));
}

void worker::at_turn_end(work& hook) noexcept {
  hooks_.push(hook);
}

void worker::add_component(component& added) noexcept {
  added.previous_ = nullptr;
  added.next_ = components_.first;
  if (added.next_ != nullptr) added.next_->previous_ = &added;
  components_.first = &added;
  components_.untold = told_phase_ != phase::running;
  owner_.component_added();
}

void worker::remove_component(component& gone) noexcept {
  if (components_.cursor == &gone) components_.cursor = gone.next_;
  (gone.previous_ == nullptr ? components_.first : gone.previous_->next_) = gone.next_;
  if (gone.next_ != nullptr) gone.next_->previous_ = gone.previous_;
  gone.previous_ = gone.next_ = nullptr;
  owner_.component_removed();
}

// The cursor follows removals, because a component that is told may take any others with it; one
// that is added meanwhile stands at the front and is told in the next round.
void worker::tell_components() noexcept {
  const auto level = told_phase_ == phase::closing ? 1U : 2U;
  components_.untold = false;
  components_.cursor = components_.first;
  while (component* const told = components_.cursor) {
    components_.cursor = told->next_;
    if (told->told_ >= level) continue;
    told->told_ = level;
    level == 1 ? told->on_shutdown() : told->on_abandon();
  }
}

void worker::enter_phase(phase next) noexcept {
  phase_.store(next, std::memory_order_release);  // pairs with the acquire in see_phase()
  reactor_->wake();
}

void worker::see_phase() noexcept {
  const auto now = phase_.load(std::memory_order_acquire);  // pairs with enter_phase()
  if (now == told_phase_ && !components_.untold) return;
  told_phase_ = now;
  tell_components();
}

void worker::loop() noexcept {
  current_worker = this;
  bind(this);
  std::optional<clock::time_point> stop_before;
  for (;;) {
    see_phase();
    drain_inbox();
    run_items();
    if (!timers_.empty()) counts_.timers_fired += timers_.advance(now());
    run_hooks();
    if (told_phase_ == phase::stopping) {
      if (!stop_before) stop_before = now() + stopping_limit;
      // A component may have come after the others had gone: a handshake that was under way.
      const bool idle = queue_.empty() && inbox_.empty() && components_.first == nullptr;
      if (owner_.may_end(*this, idle, now() >= *stop_before)) break;
    }
    turn_reactor();
    publish();
  }
  bind(nullptr);
  current_worker = nullptr;
}

void worker::drain_inbox() noexcept {
  counts_.posts_received += inbox_.drain(queue_);
}

void worker::run_items() noexcept {
  if (queue_.empty()) return;
  const auto until = now() + time_a_turn;
  for (unsigned count = 1; count <= items_a_turn; ++count) {
    work& item = queue_.pop();
    item.run(item);
    ++counts_.executed;
    if (queue_.empty()) return;
    if (count % items_between_looks == 0 && now() >= until) return;
  }
}

void worker::run_hooks() noexcept {
  auto due = hooks_.take_all();
  while (!due.empty()) {
    work& hook = due.pop();
    hook.run(hook);
  }
}

clock::duration worker::time_to_sleep() noexcept {
  if (!queue_.empty() || !hooks_.empty() || components_.untold) return clock::duration::zero();
  const auto longest = told_phase_ == phase::stopping ? stopping_sleep : longest_sleep;
  const auto deadline = timers_.next();
  if (!deadline) return longest;
  return std::clamp<clock::duration>(*deadline - now(), clock::duration::zero(), longest);
}

void worker::turn_reactor() noexcept {
  auto limit = time_to_sleep();
  if (limit > clock::duration::zero()) {
    // Sequentially consistent with post(): announce, then look again.
    parked_.store(true, std::memory_order_seq_cst);
    if (!inbox_.empty()) limit = clock::duration::zero();
  }
  reactor_->turn(limit);
  parked_.store(false, std::memory_order_relaxed);  // a wake that is on its way costs one turn
  ++counts_.turns;
}

void worker::publish() noexcept {
  const auto& seen = reactor_->counters();
  put(published_.turns, counts_.turns);
  put(published_.executed, counts_.executed);
  put(published_.posts_received, counts_.posts_received);
  put(published_.timers_fired, counts_.timers_fired);
  put(published_.system_calls, seen.system_calls);
  put(published_.completions, seen.completions);
  put(published_.multishot, seen.multishot);
  put(published_.bytes_read, seen.bytes_read);
  put(published_.bytes_written, seen.bytes_written);
}

worker_stats worker::stats() const noexcept {
  worker_stats all;
  all.turns = get(published_.turns);
  all.executed = get(published_.executed);
  all.posts_received = get(published_.posts_received);
  all.wakeups_sent = get(wakeups_sent_);
  all.timers_fired = get(published_.timers_fired);
  all.system_calls = get(published_.system_calls);
  all.completions = get(published_.completions);
  all.multishot = get(published_.multishot);
  all.bytes_read = get(published_.bytes_read);
  all.bytes_written = get(published_.bytes_written);
  return all;
}

}  // namespace hawser::detail
