// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "exec/memory_source.hpp"
#include "exec/worker.hpp"
#include "os/reactor.hpp"
#include "shm/handle_owner.hpp"
#include "shm/segment.hpp"

namespace hawser::shm {

class ring_stream;

class port_events {
 public:
  /// The socket that came with the segment has ended: the peer cannot be woken by it any more, nor
  /// wake us. What it had committed was handed on.
  virtual void on_port_lost(std::error_code why) noexcept = 0;

 protected:
  ~port_events() = default;
};

/// One end of a segment on its home worker: streams over its rings, who sleeps, and who is woken.
///
/// While its worker is awake it looks at the rings in every turn. When the worker goes to sleep the
/// port leaves its bell behind: the peer wakes it by the word of the bell where the reactor can
/// wait for one, otherwise by a byte on the socket that came along with the segment.
///
/// Threads: home's.
class port final : public detail::memory_source {
 public:
  /// Says in the segment how `own` is woken. Before the peer, which believes what it finds, has it:
  /// one that passed barriers by itself while the other relies on those of the system, or the other
  /// way round, would miss what it is to be woken for.
  static void introduce(detail::worker& home, const segment& shared, side own) noexcept;

  /// Introduces `own`, and takes over both; `socket` is connected to the peer and carries nothing
  /// else.
  ///
  /// Errors: throws std::bad_alloc or std::system_error; the socket is the caller's still then.
  port(detail::worker& home, segment mapped, side own, platform::native_handle socket,
       port_events& owner);
  /// No more streams are open. The memory goes once nobody waits for its words any more.
  static void abandon(port* gone) noexcept;

  /// A channel's pair of rings as a stream.
  ///
  /// Shape:  one for each channel at a time; it goes before the port does.
  /// Errors: throws std::bad_alloc.
  [[nodiscard]] std::unique_ptr<ring_stream> open(std::size_t channel, stream_events& owner);
  struct figures {
    std::uint64_t wakeups_sent = 0;
    std::uint64_t wakeups_spared = 0;
    std::uint64_t full_stalls = 0;
  };
  [[nodiscard]] const figures& counted() const noexcept { return counted_; }
  [[nodiscard]] std::error_code reserve(std::size_t channel) noexcept {
    return segment_.reserve(channel);
  }
  /// Hands on all that the peer had committed before it went.
  void drain() noexcept;

  // memory_source
  bool look() noexcept override;
  [[nodiscard]] bool doze() noexcept override;
  [[nodiscard]] bool has_stirred() noexcept override;
  void stay_awake() noexcept override;
  [[nodiscard]] bool wants_barrier() const noexcept override {
    return !barriers_.full &&
           !own_fences<>::sleeper_needs_none(segment_.state_of(other(own_)).fences);
  }

 private:
  friend class ring_stream;

  // Something that the reactor waits for.
  struct wait final : readiness {
    wait(port& by, function action) noexcept : readiness(action), owner(by) {}
    port& owner;
    bool armed = false;
  };

  ~port();

  /// Something happens here: the worker looks, so that the peer need not wake it.
  void stir() noexcept;
  /// Between what was published, or given back, and a look at who waits for that.
  void fence() const noexcept {
    if (fences_.active()) {
      std::atomic_thread_fence(std::memory_order_seq_cst);
    } else {
      barriers_.between_publish_and_look();
    }
  }
  /// The peer may be waiting for what was just published or given back.
  void wake_peer() noexcept;
  void forget(const ring_stream& gone) noexcept;
  [[nodiscard]] bool arm_word() noexcept;
  void arm_socket();
  static void on_word(readiness& entry, std::error_code error) noexcept;
  static void on_socket(readiness& entry, std::error_code error) noexcept;
  [[nodiscard]] bool is_over() noexcept;
  void take_rings() noexcept;

  detail::worker& home_;
  segment segment_;
  const side own_;
  platform::native_handle socket_;
  handle_owner watched_;  // the socket, in a way that ends with this process
  port_events& owner_;
  bell<> bell_;
  bell<> peers_bell_;
  barriers barriers_;
  own_fences<> fences_;
  figures counted_;
  std::array<ring_stream*, ring_count> streams_{};
  wait word_wait_;       // to be woken
  wait socket_wait_;     // likewise, or for the end of the peer
  bool asleep_ = false;  // so it was announced
  bool abandoned_ = false;
};

}  // namespace hawser::shm
