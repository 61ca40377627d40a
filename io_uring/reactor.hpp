// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "os/hot_streams.hpp"
#include "os/read_blocks.hpp"
#include "os/reactor.hpp"
#include "receive_buffers.hpp"
#include "ring.hpp"

namespace hawser {

class uring_reactor;
class uring_stream;

/// Something with an event to report from turn(), outside of any completion.
class uring_reporter {
 public:
  uring_reporter(const uring_reporter&) = delete;
  uring_reporter& operator=(const uring_reporter&) = delete;

 protected:
  explicit uring_reporter(uring_reactor& home) noexcept : home_(home) {}
  ~uring_reporter() = default;
  void report_later() noexcept;
  virtual void report() noexcept = 0;  // may destroy the object

  uring_reactor& home_;

 private:
  friend class uring_reactor;

  uring_reporter* next_ = nullptr;
  bool queued_ = false;
};

/// The reactor on io_uring: receive and accept are armed once and complete many times, writes of a
/// turn go out together, and a turn is one system call.
class uring_reactor final : public reactor {
 public:
  /// Errors: throws std::system_error naming what was refused.
  uring_reactor();
  ~uring_reactor() override;

  std::unique_ptr<stream> open(platform::native_handle socket, stream_events& owner) override;
  std::unique_ptr<acceptor> listen(platform::native_handle socket, accept_events& owner) override;
  void wait(platform::native_handle handle, readiness::kind what, readiness& entry) override;
  void cancel_wait(readiness& entry) noexcept override;
  [[nodiscard]] bool waits_for_words() const noexcept override { return ring_.waits_for_words(); }
  void wait_while(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                  readiness& entry) override;
  void turn(clock::duration limit) noexcept override;
  void poll() noexcept override;
  void submit() noexcept override;
  platform::native_handle make_pollable() override;
  void handle_was_readable() noexcept override { poll_event_seen_ = true; }
  [[nodiscard]] bool has_more() const noexcept override;
  void wake() noexcept override;

  // For streams and acceptors.
  [[nodiscard]] uring& ring() noexcept { return ring_; }
  [[nodiscard]] receive_buffers& buffers() noexcept { return *buffers_; }
  [[nodiscard]] read_blocks& blocks() noexcept { return blocks_; }
  [[nodiscard]] hot_streams<uring_stream>& hot() noexcept { return hot_; }
  /// The worker looks for work, and finds what completes now by it.
  [[nodiscard]] bool looking() const noexcept { return looking_; }
  /// Of the writes of a turn the first may leave at once: one system call, and no completion that
  /// ends a wait early. More leave together.
  [[nodiscard]] bool is_first_write() noexcept { return !std::exchange(wrote_, true); }
  [[nodiscard]] reactor_counters& count() noexcept { return counters_; }
  void queue(uring_reporter& ready) noexcept;
  /// Whether the kernel keeps silent about a send that has gone out whole at once, and only then.
  [[nodiscard]] bool has_silent_sends() const noexcept { return silent_sends_; }
  /// `sender` has submitted one: settle_write() follows in the next turn, unless forgotten.
  void expect_silence(uring_stream& sender) noexcept;
  void forget(uring_stream& sender) noexcept;
  /// The next turn does not wait.
  void hurry() noexcept { hurry_ = true; }

  [[nodiscard]] const std::vector<std::string>& features() const noexcept {
    return ring_.features();
  }

 private:
  struct waiter;
  struct bell : completion {
    explicit bell(uring_reactor& owner) noexcept;
    uring_reactor& home;
  };

  void take_poll_event() noexcept;
  void arm_bell() noexcept;
  void require_multishot();
  void try_silent_sends();
  bool report_all() noexcept;
  void turn_ring(clock::duration limit) noexcept;

  // The buffers go after the ring: until then the kernel may write to them.
  std::optional<receive_buffers> buffers_;
  uring ring_;
  bell bell_;
  int bell_event_ = -1;
  int poll_event_ = -1;  // driven by another loop: what that waits for
  bool poll_event_seen_ = false;
  read_blocks blocks_;
  hot_streams<uring_stream> hot_;
  bool looking_ = false;
  bool wrote_ = false;
  bool hurry_ = false;
  bool silent_sends_ = false;
  // Senders of silent writes, the newest first: of those that are in the ring's queue, and of those
  // that were there when the ring was last asked to submit it.
  uring_stream* silent_ = nullptr;
  uring_stream* submitted_ = nullptr;
  uring_reporter* first_ = nullptr;
  uring_reporter* last_ = nullptr;
};

}  // namespace hawser
