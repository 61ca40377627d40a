// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <liburing.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hawser/executor.hpp"
#include "os/reactor.hpp"

namespace hawser {

/// Where completions of one operation go: what user_data points to.
///
/// Shape: lives until the completion without IORING_CQE_F_MORE has arrived. The completion of a
///        cancel is not that of what it cancels.
struct completion {
  using function = void (*)(completion&, int result, unsigned flags) noexcept;

  explicit completion(function action) noexcept : arrived(action) {}

  function arrived;
};

/// The pair of queues shared with the kernel: setup, submission, dispatch.
///
/// Threads: the one that made it.
class uring {
 public:
  /// Errors: throws std::system_error with the call that was refused, or errc::unsupported.
  explicit uring(reactor_counters& counters);
  uring(const uring&) = delete;
  uring& operator=(const uring&) = delete;
  /// Cancels what is under way and waits for it: afterwards the kernel writes to no memory of ours.
  ~uring();

  /// A submission to fill in; it goes to the kernel with the next turn. Every completion of it goes
  /// to `to`.
  [[nodiscard]] io_uring_sqe& submission(completion& to) noexcept;
  /// After a turn, of submissions with IOSQE_CQE_SKIP_SUCCESS that were queued before it: all are
  /// with the kernel, and those that have failed at once were dispatched. The others are the
  /// caller's to count.
  [[nodiscard]] bool silence_means_success() const noexcept { return all_told_; }
  /// Asks to end `target`'s operation early; its last completion still comes.
  void cancel(completion& target) noexcept;

  /// Submits, waits at most `limit` for a completion, dispatches what is there. One system call;
  /// none if `limit` is zero, nothing is to be submitted and the kernel has nothing for us.
  void turn(clock::duration limit) noexcept;

  /// No completion follows a submission that was silent.
  void will_not_complete() noexcept { --under_way_; }
  /// Completions are there, or the kernel has some to make.
  [[nodiscard]] bool has_news() const noexcept;
  /// The kernel has operations that wait for a word in memory.
  [[nodiscard]] bool waits_for_words() const noexcept { return waits_for_words_; }
  [[nodiscard]] bool has_submissions() const noexcept { return io_uring_sq_ready(&ring_) != 0; }
  [[nodiscard]] io_uring& raw() noexcept { return ring_; }
  [[nodiscard]] const std::vector<std::string>& features() const noexcept { return features_; }

 private:
  void require(bool there, const char* what) const;
  /// What was set up, in the words of features().
  const char* set_up();
  [[nodiscard]] io_uring_sqe* make_room() noexcept;
  void probe();
  void enter(clock::duration limit) noexcept;
  void dispatch() noexcept;
  [[nodiscard]] bool kernel_has_work() const noexcept;
  [[nodiscard]] bool kernel_flags_work() const noexcept;

  struct alarm : completion {
    explicit alarm(uring& of) noexcept;
    uring& owner;
  };
  void set_alarm(clock::time_point latest) noexcept;

  io_uring ring_{};
  reactor_counters& counters_;
  std::size_t under_way_ = 0;
  alarm alarm_;
  clock::time_point alarm_at_ = clock::time_point::max();  // max: not armed
  __kernel_timespec alarm_time_{};
  bool all_told_ = false;
  bool waits_for_words_ = false;
  bool flagged_ = false;  // the kernel says in a flag when it has deferred work
  std::vector<std::string> features_;
};

}  // namespace hawser
