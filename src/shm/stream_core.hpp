// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>

#include "core/counter.hpp"
#include "exec/spin_budget.hpp"
#include "hawser/shm_stream.hpp"
#include "shm/bell.hpp"
#include "shm/stream_segment.hpp"
#include "shm/tally.hpp"

namespace hawser::shm {

/// Until when a call may wait.
class deadline {
 public:
  using clock = std::chrono::steady_clock;

  explicit deadline(shm_stream::timeout limit) noexcept;

  /// It does not wait at all, and needs no clock.
  [[nodiscard]] bool is_now() const noexcept { return how_ == kind::now; }
  /// Zero or less: passed.
  [[nodiscard]] std::chrono::nanoseconds left(clock::time_point now) const noexcept;

 private:
  enum class kind : std::uint8_t { now, later, never };
  kind how_ = kind::never;
  clock::time_point at_;
};

/// What one thread counts and any reads.
struct stream_counters {
  tally moved;
  detail::counter full_stalls;
  detail::counter errors;
  detail::counter wakeups_sent;
  detail::counter wakeups_spared;  // but by records that were written alone and woke nobody
  detail::counter spins;
  detail::counter spins_paid;
  detail::counter sleeps;
  std::array<detail::counter, wait_histogram::buckets> times;
};

/// One end of a stream. shm_stream says what its functions do.
class stream_core {
 public:
  stream_core(stream_segment mapped, const shm_stream_options& options);
  ~stream_core();
  stream_core(const stream_core&) = delete;
  stream_core& operator=(const stream_core&) = delete;

  // Threads: any.
  [[nodiscard]] std::error_code wait_for_peer(shm_stream::timeout limit) noexcept;
  void close_writing() noexcept;
  void close() noexcept;
  [[nodiscard]] shm_stream_stats stats() const noexcept;
  [[nodiscard]] std::size_t largest() const noexcept { return out_.ring.largest(); }

  // Threads: the one that writes. Only too_large has no text yet.
  [[nodiscard]] std::error_code write(std::span<const std::byte> record,
                                      shm_stream::timeout limit) noexcept;
  [[nodiscard]] std::error_code write_batch(std::span<const std::span<const std::byte>> records,
                                            shm_stream::timeout limit,
                                            std::size_t& written) noexcept;
  [[nodiscard]] std::error_code write_all(std::span<const std::byte> bytes,
                                          shm_stream::timeout limit, std::size_t& written) noexcept;

  // Threads: the one that reads.
  /// Waits for a record. False without an error: the end.
  [[nodiscard]] bool await_record(shm_stream::timeout limit, std::error_code& error) noexcept;
  /// Bytes of the record that was awaited.
  [[nodiscard]] std::size_t record_bytes() const noexcept { return left_; }
  /// Copies, counts and lets go of it, in a call that is timed as one record's.
  void take(std::byte* into) noexcept;
  [[nodiscard]] bool read_batch(shm_batch& into, std::size_t most, shm_stream::timeout limit,
                                std::error_code& error);
  [[nodiscard]] bool read_exact(std::span<std::byte> into, shm_stream::timeout limit,
                                std::size_t& read, std::error_code& error) noexcept;
  class timing;  ///< of a call, as long as it lives

  // For one who waits for several streams: instead of await_record(), by the thread that reads.
  /// Something is there to be read or to be told.
  [[nodiscard]] bool has_stirred() noexcept;
  /// From now on the peer changes the word, and wakes who sleeps on it while it is 1. has_stirred()
  /// is asked after pass_barrier().
  void announce() noexcept { in_.bell.announce(); }
  void answer() noexcept { in_.bell.answer(); }
  [[nodiscard]] const std::atomic<std::uint32_t>& word() noexcept { return in_.bell.word(); }
  static void pass_barrier() noexcept;
  /// Asks for its process, no more often than peer_check.
  [[nodiscard]] bool has_lost_peer() noexcept;
  [[nodiscard]] bool knows_loss() const noexcept { return gone_.load(std::memory_order_relaxed); }

  [[nodiscard]] const shm_stream_options& options() const noexcept { return options_; }

 private:
  using clock = deadline::clock;

  enum class state : std::uint32_t { open, closed, violated };

