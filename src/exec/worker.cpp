// SPDX-License-Identifier: Apache-2.0
#include "exec/worker.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/assert.hpp"
#include "exec/runtime_core.hpp"
#include "hawser/group.hpp"

namespace hawser::detail {
namespace {

using namespace std::chrono_literals;

// A turn ends after so many items or poll_interval, so that sockets and timers are looked at in
// time.
constexpr unsigned items_a_turn = 1024;
constexpr unsigned first_look = 4;
constexpr unsigned longest_stride = 64;
// Nothing is armed: any long time does, wake() ends it.
constexpr clock::duration longest_sleep = 1h;
// How long work that never ends may hold up the end of its worker.
constexpr clock::duration stopping_limit = 1s;
constexpr clock::duration stopping_sleep = 10ms;
// A worker that has not ended its turn for so long does not come to what it meant to run next.
constexpr std::int64_t stuck_ns = 100'000;

thread_local worker* current_worker = nullptr;

}  // namespace

worker::worker(runtime_core& owner, unsigned index)
    : owner_(owner),
      index_(index),
      alone_(owner.config().threads == 1),
      ready_(owner.config()),
      timers_(clock::time_point()),
      next_victim_(index),
      spin_(owner.config().spin) {}

worker::~worker() = default;

[[gnu::noinline]] worker* worker::current() noexcept {
  return current_worker;
}

// ---- queues -----------------------------------------------------------------------------------

void worker::post(work& item, priority urgency) noexcept {
  if (current_worker == this) return push_bound(item, urgency);
  post_from_elsewhere(item, urgency);
}

void worker::post_from_elsewhere(work& item, priority urgency) noexcept {
  if (!inbox_.push(item, urgency)) {
    wakeups_spared_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  attract();
  if (!owner_.call(*this)) wakeups_spared_.fetch_add(1, std::memory_order_relaxed);
}

void worker::spawn(work& item, priority urgency) noexcept {
  worker* const here = current_worker;
  if (here != nullptr && &here->owner_ == &owner_) {
    here->spawn_here(item, urgency);
  } else {
    owner_.inject(item, urgency);
  }
}

void worker::spawn_here(work& item, priority urgency) noexcept {
  const auto at = static_cast<std::size_t>(urgency);
  if (owner_.is_capped(at)) return hand_over(item, urgency);
  if (!owner_.shares_work()) return push_bound(item, urgency);
  count_roaming(item, at);
  share(item, urgency);
}

void worker::share(work& item, priority urgency) noexcept {
  if (!ready_.push_roaming(item, static_cast<std::size_t>(urgency))) {
    return hand_over(item, urgency);
  }
  owner_.call_somebody();
}

// Attracted, because we have a look at it although others have not taken what was there before.
void worker::hand_over(work& item, priority urgency) noexcept {
  owner_.inject(item, urgency);
  ++overflowed_;
  attract();
}

bool worker::fork(work& item, priority urgency) noexcept {
  if (!owner_.shares_work() || !ready_.fork(item, static_cast<std::size_t>(urgency))) return false;
  owner_.call_somebody();
  return true;
}

bool worker::take_back(work& item, priority urgency) noexcept {
  return ready_.take_back(item, static_cast<std::size_t>(urgency));
}

// Nobody is called for it: this worker comes to it at once, or else a thief that searches anyway.
// What it displaces has to wait, and is as any other then.
void worker::wake(work& item, priority urgency) noexcept {
  worker* const here = current_worker;
  if (here == nullptr || &here->owner_ != &owner_) return post(item, urgency);
  if (!owner_.shares_work()) return here->push_bound(item, urgency);
  const auto at = static_cast<std::size_t>(urgency);
  here->count_roaming(item, at);
  work* const displaced = here->ready_.push_next(item, at);
  if (displaced != nullptr) here->share(*displaced, urgency);
}

// What is queued ends later than this begins, so it is counted in time.
void worker::deliver(work& item, priority urgency) noexcept {
  owner_.work_began();
  post(item, urgency);
  owner_.work_ended();
}

bool worker::should_yield() const noexcept {
  if (attention_.load(std::memory_order_relaxed)) return true;
  const unsigned more_urgent = (1U << running_) - 1;
  if ((ready_.waiting() & more_urgent) != 0) return true;
  return now() - turn_start_ >= owner_.config().poll_interval;
}

void worker::raise() noexcept {
  for (std::size_t at = 1; at < priority_count; ++at) {
    ready_.move(at, [at](const work& item) noexcept {
      return static_cast<std::size_t>(urgency_of(item, static_cast<priority>(at)));
    });
  }
}

// ---- how long items wait ----------------------------------------------------------------------

// One that is on its way is not given up for the next: those that wait long would be the ones that
// are missed. But it may have been stolen, so not for ever either.
bool worker::take_sample(std::size_t at) noexcept {
  constexpr unsigned skipped_most = 64;
  wait_sample& sample = samples_[at];
  if (ready_.is_timing(at) && ++sample.skipped < skipped_most) return false;
  sample = {now(), 0};
  return true;
}

[[gnu::noinline]] void worker::time_bound(const work& item, std::size_t at) noexcept {
  if (take_sample(at)) ready_.time_bound(item, at);
}

[[gnu::noinline]] void worker::time_roaming(const work& item, std::size_t at) noexcept {
  if (take_sample(at)) ready_.time_roaming(item, at);
}

void worker::end_sample(std::size_t at) noexcept {
  const auto waited = static_cast<std::uint64_t>((now() - samples_[at].queued).count());
  ++counts_.priorities[at].waits[wait_histogram::bucket_of(waited)];
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

errc worker::post_blocking(work& item) noexcept {
  return owner_.post_blocking(item);
}

void worker::report_failure(std::exception_ptr failure) noexcept {
  owner_.report_failure(std::move(failure));
}

void worker::at_turn_end(work& hook) noexcept {
  hooks_.push(hook);
}

// Sources that come or go while they are looked at do no harm: the next is known before.
void worker::watch(memory_source& added) noexcept {
  if (std::exchange(added.watched_, true)) return;
  added.next_ = std::exchange(sources_, &added);
}

void worker::unwatch(memory_source& gone) noexcept {
  if (!std::exchange(gone.watched_, false)) return;
  memory_source** at = &sources_;
  while (*at != &gone) at = &(*at)->next_;
  *at = gone.next_;
  if (next_source_ == &gone) next_source_ = gone.next_;
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
  // release pairs with the acquire in see_phase(); seq_cst: before the look at who sleeps
  phase_.store(next, std::memory_order_seq_cst);
  reactor_->wake();
}

void worker::see_phase() noexcept {
  const auto now = phase_.load(std::memory_order_acquire);  // pairs with enter_phase()
  if (now == told_phase_ && !components_.untold) return;
  told_phase_ = now;
  tell_components();
}

// ---- a turn -----------------------------------------------------------------------------------

void worker::adopt(std::unique_ptr<hawser::reactor> own) noexcept {
  reactor_ = std::move(own);
  if (reactor_ != nullptr) timers_.begin(now());
}

void worker::loop() noexcept {
  enter();
  while (const auto after = run_turn()) end_turn(*after);
  leave();
}

void worker::enter() noexcept {
  current_worker = this;
  bind(this);
  note_awake();
}

void worker::leave() noexcept {
  bind(nullptr);
  current_worker = nullptr;
}

std::optional<clock::time_point> worker::run_turn() noexcept {
  see_phase();
  if (!quiet_ || stir()) {
    look();
    run_items();
  }
  run_hooks();
  const auto after = latest_ = now();  // near enough for all that follows in this turn
  const std::size_t fired = timers_.empty() ? 0 : timers_.advance(after);
  if (fired != 0) {
    counts_.timers_fired += fired;
    run_hooks();
  }
  if (told_phase_ != phase::stopping || !ends()) return after;
  give_up_permits(permits());
  return std::nullopt;
}

// While nobody drives it the worker counts as asleep, so that others wake its reactor. A wait comes
// first: what ends in this turn is not waited upon.
bool worker::drive(clock::duration limit, bool readable) noexcept {
  if (ended_) return false;
  if (readable) reactor_->handle_was_readable();
  HAWSER_ASSERT(current_worker == nullptr);
  enter();
  if (limit > clock::duration::zero() && idle_ && !is_wanted()) {
    ++counts_.parks;
    const auto length = std::min(time_to_sleep(now()), limit);
    slept_ = true;
    reactor_->turn(length);
    note_awake();
  }
  if (std::exchange(resting_, false)) answer_call();
  if (const auto after = run_turn()) {
    ++counts_.turns;
    owner_.tell_producers();
    note_gap(*after);
    reactor_->turn(clock::duration::zero());
    look_at_memory();
  } else {
    ended_ = true;
  }
  idle_ = ended_ || rest();
  alive_.store(asleep, std::memory_order_relaxed);
  leave();
  return !idle_;
}

// False: there is something to do already.
bool worker::rest() noexcept {
  if (has_work() || components_.untold || reactor_->has_more()) return false;
  if (sources_ != nullptr) {
    if (!doze()) return false;
    reactor_->submit();  // by which the sources wait
    if (has_work() || reactor_->has_more()) return false;
  }
  resting_ = true;
  return announce(false);
}

// A worker that has said it is out of work says so before it takes any: until then the others
// count on its running nothing.
bool worker::stir() noexcept {
  if (ready_.empty() && inbox_.empty() && !owner_.has_injected()) return false;
  quiet_ = false;
  owner_.stirs();
  return true;
}

bool worker::ends() noexcept {
  if (give_up_ == clock::time_point::max()) give_up_ = now() + stopping_limit;
  // A component may have come after the others had gone: a handshake that was under way. And who
  // waited for a handle, and has cancelled that, is still to be told.
  const bool idle = ready_.empty() && components_.first == nullptr && !reactor_->has_waits();
  if (idle && !quiet_) {
    quiet_ = true;
    owner_.falls_quiet();
  }
  if (owner_.all_done()) return true;
  if (quiet_ || now() < give_up_) return false;
  run_rest();
  gone_.store(true, std::memory_order_relaxed);
  owner_.falls_quiet();  // publishes gone_
  return true;
}

// Work that makes more of itself never ends; but all that waits by now runs once.
void worker::run_rest() noexcept {
  look();
  work_list rest;
  while (work* const item = ready_.pop().item) rest.push(*item);
  for (std::size_t at = 0; at < priority_count; ++at) {
    unsigned count = 0;
    rest.append(owner_.injected().take(static_cast<priority>(at), ~0U, count));
  }
  while (!rest.empty()) {
    work& item = rest.pop();
    item.run(item);
  }
}

// The exchange comes before the looks: whoever pushes afterwards sets it again.
void worker::look() noexcept {
  if (attention_.load(std::memory_order_relaxed)) {
    attention_.exchange(false, std::memory_order_seq_cst);
  }
  counts_.posts_received += inbox_.drain(
      [this](work& item, priority urgency) noexcept { push_bound(item, urgency); });
  take_injected();
  see_adjustment();
}

// A part of what there is, into the deque: so whatever waits is within the reach of idle workers,
// and they are called for it.
void worker::take_injected() noexcept {
  const unsigned most = alone_ ? ready_queues::deque::capacity : ready_queues::injected_room;
  bool for_others = false;
  more_injected_ = 0;
  for (std::size_t at = 0; at < priority_count; ++at) {
    const auto urgency = static_cast<priority>(at);
    if (owner_.injected().seems_empty(urgency) || !hold_permit(at)) continue;
    const unsigned room = ready_.room(at);
    bool left = false;
    if (room >= ready_queues::injected_room) {
      left = take_injected(urgency, std::min(room, most)) > 1 && owner_.shares_work();
    }
    if (!owner_.injected().seems_empty(urgency)) {
      more_injected_ |= 1U << at;
      left = true;
    }
    for_others |= left && owner_.permit_free(at);
  }
  if (for_others) owner_.call_somebody();
}

unsigned worker::take_injected(priority urgency, unsigned most) noexcept {
  const auto at = static_cast<std::size_t>(urgency);
  unsigned count = 0;
  work_list taken = owner_.injected().take(urgency, most, count);
  if (taken.empty()) return 0;
  if (ready_.count_roaming(taken, count, at)) time_roaming(*taken.first(), at);
  while (!taken.empty()) {
    work& item = taken.pop();
    const auto now_at = urgency_of(item, urgency);
    if (now_at != urgency) {
      push_bound(item, now_at);
      continue;
    }
    ready_.push_injected(item, at);
  }
  counts_.posts_received += count;
  // seq_cst pairs with what a producer that waits for room does, see tell_producers()
  injected_taken_[at].store(injected_taken_[at].load(std::memory_order_relaxed) + count,
                            std::memory_order_seq_cst);
  return count;
}

bool worker::wants_injected() const noexcept {
  for (std::size_t at = 0; at < priority_count; ++at) {
    if ((more_injected_ & 1U << at) != 0 && ready_.room(at) >= ready_queues::injected_room) {
      return true;
    }
  }
  return false;
}

void worker::see_adjustment() noexcept {
  const auto latest = owner_.adjustments();
  if (latest == adjustment_) return;
  adjustment_ = latest;
  const auto config = owner_.adjusted();
  ready_.dispatcher().adjust(config.weights);
  spin_.adjust(config.spin);
  for (std::size_t at = 0; at < priority_count; ++at) see_cap(at);
}

// The clock is read after 4, 16 and 64 items and then every 64, and after each item where items
// are long or several priorities compete by run time.
void worker::run_items() noexcept {
  if (ready_.empty()) return;
  const auto limit = owner_.config().poll_interval;
  auto before = turn_start_;
  const auto until = before + limit;
  unsigned seen = 0;
  unsigned next_look = first_look;
  for (unsigned count = 1;; ++count) {
    if (attention_.load(std::memory_order_relaxed) || (more_injected_ != 0 && wants_injected())) {
      look();
    }
    const auto next = ready_.pop();
    if (next.item == nullptr) return;
    if (next.timed) end_sample(next.at);
    if (permits() != 0) give_up_idle_permits(next.at);
    running_ = next.at;
    next.item->run(*next.item);
    const bool charged = next.contended && ready_.dispatcher().measures();
    if ((count < next_look && !charged) || ready_.empty()) continue;
    const auto after = now();
    const auto each = (after - before) / (count - seen);
    if (charged) {
      ready_.dispatcher().charge(next.at, static_cast<std::uint64_t>(each.count()));
    }
    if (after >= until || count >= items_a_turn) return;
    const unsigned stride = each > limit / longest_stride ? 1 : std::min(count * 3, longest_stride);
    next_look = std::min(count + stride, items_a_turn);
    before = after;
    seen = count;
  }
}

void worker::run_hooks() noexcept {
  auto due = hooks_.take_all();
  while (!due.empty()) {
    work& hook = due.pop();
    hook.run(hook);
  }
}

clock::duration worker::time_to_sleep(clock::time_point now) noexcept {
  if (has_work() || components_.untold) return clock::duration::zero();
  const auto longest = told_phase_ == phase::stopping ? stopping_sleep : longest_sleep;
  const auto deadline = timers_.next();
  if (!deadline) return longest;
  return std::clamp<clock::duration>(*deadline - now, clock::duration::zero(), longest);
}

void worker::end_turn(clock::time_point now) noexcept {
  ++counts_.turns;
  owner_.tell_producers();
  note_gap(now);
  const auto limit = time_to_sleep(now);
  if (limit == clock::duration::zero()) {
    reactor_->turn(limit);
    look_at_memory();
    note_awake();
  } else {
    idle(now, limit);
  }
}

// ---- nothing to run ---------------------------------------------------------------------------

// Ends when there may be something: after a search, a look at the reactor, or a sleep.
void worker::idle(clock::time_point start, clock::duration limit) noexcept {
  alive_.store(asleep, std::memory_order_relaxed);
  const bool searching =
      owner_.shares_work() && owner_.sleepers().begin_search(owner_.search_limit());
  if ((searching && search()) ||
      (told_phase_ != phase::stopping && spin(start, limit, searching))) {
    if (searching) stop_searching();
    reactor_->submit();  // what the hooks have written does not wait for what was found
    note_awake();
  } else {
    park(searching);
    note_awake();
    spin_.slept(turn_start_ - start);
  }
}

bool worker::look_at_memory() noexcept {
  bool found = false;
  for (memory_source* each = sources_; each != nullptr; each = next_source_) {
    next_source_ = each->next_;
    found |= each->look();
  }
  return found;
}

// Nobody looks at memory while the worker sleeps, so that peers are told before, and it looks once
// more behind the barrier. False: there is something.
bool worker::doze() noexcept {
  if (sources_ == nullptr) return true;
  bool may_sleep = true;
  bool wants_barrier = false;
  for (memory_source* each = sources_; each != nullptr; each = each->next_) {
    may_sleep &= each->doze();
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (memory_source* each = sources_; each != nullptr; each = each->next_) {
    wants_barrier |= each->wants_barrier();
  }
  if (wants_barrier) platform::pass_barrier();
  for (memory_source* each = sources_; may_sleep && each != nullptr; each = each->next_) {
    may_sleep = !each->has_stirred();
  }
  for (memory_source* each = sources_; each != nullptr; each = each->next_) {
    may_sleep ? static_cast<void>(each->watched_ = false) : each->stay_awake();
  }
  if (may_sleep) sources_ = nullptr;
  return may_sleep;
}

// What stirs in memory is answered from here, so that no clock is read between a question and its
// answer; now and then the loop has its turn. A timer that comes due meanwhile is found like
// anything else: nothing was looked for in vain.
bool worker::spin(clock::time_point start, clock::duration limit, bool searching) noexcept {
  constexpr unsigned rounds_a_search = 4;
  constexpr unsigned looks_a_round = 16;
  constexpr auto longest = 100us;  // without a look at what only the loop looks at
  constexpr auto patience = 1us;   // as long as a peer takes to answer through memory
  const clock::duration budget = spin_.next();
  if (budget <= clock::duration::zero()) return false;
  ++counts_.spins;
  auto since = start;
  auto latest = start;
  bool is_answered = false;  // memory has brought something just now, and may bring what follows
  for (unsigned round = 1;; ++round) {
    bool stirred = false;
    for (unsigned i = 0; sources_ != nullptr && !stirred && i < looks_a_round; ++i) {
      stirred = look_at_memory();
    }
    if (stirred && !searching) {
      note_found(latest - since);
      run_stirred(latest);
      since = latest = latest_ = now();
      if (is_wanted() || latest - start >= longest) return true;
      if (time_to_sleep(latest) == clock::duration::zero()) return true;
      ++counts_.spins;
      is_answered = true;
      continue;
    }
    if (is_answered && (latest = latest_ = now()) - since < patience) continue;
    is_answered = false;
    reactor_->poll();
    run_hooks();
    const bool found = stirred || !ready_.empty() || is_wanted() ||
                       (searching && round % rounds_a_search == 0 && search());
    latest = latest_ = now();
    const auto spent = latest - since;
    if (found || latest - start >= limit) {
      note_found(spent);
      return true;
    }
    if (spent < budget) continue;
    counts_.spin_ns += static_cast<std::uint64_t>(spent.count());
    spin_.missed(spent);
    return false;
  }
}

void worker::note_found(clock::duration spent) noexcept {
  counts_.spin_ns += static_cast<std::uint64_t>(spent.count());
  ++counts_.spins_paid;
  spin_.found(spent);
}

// What a turn does, as far as it must be done now. `when` is nearly the time.
void worker::run_stirred(clock::time_point when) noexcept {
  ++counts_.turns;
  turn_start_ = when;
  alive_.store(when.time_since_epoch().count(), std::memory_order_relaxed);
  run_items();
  run_hooks();
  alive_.store(asleep, std::memory_order_relaxed);
}

// Announces first and looks once more then: whoever queues something afterwards sees the
// announcement, and what was queued before is seen here. What anybody may take is left to those
// that still search.
void worker::park(bool searching) noexcept {
  give_up_permits(permits());
  if (!doze()) {
    if (searching) stop_searching();
    look_at_memory();
    return;
  }
  if (announce(searching)) {
    ++counts_.parks;
    // The search and the spinning have taken their time.
    const auto length = time_to_sleep(now());
    slept_ = true;
    reactor_->turn(length);
  }
  answer_call();
}

bool worker::announce(bool searching) noexcept {
  const bool nobody_searches = owner_.sleepers().announce(index_, searching);
  return inbox_.empty() && !is_wanted() && !(nobody_searches && anything_for_thieves());
}

void worker::answer_call() noexcept {
  if (owner_.sleepers().awake(index_) != idle_workers<>::reason::called_to_search) return;
  static_cast<void>(search());
  stop_searching();
}

// Who queued something while we searched has called nobody.
void worker::stop_searching() noexcept {
  if (owner_.sleepers().end_search() && anything_for_thieves()) owner_.call_somebody();
}

// A permit that this worker holds itself is of no use to others.
bool worker::anything_for_thieves() noexcept {
  for (std::size_t at = 0; at < priority_count; ++at) {
    if (!owner_.permit_free(at)) continue;
    if (!owner_.injected().empty(static_cast<priority>(at))) return true;
    if (!owner_.shares_work()) continue;
    for (unsigned i = 0; i < owner_.size(); ++i) {
      if (owner_.worker(i).ready_.has_for_thieves(at)) return true;
    }
  }
  return false;
}

// The most urgent first, from whoever has it; then what a worker meant to run next and does not
// come to.
bool worker::search() noexcept {
  if (quiet_) {
    if (!anything_for_thieves()) return false;
    quiet_ = false;
    owner_.stirs();
  }
  take_injected();
  if (!ready_.empty()) return true;
  if (!owner_.shares_work()) return false;
  for (std::size_t at = 0; at < priority_count; ++at) {
    for (unsigned i = 0; i < owner_.size(); ++i) {
      next_victim_ = next_victim_ + 1 == owner_.size() ? 0 : next_victim_ + 1;
      if (next_victim_ == index_) continue;
      worker& victim = owner_.worker(next_victim_);
      if (!victim.ready_.has_for_thieves(at) || !hold_permit(at)) continue;
      unsigned count = 0;
      if (!ready_.steal_from(victim.ready_, at, count)) continue;
      counts_.priorities[at].stolen += count;
      return true;
    }
  }
  return search_stuck();
}

bool worker::search_stuck() noexcept {
  const auto now_ns = now().time_since_epoch().count();
  for (unsigned i = 0; i < owner_.size(); ++i) {
    if (i == index_) continue;
    worker& victim = owner_.worker(i);
    const auto alive = victim.alive();
    if (alive == asleep || now_ns - alive < stuck_ns) continue;
    for (std::size_t at = 0; at < priority_count; ++at) {
      if (!may_take(at) || !ready_.steal_next(victim.ready_, at)) continue;
      ++counts_.priorities[at].stolen;
      return true;
    }
  }
  return false;
}

// ---- caps -------------------------------------------------------------------------------------

bool worker::may_take(std::size_t at) const noexcept {
  return has_permit(at) || owner_.permit_free(at);
}

bool worker::hold_permit(std::size_t at) noexcept {
  if (has_permit(at)) return true;
  if (!owner_.is_capped(at)) return true;
  if (!owner_.take_permit(at)) return false;
  set_permits(permits() | 1U << at);
  return true;
}

// What was injected meanwhile found no permit free, and nobody was called for it: we look again.
// True: there is such work.
bool worker::give_up_permits(unsigned which) noexcept {
  bool left = false;
  set_permits(permits() & ~which);
  for (; which != 0; which &= which - 1) {
    const auto at = static_cast<std::size_t>(std::countr_zero(which));
    owner_.return_permit(at);
    left |= !owner_.injected().empty(static_cast<priority>(at));
  }
  if (left) attract();
  return left;
}

// Before anything else than what the permit is for: that may hold the worker for long, so that
// somebody else is called for what was injected meanwhile.
void worker::give_up_idle_permits(std::size_t running) noexcept {
  if ((permits() & ~(1U << running)) == 0) return;
  unsigned idle = 0;
  for (std::size_t at = 0; at < priority_count; ++at) {
    if (!ready_.has_roaming(at)) idle |= 1U << at;
  }
  if (give_up_permits(permits() & idle)) owner_.call_somebody();
}

// A cap that is new, or lower: what lies here goes to those who have a permit.
void worker::see_cap(std::size_t at) noexcept {
  if (!owner_.is_capped(at)) return;
  if (has_permit(at) && owner_.return_excess_permit(at)) set_permits(permits() & ~(1U << at));
  if (!ready_.has_for_thieves(at) || hold_permit(at)) return;
  while (work* const item = ready_.take_roaming(at)) hand_over(*item, static_cast<priority>(at));
}

// ---- figures ----------------------------------------------------------------------------------

void worker::note_gap(clock::time_point now) noexcept {
  const auto gap = now - turn_start_;
  counts_.longest_gap_ns.raise_to(static_cast<std::uint64_t>(gap.count()));
  if (gap >= owner_.config().stall_threshold) ++counts_.stalls;
}

void worker::note_awake() noexcept {
  turn_start_ = latest_ = now();
  slept_ = false;
  alive_.store(turn_start_.time_since_epoch().count(), std::memory_order_relaxed);
}

worker_stats worker::stats() const noexcept {
  worker_stats all;
  for (std::size_t at = 0; at < priority_count; ++at) {
    const priority_counters& from = counts_.priorities[at];
    priority_stats& to = all.priorities[at];
    to.executed = ready_.begun(at);
    to.stolen = from.stolen;
    to.queued = ready_.depth(at);
    for (std::size_t i = 0; i < wait_histogram::buckets; ++i) {
      to.queue_wait.counts[i] = from.waits[i];
    }
    all.executed += to.executed;
  }
  all.turns = counts_.turns;
  all.posts_received = counts_.posts_received;
  all.parks = counts_.parks;
  all.spins = counts_.spins;
  all.spins_paid = counts_.spins_paid;
  all.spin_ns = counts_.spin_ns;
  all.wakeups_sent = wakeups_sent_.load(std::memory_order_relaxed);
  all.wakeups_spared = wakeups_spared_.load(std::memory_order_relaxed);
  all.timers_fired = counts_.timers_fired;
  all.longest_gap_ns = counts_.longest_gap_ns;
  all.stalls = counts_.stalls;
  const reactor_counters& seen = reactor_->counters();
  all.system_calls = seen.system_calls;
  all.completions = seen.completions;
  all.multishot = seen.multishot;
  all.inline_reads = seen.inline_reads;
  all.bytes_read = seen.bytes_read;
  all.bytes_written = seen.bytes_written;
  return all;
}

}  // namespace hawser::detail
