// SPDX-License-Identifier: Apache-2.0
#include "exec/runtime_core.hpp"

#include <algorithm>
#include <utility>

#include "core/assert.hpp"
#include "exec/config.hpp"
#include "exec/stall_watch.hpp"
#include "exec/startup.hpp"
#include "hawser/errc.hpp"

namespace hawser::detail {
namespace {

using namespace std::chrono_literals;

// After on_abandon the sockets still have to report that they are closed.
constexpr std::chrono::milliseconds abandon_limit = 1s;

executor_config driven(executor_config config) {
  if (config.threads == 0) config.threads = 1;
  if (config.threads != 1) {
    bad_value("threads", std::to_string(config.threads), "1 where somebody else drives the worker");
  }
  return config;
}

std::string describe(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

}  // namespace

runtime_core::runtime_core(executor_config config)
    : config_(checked(std::move(config))),
      blocking_(config_.blocking_threads, config_.blocking_queue),
      cores_(config_.pin == pinning::cores ? platform::usable_core_list()
                                           : std::vector<unsigned>()),
      shares_work_(config_.steal && config_.threads > 1),
      sleepers_(config_.threads),
      live_(config_) {
  limit_caps();
  const auto start = std::make_shared<startup>(config_.backend, config_.threads);
  start_threads(start);
  try {
    report_ = start->run(static_cast<unsigned>(threads_.size()));
  } catch (const std::exception&) {
    for (std::thread& thread : threads_) thread.join();
    throw;
  }
  try {
    if (config_.log || config_.hooks.stall) {
      watch_ = std::make_unique<stall_watch>(*this, config_.stall_threshold);
    }
  } catch (const std::exception&) {
    shut_down();
    throw;
  }
  tell_of_fallback(*start);
}

runtime_core::runtime_core(executor_config config, driven_by_caller)
    : config_(checked(driven(std::move(config)))),
      blocking_(config_.blocking_threads, config_.blocking_queue),
      shares_work_(false),
      sleepers_(1),
      live_(config_) {
  limit_caps();
  workers_.push_back(std::make_unique<detail::worker>(*this, 0));
  equip();
}

void runtime_core::limit_caps() noexcept {
  for (std::size_t at = 0; at < priority_count; ++at) {
    caps_[at].most.store(config_.max_workers[at], std::memory_order_relaxed);
  }
}

// As startup does it for workers with threads.
void runtime_core::equip() {
  startup start(config_.backend, 1);
  driver_ = std::this_thread::get_id();
  worker(0).adopt(start.run_here(report_));
  poll_handle_ = worker(0).reactor().make_pollable();
  if (poll_handle_ == platform::no_handle) {
    failure(errc::unsupported, "no event loop can wait for " + report_.mechanism + " here").raise();
  }
  tell_of_fallback(start);
  worker(0).drive(clock::duration::zero());  // from here on it is to be woken
}

void runtime_core::tell_of_fallback(const startup& start) noexcept {
  if (!start.fell_back()) return;
  log(log_level::warning, "reactor",
      [this] { return report_.reason + "; using " + report_.mechanism; });
}

runtime_core::~runtime_core() {
  HAWSER_ASSERT(worker::current() == nullptr || &worker::current()->runtime() != this);
  shut_down();
}

void runtime_core::start_threads(const std::shared_ptr<startup>& start) {
  workers_.reserve(config_.threads);
  threads_.reserve(config_.threads);
  for (unsigned i = 0; i < config_.threads; ++i) {
    workers_.push_back(std::make_unique<detail::worker>(*this, i));
  }
  for (const auto& each : workers_) {
    try {
      threads_.push_back(platform::start_thread(
          "hawser-" + std::to_string(each->index()),
          [this, self = each.get(), start] { thread_main(*self, *start); }));
    } catch (const std::exception&) {
      return;  // startup::run() finds out
    }
  }
}

// A reactor dies on its own thread, but not before everybody has stopped waking it: the other
// workers have once all of them have ended, shut_down() says when it has.
void runtime_core::thread_main(detail::worker& self, startup& start) noexcept {
  pin(self.index());
  self.adopt(start.obtain());
  if (start.ready()) {
    if (config_.hooks.thread_start) config_.hooks.thread_start(self.index());
    self.loop();
    if (config_.hooks.thread_stop) config_.hooks.thread_stop(self.index());
    std::unique_lock guard(mutex_);
    ++ended_workers_;
    changed_.notify_all();
    changed_.wait(guard, [this] { return reactors_may_go_ && ended_workers_ == workers_.size(); });
  }
  self.drop_reactor();
}

void runtime_core::pin(unsigned index) noexcept {
  if (config_.pin == pinning::none) return;
  const auto& cores = config_.pin == pinning::list ? config_.cpus : cores_;
  const unsigned core = cores[index % cores.size()];
  try {
    if (platform::pin_thread(core)) return;
  } catch (const std::bad_alloc&) {
    // as refused
  }
  log(log_level::warning, "runtime", [&] {
    return "worker " + std::to_string(index) + " could not be bound to core " +
           std::to_string(core);
  });
}

// Blocking calls end while the workers still turn, because each of them posts its result.
void runtime_core::shut_down() noexcept {
  request_stop();
  tell_workers(worker::phase::closing);
  if (!wait_for_components(config_.shutdown_deadline)) {
    log(log_level::warning, "runtime", "shutdown_deadline has passed: closing what is left hard");
    tell_workers(worker::phase::abandoning);
    if (!wait_for_components(abandon_limit)) {
      log(log_level::error, "runtime", "links or listeners do not end and are left behind");
    }
  }
  watch_.reset();
  blocking_.stop();
  tell_workers(worker::phase::stopping);
  if (is_driven()) {
    while (!worker(0).ended()) worker(0).drive(abandon_limit);
    return worker(0).drop_reactor();
  }
  {
    const std::lock_guard guard(mutex_);
    reactors_may_go_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void runtime_core::tell_workers(detail::worker::phase next) noexcept {
  for (const auto& each : workers_) each->enter_phase(next);
}

bool runtime_core::wait_for_components(std::chrono::milliseconds limit) noexcept {
  if (is_driven()) return drive_for_components(limit);
  std::unique_lock guard(mutex_);
  return changed_.wait_for(guard, limit, [this] { return components_ == 0; });
}

bool runtime_core::drive_for_components(std::chrono::milliseconds limit) noexcept {
  const auto until = worker(0).now() + limit;
  for (;;) {
    {
      const std::lock_guard guard(mutex_);
      if (components_ == 0) return true;
    }
    const auto left = until - worker(0).now();
    if (left <= clock::duration::zero()) return false;
    worker(0).drive(left);
  }
}

void runtime_core::component_added() noexcept {
  const std::lock_guard guard(mutex_);
  ++components_;
}

void runtime_core::component_removed() noexcept {
  const std::lock_guard guard(mutex_);
  if (--components_ == 0) changed_.notify_all();
}

void runtime_core::falls_quiet() noexcept {
  quiet_.fetch_add(1, std::memory_order_seq_cst);
}

void runtime_core::stirs() noexcept {
  quiet_.fetch_add(one_stir - 1, std::memory_order_seq_cst);
}

// A quiet worker runs nothing and so queues nothing, and says so before it changes that: if all
// were quiet before the look at what is queued, and none has stirred until after it, then what was
// seen as empty is empty, and stays so.
bool runtime_core::all_done() noexcept {
  if (all_done_.load(std::memory_order_acquire)) return true;
  const auto before = quiet_.load(std::memory_order_seq_cst);
  if (before % one_stir != size() || has_injected()) return false;
  for (const auto& each : workers_) {
    if (each->has_posts()) return false;
  }
  if (quiet_.load(std::memory_order_seq_cst) != before) return false;
  all_done_.store(true, std::memory_order_release);  // pairs with the load above
  for (const auto& each : workers_) each->reactor().wake();
  return true;
}

detail::worker& runtime_core::pick_home() noexcept {
  const auto first = next_home_.fetch_add(1, std::memory_order_relaxed);
  detail::worker* best = nullptr;
  for (unsigned i = 0; i < size(); ++i) {
    detail::worker& candidate = worker((first + i) % size());
    if (best == nullptr || candidate.open_links() < best->open_links()) best = &candidate;
  }
  return *best;
}

detail::worker& runtime_core::next_entry() noexcept {
  HAWSER_ASSERT(!is_inherited());  // it would wait for ever
  return worker(next_entry_.fetch_add(1, std::memory_order_relaxed) % size());
}

// ---- work that any worker may run --------------------------------------------------------------

// One push in a row tells the workers: a sleeping one is woken, a busy one looks before its next
// item. Whoever takes only a part tells others of the rest. Without a permit to be had only those
// that hold one are told: the others could not run it, and whoever returns a permit looks at what
// was injected.
void runtime_core::inject(work& item, priority urgency) noexcept {
  if (!injected_.push(item, urgency)) return;
  const auto at = static_cast<std::size_t>(urgency);
  const bool for_all = permit_free(at);
  if (for_all) call_somebody();
  for (const auto& each : workers_) {
    if (for_all || each->has_permit(at)) each->attract();
  }
}

bool runtime_core::call(detail::worker& target) noexcept {
  if (!sleepers_.call(target.index())) return false;
  wake(target);
  return true;
}

// The driver is not in its loop's wait, so it needs no more than a note.
void runtime_core::wake(detail::worker& target) noexcept {
  target.wakeups_sent_.fetch_add(1, std::memory_order_relaxed);
  if (driver_ == std::this_thread::get_id() && wanted_ != nullptr) return wanted_(wanted_context_);
  target.reactor().wake();
}

void runtime_core::call_somebody() noexcept {
  const auto sleeper = sleepers_.notify();
  if (!sleeper.has_value()) return;
  detail::worker& target = worker(*sleeper);
  wake(target);
}

bool runtime_core::has_injected() const noexcept {
  for (std::size_t at = 0; at < priority_count; ++at) {
    if (!injected_.empty(static_cast<priority>(at))) return true;
  }
  return false;
}

void runtime_core::post(work& item, priority urgency) {
  const detail::worker* const here = worker::current();
  if (here != nullptr && &here->runtime() == this) {
    worker(here->index()).spawn(item, urgency);
    return;
  }
  const auto at = static_cast<std::size_t>(urgency);
  if (!has_room(at)) {
    if (config_.on_full == overflow::reject) {
      rejected_count_.fetch_add(1, std::memory_order_relaxed);
      failure(errc::limit_reached, "post: " + std::to_string(config_.queue_limit[at]) +
                                       " of that priority wait already")
          .raise();
    }
    std::unique_lock guard(mutex_);
    // seq_cst: either a worker that takes some sees us wait, or we see what it took.
    waiting_producers_.fetch_add(1, std::memory_order_seq_cst);
    changed_.wait(guard, [&] { return has_room(at); });
    waiting_producers_.fetch_sub(1, std::memory_order_relaxed);
  }
  inject(item, urgency);
}

bool runtime_core::has_room(std::size_t at) noexcept {
  // Taken first: it cannot be more than was pushed then.
  const std::uint64_t taken = injected_taken(at);
  return injected_.pushed(static_cast<priority>(at)) - taken < config_.queue_limit[at];
}

std::uint64_t runtime_core::injected_taken(std::size_t at) const noexcept {
  std::uint64_t taken = 0;
  for (const auto& each : workers_) taken += each->injected_taken(at);
  return taken;
}

void runtime_core::tell_producers() noexcept {
  if (waiting_producers_.load(std::memory_order_seq_cst) == 0) return;
  const std::lock_guard guard(mutex_);
  changed_.notify_all();
}

// seq_cst, both: whoever is told that none is free has pushed before a permit is returned, or the
// cap is raised, and those who do that look at the queues, or make all look, afterwards.
bool runtime_core::permit_free(std::size_t at) const noexcept {
  const unsigned most = caps_[at].most.load(std::memory_order_seq_cst);
  return most == 0 || caps_[at].held.load(std::memory_order_seq_cst) < most;
}

bool runtime_core::take_permit(std::size_t at) noexcept {
  const unsigned most = caps_[at].most.load(std::memory_order_relaxed);
  unsigned held = caps_[at].held.load(std::memory_order_relaxed);
  while (held < most || most == 0) {
    if (caps_[at].held.compare_exchange_weak(held, held + 1, std::memory_order_relaxed,
                                             std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

bool runtime_core::return_excess_permit(std::size_t at) noexcept {
  const unsigned most = caps_[at].most.load(std::memory_order_relaxed);
  unsigned held = caps_[at].held.load(std::memory_order_relaxed);
  while (most != 0 && held > most) {
    if (caps_[at].held.compare_exchange_weak(held, held - 1, std::memory_order_relaxed,
                                             std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

// seq_cst: whoever finds no permit free has pushed before, and we look for that afterwards.
void runtime_core::return_permit(std::size_t at) noexcept {
  caps_[at].held.fetch_sub(1, std::memory_order_seq_cst);
}

void runtime_core::adjust(const runtime::adjustment& change) {
  {
    const std::lock_guard guard(mutex_);
    live_ = detail::adjusted(live_, change);
    for (std::size_t at = 0; at < priority_count; ++at) {
      // seq_cst pairs with permit_free()
      caps_[at].most.store(live_.max_workers[at], std::memory_order_seq_cst);
    }
  }
  adjustments_.fetch_add(1, std::memory_order_release);  // pairs with adjustments()
  for (const auto& each : workers_) {
    each->attract();
    each->reactor().wake();
  }
}

runtime_core::adjustable runtime_core::adjusted() noexcept {
  const std::lock_guard guard(mutex_);
  return {live_.spin, live_.weights};
}

void runtime_core::report_stall(const detail::worker& where, clock::duration held) noexcept {
  try {
    const std::string place = platform::describe_code(where.resumed());
    if (has_log()) {
      const auto whole = std::chrono::duration_cast<std::chrono::milliseconds>(held).count();
      log(log_level::warning, "stall",
          "worker " + std::to_string(where.index()) + " is held for " + std::to_string(whole) +
              " ms by " + place);
    }
    if (config_.hooks.stall) config_.hooks.stall({where.index(), held, place});
  } catch (...) {
    // The event is lost; a hook must not throw.
  }
}

void runtime_core::log(log_level level, std::string_view area, std::string_view text) noexcept {
  if (!config_.log) return;
  try {
    config_.log(log_event{level, area, text});
  } catch (...) {
    // A sink must not throw; there is nobody left to tell.
  }
}

void runtime_core::fill_random(std::byte* bytes, std::size_t count) noexcept {
  if (config_.random != nullptr) {
    config_.random->fill(bytes, count);
  } else {
    platform::fill_random(bytes, count);
  }
}

void runtime_core::report_failure(std::exception_ptr failure) noexcept {
  failed_tasks_.fetch_add(1, std::memory_order_relaxed);
  log(log_level::error, "scope", [&] { return describe(failure); });
}

bool runtime_core::add_name(const std::string& name, std::weak_ptr<void> owner) {
  const std::lock_guard guard(mutex_);
  auto& place = names_[name];
  if (!place.expired()) return false;
  place = std::move(owner);
  return true;
}

void runtime_core::remove_name(const std::string& name) noexcept {
  const std::lock_guard guard(mutex_);
  names_.erase(name);
}

std::shared_ptr<void> runtime_core::find_name(const std::string& name) {
  const std::lock_guard guard(mutex_);
  const auto found = names_.find(name);
  return found == names_.end() ? nullptr : found->second.lock();
}

runtime_stats runtime_core::stats() const {
  runtime_stats all;
  all.workers.reserve(workers_.size());
  for (const auto& each : workers_) {
    all.workers.push_back(each->stats());
    all.open_links += each->open_links();
    all.injected -= each->overflowed();
  }
  for (std::size_t at = 0; at < priority_count; ++at) {
    const auto pushed = injected_.pushed(static_cast<priority>(at));
    all.injected += pushed;
    all.waiting[at] = pushed - std::min(pushed, injected_taken(at));
  }
  all.rejected = rejected_count_.load(std::memory_order_relaxed);
  all.failed_tasks = failed_tasks_.load(std::memory_order_relaxed);
  return all;
}

}  // namespace hawser::detail
