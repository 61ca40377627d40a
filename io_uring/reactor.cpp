// SPDX-License-Identifier: Apache-2.0
#include "reactor.hpp"

#include <poll.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "calls.hpp"
#include "hawser/errc.hpp"
#include "native.hpp"
#include "stream.hpp"

namespace hawser {
namespace {

using namespace std::chrono_literals;

/// One multishot receive on a pair of sockets of our own.
struct trial : completion {
  explicit trial(receive_buffers& from) noexcept
      : completion([](completion& self, int result, unsigned flags) noexcept {
          static_cast<trial&>(self).see(result, flags);
        }),
        buffers(from) {}

  void see(int result, unsigned flags) noexcept {
    announced_more |= result > 0 && (flags & IORING_CQE_F_MORE) != 0;
    ended = (flags & IORING_CQE_F_MORE) == 0;
    if ((flags & IORING_CQE_F_BUFFER) != 0) buffers.give_back(flags);
  }

  receive_buffers& buffers;
  bool announced_more = false;
  bool ended = false;
};

// Makes the event readable; one whose count is full is that already.
void press(int event) noexcept {
  while (calls::write_event(event) < 0 && errno == EINTR) {
  }
}

/// A send whose success is silent.
struct send_trial : completion {
  send_trial() noexcept
      : completion([](completion& self, int result, unsigned /*flags*/) noexcept {
          auto& trial = static_cast<send_trial&>(self);
          ++trial.heard;
          trial.outcome = result;
        }) {}

  unsigned heard = 0;
  int outcome = 0;
};

}  // namespace

void uring_reporter::report_later() noexcept {
  home_.queue(*this);
}

// ---- waiting for handles ----------------------------------------------------------------------

struct uring_reactor::waiter : completion {
  waiter(uring_reactor& of, readiness& waiting) noexcept
      : completion(&waiter::done), home(of), entry(&waiting) {}

  static void done(completion& self, int result, unsigned /*flags*/) noexcept {
    const std::unique_ptr<waiter> owned(static_cast<waiter*>(&self));
    owned->home.wait_ends();
    owned->entry->backend = nullptr;
    const bool failed = result < 0 && result != -EAGAIN;  // which a word is that has changed before
    const auto error = failed ? platform::system_error_code(-result) : std::error_code();
    owned->entry->done(*owned->entry, error);
  }

