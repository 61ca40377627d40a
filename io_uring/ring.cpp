// SPDX-License-Identifier: Apache-2.0
#include "ring.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <system_error>
#include <thread>

#include "calls.hpp"
#include "core/assert.hpp"
#include "hand_over.hpp"
#include "hawser/errc.hpp"
#include "native.hpp"

namespace hawser {
namespace {

using namespace std::chrono_literals;

constexpr unsigned submission_entries = 512;
constexpr unsigned completion_entries = 4096;
// What the last operations may take to come back when the ring is closed.
constexpr unsigned closing_turns = 1000;
constexpr unsigned attempts_for_room = 100'000;

struct setup_choice {
  unsigned flags;
  const char* name;
};

// In the order of preference; the kernel answers EINVAL to a flag that it does not know.
constexpr std::array<setup_choice, 4> choices{{
    {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
         IORING_SETUP_SUBMIT_ALL,
     "SINGLE_ISSUER, DEFER_TASKRUN, SUBMIT_ALL"},
    {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
         IORING_SETUP_SUBMIT_ALL,
     "SINGLE_ISSUER, COOP_TASKRUN, SUBMIT_ALL"},
    {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
     "COOP_TASKRUN, SUBMIT_ALL"},
    {0, "no setup flags"},
}};

__kernel_timespec to_timespec(clock::duration limit) noexcept {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(limit);
  return {seconds.count(), std::chrono::nanoseconds(limit - seconds).count()};
}

void discard(completion& /*self*/, int /*result*/, unsigned /*flags*/) noexcept {}

[[noreturn]] void refused(int number, const std::string& call) {
  throw std::system_error(platform::system_error_code(number), call);
}

}  // namespace

uring::alarm::alarm(uring& of) noexcept
    : completion([](completion& self, int /*result*/, unsigned /*flags*/) noexcept {
        uring& ring = static_cast<alarm&>(self).owner;
        ring.alarm_at_ = clock::time_point::max();
        --ring.counters_.completions;  // nothing has happened
      }),
      owner(of) {}

uring::uring(reactor_counters& counters) : counters_(counters), alarm_(*this) {
  const char* const flags = set_up();
  take_from_kernel();  // the memory of another ring, perhaps, that another thread has given back
  try {
    features_.emplace_back(flags);
    probe();
    if (calls::ring_register_itself(ring_)) features_.emplace_back("registered ring");
  } catch (...) {
    hand_to_kernel();
    io_uring_queue_exit(&ring_);
    throw;
  }
}

const char* uring::set_up() {
  int failed = 0;
  for (const setup_choice& choice : choices) {
    io_uring_params params{};
    params.flags = choice.flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    params.cq_entries = completion_entries;
    failed = calls::ring_setup(submission_entries, ring_, params);
    if (failed == 0) {
      flagged_ = (choice.flags & IORING_SETUP_TASKRUN_FLAG) != 0;
      return choice.name;
    }
    if (failed != -EINVAL) break;
  }
  refused(-failed, "io_uring_setup");
}

void uring::require(bool there, const char* what) const {
  if (!there) failure(errc::unsupported, std::string("io_uring has no ") + what).raise();
}

void uring::probe() {
  constexpr unsigned wanted = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
  require((ring_.features & wanted) == wanted, "EXT_ARG, NODROP or SUBMIT_STABLE");
  const std::unique_ptr<io_uring_probe, void (*)(io_uring_probe*)> known(
      calls::ring_probe(ring_), io_uring_free_probe);
  require(known != nullptr, "probe");
  for (const int op : {IORING_OP_ACCEPT, IORING_OP_RECV, IORING_OP_RECVMSG, IORING_OP_SEND,
                       IORING_OP_SENDMSG, IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL,
                       IORING_OP_TIMEOUT, IORING_OP_TIMEOUT_REMOVE}) {
    require(io_uring_opcode_supported(known.get(), op) != 0, "socket operations");
  }
  waits_for_words_ = io_uring_opcode_supported(known.get(), calls::op_futex_wait) != 0;
  if (waits_for_words_) features_.emplace_back("FUTEX_WAIT");
}

uring::~uring() {
  completion ignored(&discard);
  if (under_way_ != 0) {
    io_uring_sqe& all = submission(ignored);
    calls::submit_cancel_all(all);
    io_uring_sqe_set_data(&all, &ignored);
  }
  for (unsigned i = 0; under_way_ != 0 && i < closing_turns; ++i) {
    calls::ring_drain(ring_, to_timespec(10ms));
    io_uring_cqe* arrived = nullptr;
    while (io_uring_peek_cqe(&ring_, &arrived) == 0) {
      static_cast<void>(calls::outcome_of(*arrived));
      if ((arrived->flags & IORING_CQE_F_MORE) == 0 && arrived->user_data != 0) --under_way_;
      io_uring_cqe_seen(&ring_, arrived);
    }
  }
  hand_to_kernel();  // before another thread may be given this memory for a ring of its own
  io_uring_queue_exit(&ring_);
}

io_uring_sqe& uring::submission(completion& to) noexcept {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  if (entry == nullptr) entry = make_room();
  ++under_way_;
  io_uring_sqe_set_data(entry, &to);
  return *entry;
}

// The kernel takes nothing while it has no memory for it, which passes or is everybody's end.
io_uring_sqe* uring::make_room() noexcept {
  io_uring_sqe* entry = nullptr;
  for (unsigned i = 0; entry == nullptr && i < attempts_for_room; ++i) {
    if (i != 0) std::this_thread::yield();
    ++counters_.system_calls;
    static_cast<void>(calls::ring_make_room(ring_));
    entry = io_uring_get_sqe(&ring_);
  }
  HAWSER_ASSERT(entry != nullptr);
  return entry;
}

// Its own completion carries no address: nobody needs to know whether there was something left.
void uring::cancel(completion& target) noexcept {
  io_uring_sqe& entry = submission(target);
  --under_way_;
  calls::submit_cancel(entry, &target);
  io_uring_sqe_set_data(&entry, nullptr);
}

bool uring::kernel_has_work() const noexcept {
  return !flagged_ || io_uring_sq_ready(&ring_) != 0 || kernel_flags_work();
}

bool uring::kernel_flags_work() const noexcept {
  return (IO_URING_READ_ONCE(*ring_.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

bool uring::has_news() const noexcept {
  return io_uring_cq_ready(&ring_) != 0 || kernel_flags_work();
}

// One timeout stays with the kernel over many waits, which is cheaper than one for each wait. It is
// moved only when it would come too late; one that comes too early ends a wait for nothing.
void uring::set_alarm(clock::time_point latest) noexcept {
  if (alarm_at_ <= latest) return;
  const bool armed = alarm_at_ != clock::time_point::max();
  alarm_at_ = latest;
  alarm_time_ = to_timespec(latest.time_since_epoch());
  io_uring_sqe& entry = submission(alarm_);
  if (!armed) {
    calls::submit_alarm(entry, alarm_time_);
    return;
  }
  // If it has just fired, this fails, and its own completion ends the wait.
  --under_way_;
  calls::submit_alarm_move(entry, &alarm_, alarm_time_);
  io_uring_sqe_set_data(&entry, nullptr);
}

void uring::enter(clock::duration limit) noexcept {
  if (io_uring_cq_ready(&ring_) != 0) limit = clock::duration::zero();
  if (limit <= clock::duration::zero() && !kernel_has_work()) {
    all_told_ = true;  // make_room() may have submitted the last
    return;
  }
  ++counters_.system_calls;
  hand_to_kernel();
  const int outcome =
      limit <= clock::duration::zero() ? calls::ring_look(ring_) : calls::ring_wait(ring_);
  take_from_kernel();
  const unsigned state = IO_URING_READ_ONCE(*ring_.sq.kflags);
  all_told_ = io_uring_sq_ready(&ring_) == 0 && (state & IORING_SQ_CQ_OVERFLOW) == 0;
  // Anything else means that the ring is not what we think it is.
  HAWSER_ASSERT(outcome >= 0 || outcome == -ETIME || outcome == -EINTR || outcome == -EAGAIN ||
                outcome == -EBUSY || outcome == -ENOMEM);
}

void uring::turn(clock::duration limit) noexcept {
  if (limit <= clock::duration::zero()) {
    enter(limit);
    dispatch();
    return;
  }
  const auto until = clock::now() + limit;
  const std::uint64_t before = counters_.completions;
  do {
    set_alarm(until);
    enter(limit);
    dispatch();  // nothing but an alarm that was too early, or its move: wait on
  } while (counters_.completions == before && clock::now() < until);
}

// Each completion leaves the queue before it is acted upon, because the action may submit, and a
// full submission queue goes to the kernel at once. Bounded by what was there at the start.
void uring::dispatch() noexcept {
  unsigned left = io_uring_cq_ready(&ring_);
  unsigned head = 0;
  io_uring_cqe* arrived = nullptr;
  if (left == 0) return;
  io_uring_for_each_cqe(&ring_, head, arrived) {
    auto* const to = static_cast<completion*>(io_uring_cqe_get_data(arrived));
    const int result = calls::outcome_of(*arrived);
    const unsigned flags = arrived->flags;
    io_uring_cq_advance(&ring_, 1);
    if (to != nullptr) {
      ++counters_.completions;
      if ((flags & IORING_CQE_F_MORE) != 0) {
        ++counters_.multishot;
      } else {
        --under_way_;
      }
      to->arrived(*to, result, flags);
    }
    if (--left == 0) break;
  }
}

}  // namespace hawser
