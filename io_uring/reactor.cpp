// SPDX-License-Identifier: Apache-2.0
#include "reactor.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

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

}  // namespace

void uring_reporter::report_later() noexcept {
  home_.queue(*this);
}

// ---- waiting for handles ----------------------------------------------------------------------

struct uring_reactor::waiter : completion {
  explicit waiter(readiness& waiting) noexcept : completion(&waiter::done), entry(&waiting) {}

  static void done(completion& self, int result, unsigned /*flags*/) noexcept {
    const std::unique_ptr<waiter> owned(static_cast<waiter*>(&self));
    owned->entry->backend = nullptr;
    const auto error = result < 0 ? platform::system_error_code(-result) : std::error_code();
    owned->entry->done(*owned->entry, error);
  }

  readiness* entry;
};

void uring_reactor::wait(platform::native_handle handle, readiness::kind what, readiness& entry) {
  auto waiting = std::make_unique<waiter>(entry);
  io_uring_prep_poll_add(&ring_.submission(*waiting), platform::descriptor(handle),
                         what == readiness::kind::readable ? POLLIN : POLLOUT);
  entry.backend = waiting.release();
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
  io_uring_prep_poll_multishot(&ring_.submission(bell_), bell_event_, POLLIN);
}

void uring_reactor::wake() noexcept {
  const std::uint64_t once = 1;
  static_cast<void>(!::write(bell_event_, &once, sizeof once));
}

// ---- the rest ---------------------------------------------------------------------------------

uring_reactor::uring_reactor() : ring_(counters_), bell_(*this) {
  buffers_.emplace(ring_);
  require_multishot();
  bell_event_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (bell_event_ < 0) throw std::system_error(platform::last_error(), "eventfd");
  arm_bell();
}

uring_reactor::~uring_reactor() {
  if (bell_event_ >= 0) ::close(bell_event_);
}

// Kernels before 6.0 have no multishot receive and no way to say so: it is tried.
void uring_reactor::require_multishot() {
  constexpr auto patience = 5s;
  const auto [reading, writing] = platform::socket_pair();
  trial attempt(*buffers_);
  io_uring_sqe& receive = ring_.submission(attempt);
  io_uring_prep_recv_multishot(&receive, platform::descriptor(reading), nullptr, 0, 0);
  receive.flags |= IOSQE_BUFFER_SELECT;
  receive.buf_group = receive_buffers::group;
  const std::byte one{1};
  const platform::io_slice slice{&one, 1};
  std::error_code error;
  const auto written = platform::write_some(writing, {&slice, 1}, error);
  platform::shut_down_writing(writing);
  const auto start = clock::now();
  while (!attempt.ended && written == 1 && clock::now() - start < patience) ring_.turn(patience);
  platform::close(reading);
  platform::close(writing);
  if (!attempt.ended) std::terminate();  // the kernel still refers to `attempt`
  if (!attempt.announced_more) {
    failure(errc::unsupported, "io_uring has no multishot receive").raise();
  }
  counters_.reset();
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

void uring_reactor::turn(clock::duration limit) noexcept {
  wrote_ = false;
  if (report_all()) limit = clock::duration::zero();
  if (limit > clock::duration::zero()) {
    hot_.cool_all();
  } else {
    hot_.read();
  }
  ring_.turn(limit);
}

void uring_reactor::poll() noexcept {
  wrote_ = false;
  report_all();
  hot_.read();
  looking_ = true;
  ring_.turn(clock::duration::zero());
  looking_ = false;
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
  } catch (const std::bad_alloc&) {
    offer.reason = "io_uring is not available: no memory";
  }
  return offer;
}

}  // namespace platform
}  // namespace hawser
