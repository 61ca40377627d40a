// SPDX-License-Identifier: Apache-2.0
#include "shm/pool_worker.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <utility>

#include "core/spin_pause.hpp"
#include "os/platform.hpp"

namespace hawser::shm {
namespace {

using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;

constexpr unsigned looks_between_clocks = 16;
constexpr auto longest_sleep = 1h;

}  // namespace

pool_worker::pool_worker(const shm_workers_options& options, std::optional<unsigned> core)
    : options_(options), batch_(options.batch_bytes), spin_(options.spin) {
  words_.reserve(shm_workers::streams_per_thread_max + 1);
  mine_.reserve(shm_workers::streams_per_thread_max);
  all_.reserve(shm_workers::streams_per_thread_max);
  std::condition_variable changed;
  bool begun = false;
  thread_ = platform::start_thread("hawser-shm", [&, core] {
    const bool bound = core.has_value() && platform::pin_thread(*core);
    {
      const std::lock_guard guard(mutex_);
      if (bound) core_ = core;
      begun = true;
      changed.notify_one();
    }
    run();
  });
  std::unique_lock guard(mutex_);
  changed.wait(guard, [&] { return begun; });
}

pool_worker::~pool_worker() {
  request_stop();
  join();
}

// ---- from other threads ---------------------------------------------------------------------

std::size_t pool_worker::stream_count() const noexcept {
  const std::lock_guard guard(mutex_);
  return all_.size();
}

// After it has set `quiet_` the thread looks at what is guarded once more.
errc pool_worker::add(std::unique_ptr<served>& more) {
  {
    const std::lock_guard guard(mutex_);
    if (stopping_) return errc::closed;
    if (all_.size() == shm_workers::streams_per_thread_max) return errc::limit_reached;
    all_.push_back(std::move(more));
    quiet_.store(0, std::memory_order_release);
  }
  platform::wake_all(quiet_);
  return {};
}

void pool_worker::request_stop() noexcept {
  {
    const std::lock_guard guard(mutex_);
    stopping_ = true;
    for (const auto& each : all_) each->core.close();
    quiet_.store(0, std::memory_order_release);
  }
  platform::wake_all(quiet_);
}

void pool_worker::join() noexcept {
  if (thread_.joinable()) thread_.join();
}

void pool_worker::add_to(shm_workers_stats& all) const noexcept {
  all.batches += batches_;
  all.records += records_;
  all.spins += spins_;
  all.spins_paid += spins_paid_;
  all.sleeps += sleeps_;
}

// ---- the thread -----------------------------------------------------------------------------

void pool_worker::run() noexcept {
  while (adopt()) {
    if (serve_all() || spin()) continue;
    sleep();
  }
}

bool pool_worker::adopt() {
  const std::lock_guard guard(mutex_);
  for (; adopted_ < all_.size(); ++adopted_) mine_.push_back(all_[adopted_].get());
  return !stopping_;
}

bool pool_worker::serve_all() {
  bool any = false;
  for (std::size_t i = 0; i < mine_.size();) {
    served& each = *mine_[i];
    const bool has_news = each.core.has_stirred() || each.core.knows_loss();
    if (has_news && serve(each)) any = true;
    if (i < mine_.size() && mine_[i] == &each) ++i;  // it was not finished
  }
  return any;
}

bool pool_worker::serve(served& each) {
  std::error_code error;
  if (each.core.read_batch(batch_, options_.batch_records, 0ns, error)) {
    ++batches_;
    records_ += batch_.size();
    each.on_records(each.stream, batch_);
    return true;
  }
  if (error == errc::timed_out) return false;
  finish(each, error);
  return true;
}

// Forgotten first: when its handler is called, the stream may go. What is being stopped has closed
// it, and tells nobody.
void pool_worker::finish(served& each, std::error_code why) {
  std::unique_ptr<served> gone;
  {
    const std::lock_guard guard(mutex_);
    if (stopping_) return;
    const auto in_all = std::find_if(all_.begin(), all_.end(),
                                     [&](const auto& other) { return other.get() == &each; });
    gone = std::move(*in_all);
    all_.erase(in_all);
    --adopted_;
  }
  mine_.erase(std::find(mine_.begin(), mine_.end(), &each));
  if (gone->on_end) gone->on_end(gone->stream, why);
}

bool pool_worker::has_stirred() noexcept {
  return std::any_of(mine_.begin(), mine_.end(),
                     [](served* each) { return each->core.has_stirred(); });
}

bool pool_worker::spin() noexcept {
  const auto budget = spin_.next();
  if (budget <= 0ns) return false;
  ++spins_;
  const auto begin = clock::now();
  auto spent = 0ns;
  quiet_.store(1, std::memory_order_relaxed);
  while (spent < budget) {
    for (unsigned i = 0; i < looks_between_clocks; ++i) {
      if (has_stirred() || quiet_.load(std::memory_order_relaxed) == 0) {
        spin_.found(clock::now() - begin);
        ++spins_paid_;
        return true;
      }
      detail::spin_pause();
    }
    spent = clock::now() - begin;
  }
  spin_.missed(spent);
  return false;
}

void pool_worker::sleep() {
  const auto begin = clock::now();
  auto slice = std::chrono::nanoseconds(longest_sleep);
  words_.assign(1, &quiet_);
  quiet_.store(1, std::memory_order_relaxed);
  for (served* each : mine_) {
    each->core.announce();
    words_.push_back(&each->core.word());
    slice = std::min<std::chrono::nanoseconds>(slice, each->core.options().peer_check);
  }
  stream_core::pass_barrier();
  bool called = false;
  {
    const std::lock_guard guard(mutex_);
    called = stopping_ || adopted_ != all_.size();
  }
  const auto is_rung = [](const auto* word) { return word->load(std::memory_order_relaxed) != 1; };
  if (!called && !has_stirred()) {
    ++sleeps_;
    do {
      platform::sleep_on_any(words_, 1, slice);
    } while (std::none_of(words_.begin(), words_.end(), is_rung) && !look_after_sleep());
  }
  for (served* each : mine_) each->core.answer();
  spin_.slept(clock::now() - begin);
}

// Nobody has called within a slice: only a peer that died, which a read finds.
bool pool_worker::look_after_sleep() {
  for (served* each : mine_) {
    if (each->core.has_stirred() || each->core.has_lost_peer()) return true;
  }
  return false;
}

}  // namespace hawser::shm