  // What the thread of one direction has for itself.
  struct alignas(128) outgoing {
    outgoing(ring_writer<> to, stream_way& shared, const spin_policy& policy) noexcept
        : ring(to), way(shared), bell(shared.reader), spin(policy) {}
    ring_writer<> ring;
    stream_way& way;
    shm::bell<> bell;  // of the peer's reader
    barriers fences;
    detail::spin_budget spin;
    unsigned batches_until_timed = 1;
    std::atomic<std::uint32_t> shut{0};  // 1: close_writing()
    clock::time_point checked{};
    stream_counters counts;
  };
  struct alignas(128) incoming {
    incoming(ring_reader<> from, stream_way& shared, const spin_policy& policy) noexcept
        : ring(from), way(shared), bell(shared.reader), spin(policy) {}
    ring_reader<> ring;
    stream_way& way;
    shm::bell<> bell;  // of our reader
    barriers fences;
    detail::spin_budget spin;
    unsigned batches_until_timed = 1;
    clock::time_point checked{};
    stream_counters counts;
  };

  [[nodiscard]] std::error_code why_shut() const noexcept;
  [[nodiscard]] std::error_code why_not_writable() const noexcept;
  [[nodiscard]] std::error_code violated() noexcept;
  void shut(half how) noexcept;

  /// The peer's barriers, once it is there.
  void meet_peer(barriers& fences) noexcept;
  [[nodiscard]] bool peer_is_gone() noexcept;
  /// The same for a call that does not wait: asks the system no more often than peer_check.
  template <class Half>
  [[nodiscard]] bool peer_is_gone_now(Half& of) noexcept;

  /// Looks, then sleeps, until `ready`. Errors: errc::timed_out, errc::link_lost.
  template <class Half, class Ready>
  [[nodiscard]] std::error_code wait(Half& of, std::atomic<std::uint32_t>& word,
                                     const deadline& until, Ready ready) noexcept;
  template <class Half, class Ready>
  [[nodiscard]] bool spin(Half& of, std::chrono::nanoseconds most, clock::time_point begin,
                          Ready ready) noexcept;
  /// True: ready. False: the time is up, or the peer is gone.
  template <class Ready>
  [[nodiscard]] bool sleep(std::atomic<std::uint32_t>& word, std::chrono::nanoseconds most,
                           Ready ready) noexcept;

  [[nodiscard]] std::error_code make_room(std::size_t bytes, const deadline& until) noexcept;
  /// Puts one record into the ring; the reader does not see it yet. False: no room.
  bool append(std::span<const std::byte> record) noexcept;
  void publish() noexcept;
  /// After what was published. True: it sleeps, and is to be woken, by us.
  [[nodiscard]] bool reader_sleeps() noexcept;
  void wake_reader() noexcept;
  [[nodiscard]] bool look() noexcept;
  void copy_out(std::byte* into) noexcept;
  void give_back() noexcept;
  void wake_writer() noexcept;
  void let_go() noexcept;
  [[nodiscard]] bool is_at_end() const noexcept;
  std::error_code count(stream_counters& by, std::error_code error) const noexcept;

  stream_segment segment_;
  const shm_stream_options options_;
  const stream_end peer_;
  outgoing out_;
  incoming in_;

  // Of the record that was found: its place and what was not copied yet.
  bool has_record_ = false;
  bool ended_ = false;
  std::size_t at_ = 0;
  std::size_t left_ = 0;

  std::atomic<state> state_{state::open};
  std::atomic<bool> gone_{false};
  std::mutex watching_;  // the next
  std::atomic<platform::native_handle> watched_{platform::no_handle};
};

/// Times one call in a thousand; of those that move one record the second is the first.
class stream_core::timing {
 public:
  enum class call : std::uint8_t { write, read, write_many, read_many };

  timing(stream_core& of, call which) noexcept {
    if (which == call::write && !of.out_.counts.moved.is_full()) return;
    if (which == call::read && !of.in_.counts.moved.is_full()) return;
    begin(of, which);
  }
  ~timing() {
    if (counts_ != nullptr) end();
  }
  timing(const timing&) = delete;
  timing& operator=(const timing&) = delete;

 private:
  void begin(stream_core& of, call which) noexcept;
  void end() noexcept;

  stream_counters* counts_ = nullptr;  // null: not this one
  clock::time_point begin_;
};

}  // namespace hawser::shm