  uring_reactor& home;
  readiness* entry;
};

void uring_reactor::wait(platform::native_handle handle, readiness::kind what, readiness& entry) {
  auto waiting = std::make_unique<waiter>(*this, entry);
  calls::submit_poll(ring_.submission(*waiting), platform::descriptor(handle),
                     what == readiness::kind::readable ? POLLIN : POLLOUT);
  entry.backend = waiting.release();
  wait_begins();
}

void uring_reactor::wait_while(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                               readiness& entry) {
  auto waiting = std::make_unique<waiter>(*this, entry);
  calls::submit_word(ring_.submission(*waiting), &word, expected);
  entry.backend = waiting.release();
  wait_begins();
}

void uring_reactor::cancel_wait(readiness& entry) noexcept {
  if (entry.backend != nullptr) ring_.cancel(*static_cast<waiter*>(entry.backend));
}

// ---- waking -----------------------------------------------------------------------------------

// The poll completes at every write and the event's count is never read: no system call here to
// clear it. It would take 2^64 wakes to fill.
uring_reactor::bell::bell(uring_reactor& owner) noexcept
    : completion([](completion& self, int /*result*/, unsigned flags) noexcept {
        if ((flags & IORING_CQE_F_MORE) == 0) static_cast<bell&>(self).home.arm_bell();
      }),
      home(owner) {}

void uring_reactor::arm_bell() noexcept {
  calls::submit_bell(ring_.submission(bell_), bell_event_);
}

// Who waits in another loop is woken directly: an event that is signalled from within the signal of
// another one comes late, or only once.
void uring_reactor::wake() noexcept {
  press(bell_event_);
  if (poll_event_ >= 0) press(poll_event_);
}

// ---- the rest ---------------------------------------------------------------------------------

uring_reactor::uring_reactor() : ring_(counters_), bell_(*this) {
  buffers_.emplace(ring_);
  require_multishot();
  try_silent_sends();
  bell_event_ = calls::eventfd();
  if (bell_event_ < 0) throw std::system_error(platform::last_error(), "eventfd");
  arm_bell();
}

uring_reactor::~uring_reactor() {
  for (const int each : {bell_event_, poll_event_}) {
    if (each >= 0) calls::close(each);
  }
}

// Kernels before 6.0 have no multishot receive and no way to say so: it is tried.
void uring_reactor::require_multishot() {
  constexpr auto patience = 5s;
  const auto [reading, writing] = platform::socket_pair();
  trial attempt(*buffers_);
  calls::submit_receive_many(ring_.submission(attempt), platform::descriptor(reading),
                             receive_buffers::group);
  const std::byte one{1};
  const platform::io_slice slice{&one, 1};
  std::error_code error;
  const auto written = platform::write_some(writing, {&slice, 1}, error);
  platform::close(writing);  // ends the receive, also where nothing could be written
  const auto start = clock::now();
  while (!attempt.ended && clock::now() - start < patience) ring_.turn(patience);
  platform::close(reading);
  if (!attempt.ended) std::terminate();  // the kernel still refers to `attempt`
  if (written != 1) throw std::system_error(error, "io_uring: cannot try a receive");
  if (!attempt.announced_more) {
    failure(errc::unsupported, "io_uring has no multishot receive").raise();
  }
  counters_.reset();
}

// Three sends on a pair whose receiver takes nothing: one that fits, one that does not, and one for
// which there is no room at all. Nothing may be heard of the first, and of the others at once.
void uring_reactor::try_silent_sends() {
  if ((ring_.raw().features & IORING_FEAT_CQE_SKIP) == 0) return;
  constexpr std::size_t too_much = 1 << 20;
  constexpr unsigned attempts = 1000;
  const std::vector<std::byte> bytes(too_much);
  const auto [writing, reading] = platform::socket_pair();
  std::array<send_trial, 3> trials;
  for (auto& each : trials) {
    io_uring_sqe& entry = ring_.submission(each);
    const std::size_t count = &each == &trials.front() ? 1 : too_much;
    uring_stream::prepare_silent_send(entry, writing, bytes.data(), count);
  }
  for (unsigned i = 0; i < attempts && ring_.has_submissions(); ++i) {
    ring_.turn(clock::duration::zero());
  }
  const bool submitted = !ring_.has_submissions();
  const auto& [fits, is_short, is_refused] = trials;
  silent_sends_ = ring_.silence_means_success() && fits.heard == 0 && is_short.heard == 1 &&
                  is_short.outcome > 0 && is_short.outcome < static_cast<int>(too_much) &&
                  is_refused.heard == 1 && is_refused.outcome == -EAGAIN;
  if (fits.heard == 0) ring_.will_not_complete();
  platform::close(writing);
  platform::close(reading);
  counters_.reset();
  // The ring ends then, and tells nobody of what is left in it.
  if (!submitted) failure(errc::unsupported, "io_uring takes no submissions").raise();
}

void uring_reactor::queue(uring_reporter& ready) noexcept {
  if (std::exchange(ready.queued_, true)) return;
  ready.next_ = nullptr;
  (last_ == nullptr ? first_ : last_->next_) = &ready;
  last_ = &ready;
}

bool uring_reactor::report_all() noexcept {
  if (first_ == nullptr) return false;
  uring_reporter* next = std::exchange(first_, nullptr);
  last_ = nullptr;
  while (next != nullptr) {
    uring_reporter& ready = *next;
    next = ready.next_;
    ready.queued_ = false;
    ready.report();
  }
  return true;
}

void uring_reactor::expect_silence(uring_stream& sender) noexcept {
  sender.next_silent_ = std::exchange(silent_, &sender);
}

void uring_reactor::forget(uring_stream& sender) noexcept {
  for (uring_stream** at : {&silent_, &submitted_}) {
    while (*at != nullptr && *at != &sender) at = &(*at)->next_silent_;
    if (*at != nullptr) *at = sender.next_silent_;
  }
}

// Silence means nothing yet for what is written while completions are dispatched: the kernel has
// not seen it, and would find other bytes if it were settled.
void uring_reactor::turn_ring(clock::duration limit) noexcept {
  uring_stream** last = &silent_;
  while (*last != nullptr) last = &(*last)->next_silent_;
  *last = submitted_;
  submitted_ = std::exchange(silent_, nullptr);
  ring_.turn(limit);
  if (submitted_ == nullptr || !ring_.silence_means_success()) return;
  uring_stream* next = std::exchange(submitted_, nullptr);
  while (next != nullptr) {
    uring_stream& settled = *next;
    next = settled.next_silent_;
    settled.settle_write();
  }
}

void uring_reactor::turn(clock::duration limit) noexcept {
  wrote_ = false;
  if (poll_event_ >= 0) {
    take_poll_event();
    io_uring_cq_eventfd_toggle(&ring_.raw(), false);
  }
  if (report_all() || std::exchange(hurry_, false)) limit = clock::duration::zero();
  if (limit > clock::duration::zero()) {
    hot_.cool_all();
  } else {
    hot_.read();
  }
  turn_ring(limit);
  if (poll_event_ >= 0) io_uring_cq_eventfd_toggle(&ring_.raw(), true);
}

void uring_reactor::poll() noexcept {
  wrote_ = false;
  report_all();
  hot_.read();
  looking_ = true;
  turn_ring(clock::duration::zero());
  looking_ = false;
}

void uring_reactor::submit() noexcept {
  if (ring_.has_submissions()) turn_ring(clock::duration::zero());
}

// The ring's own descriptor does not wake who polls it when work was only deferred to its thread;
// an eventfd that is registered with the ring does.
platform::native_handle uring_reactor::make_pollable() {
  poll_event_ = calls::eventfd();
  if (poll_event_ < 0) throw std::system_error(platform::last_error(), "eventfd");
  if (const int failed = calls::ring_register_event(ring_.raw(), poll_event_); failed < 0) {
    throw std::system_error(platform::system_error_code(-failed), "io_uring_register_eventfd");
  }
  return poll_event_;
}

// Taken first: what happens from now on makes it readable again, but for what this turn sees. What
// has not been seen there, and has left no trace in the ring, can stay: it ends a wait for nothing,
// and is seen then.
void uring_reactor::take_poll_event() noexcept {
  if (!std::exchange(poll_event_seen_, false) && !ring_.has_news()) return;
  ++counters_.system_calls;
  calls::read_event(poll_event_);
}

bool uring_reactor::has_more() const noexcept {
  return first_ != nullptr || hurry_ || silent_ != nullptr || submitted_ != nullptr ||
         ring_.has_submissions() || ring_.has_news();
}

namespace platform {

native_reactor make_native_reactor() {
  native_reactor offer;
  offer.mechanism = "io_uring";
  try {
    auto created = std::make_unique<uring_reactor>();
    offer.reason = "probed: multishot receive into provided buffers works";
    offer.features = created->features();
    offer.created = std::move(created);
  } catch (const std::system_error& error) {
    offer.reason = "io_uring is not available: " + std::string(error.what());
  }
  return offer;
}

}  // namespace platform
}  // namespace hawser
