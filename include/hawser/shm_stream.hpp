// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "hawser/executor_config.hpp"
#include "hawser/result.hpp"
#include "hawser/stats.hpp"

namespace hawser {

namespace shm {
class stream_core;
}  // namespace shm

struct shm_stream_options {
  /// Each direction's ring; the largest record is a little below half of it. 4 KiB..1 GiB, a power
  /// of two. The creator's count, for both ends.
  std::size_t ring_bytes = std::size_t{2} << 20;
  /// How long a call looks before it sleeps. Off where both ends share a core.
  spin_policy spin{};
  bool huge_pages = false;  ///< where the system has them for such memory
  bool touch = true;        ///< all pages are mapped at once, so that no first use is slow
  bool metrics = true;      ///< off: stats() stays zero, and calls do not count
  /// How often a sleeping call asks whether the peer's process lives. 100 us..1 h.
  std::chrono::microseconds peer_check = std::chrono::milliseconds(5);
};

/// Counters of one end since it was made; none goes back.
struct shm_stream_stats {
  std::uint64_t writes = 0;  ///< records
  std::uint64_t reads = 0;
  std::uint64_t bytes_written = 0;  ///< of their payload
  std::uint64_t bytes_read = 0;
  std::uint64_t full_stalls = 0;     ///< writes that found no room
  std::uint64_t errors = 0;          ///< calls that failed, but for those whose time was up
  std::uint64_t wakeups_sent = 0;    ///< system calls to wake the peer
  std::uint64_t wakeups_spared = 0;  ///< publications that found it awake
  std::uint64_t spins = 0;           ///< waits that looked before they slept
  std::uint64_t spins_paid = 0;      ///< of these, ended while looking
  std::uint64_t sleeps = 0;
  wait_histogram write_time;  ///< of whole calls, waiting included; one in a thousand
  wait_histogram read_time;
};

/// Records that read_batch() has copied out of a ring, to be used again for the next.
class shm_batch {
 public:
  /// Takes so many bytes at once, or the one record that is larger.
  ///
  /// Errors: throws std::bad_alloc.
  explicit shm_batch(std::size_t bytes = std::size_t{64} << 10);
  shm_batch(const shm_batch&) = delete;
  shm_batch& operator=(const shm_batch&) = delete;

  [[nodiscard]] std::size_t size() const noexcept { return records_.size(); }
  [[nodiscard]] bool empty() const noexcept { return records_.empty(); }
  [[nodiscard]] std::span<const std::byte> operator[](std::size_t index) const noexcept {
    return {bytes_.get() + records_[index].offset, records_[index].bytes};
  }

 private:
  friend class shm::stream_core;

  struct place {
    std::size_t offset;
    std::size_t bytes;
  };

  std::unique_ptr<std::byte[]> bytes_;
  std::size_t capacity_;
  std::size_t used_ = 0;
  std::vector<place> records_;
};

/// One end of a two-way stream of records between two processes of one user on one host: for
/// threads that block, without a runtime.
///
/// One process creates it under a name, another opens it by that name; the name is gone as soon as
/// it has, and at the latest with its creator. Each direction is a ring: writing and reading a
/// record is a copy, and a system call only where one side sleeps. A call that has to wait looks
/// for a while, then sleeps.
///
/// Timeouts: absent, for ever; zero, try without waiting.
///
/// A peer can write anything into the memory of the rings at any time. What is read is copied first
/// and bounds are checked; a ring that breaks the rules ends the stream with
/// errc::protocol_violation. It cannot shrink the memory: that is sealed (src/shm/README.md).
///
/// Errors:  calls return them. errc::timed_out: nothing was moved, call again. errc::closed: this
///          end was closed, or the peer has closed and reads no more. errc::link_lost: its process
///          has died; what it had written is read before. The end of what it has written, closed
///          in order, is no error but an empty optional.
/// Threads: one that writes and one that reads, at the same time; close(), close_writing() and
///          stats() any. Not across fork(): the child has no end.
/// Cost:    a copy a record; no allocation.
class shm_stream {
 public:
  using timeout = std::optional<std::chrono::nanoseconds>;

  /// Makes the memory and its name.
  ///
  /// Shape:  1 to 64 letters, digits, `.`, `-` and `_`, beginning with a letter or digit; one name
  ///         space a user and start of the system.
  /// Errors: throws std::system_error: errc::address_in_use, somebody alive has the name;
  ///         errc::unauthorized, another user has it; errc::unsupported, it is something else;
  ///         errc::bad_uri; errc::bad_config; a code of the system where memory is missing
  ///         (std::errc::no_space_on_device), and never SIGBUS later.
  [[nodiscard]] static shm_stream create(std::string_view name,
                                         const shm_stream_options& options = {});
  /// The other end of what a process has created. Does not wait for it.
  ///
  /// Errors: throws std::system_error: errc::unreachable, nobody alive has created it;
  ///         errc::refused, it has a peer already; errc::unauthorized, not of this user, or of a
  ///         process that this one may not look into; errc::unsupported, it is something else;
  ///         errc::bad_uri; errc::bad_config.
  [[nodiscard]] static shm_stream open(std::string_view name,
                                       const shm_stream_options& options = {});

  shm_stream(shm_stream&& gone) noexcept;
  shm_stream& operator=(shm_stream&& gone) noexcept;
  /// close(). No call is in progress.
  ~shm_stream();

  /// Waits until somebody has opened the other end. Writing does not need that.
  ///
  /// Errors: errc::timed_out, errc::closed.
  [[nodiscard]] result<void> wait_for_peer(timeout limit = {});

  /// Bytes of the largest record.
  [[nodiscard]] std::size_t record_bytes_max() const noexcept;

  // ---- records ------------------------------------------------------------------------------

  /// Errors: as above, and errc::too_large with the limit in its text. On error nothing was
  ///         written.
  [[nodiscard]] result<void> write(std::span<const std::byte> record, timeout limit = {});
  /// Writes records and lets the peer see all of them at once, or as many at a time as have room.
  /// Yields how many were written: all, or fewer when the time was up or the peer went after some.
  ///
  /// Errors: as write(), if none was written; errc::too_large of any.
  [[nodiscard]] result<std::size_t> write_batch(std::span<const std::span<const std::byte>> records,
                                                timeout limit = {});

  /// Reads one record into memory of the caller. Yields its size; empty at the end.
  ///
  /// Errors: as above, and errc::too_large with its size in the text: it is still there then.
  [[nodiscard]] result<std::optional<std::size_t>> read(std::span<std::byte> into,
                                                        timeout limit = {});
  /// The same into a vector, which becomes as long as the record.
  ///
  /// Errors: throws std::bad_alloc; the record is still there then.
  [[nodiscard]] result<std::optional<std::size_t>> read(std::vector<std::byte>& into,
                                                        timeout limit = {});
  /// Waits for the first record, and reads what else is there, at most `most` of them. Yields how
  /// many; empty at the end.
  ///
  /// Errors: as above; throws std::bad_alloc.
  [[nodiscard]] result<std::optional<std::size_t>> read_batch(shm_batch& into,
                                                              std::size_t most = 64,
                                                              timeout limit = {});

  // ---- bytes --------------------------------------------------------------------------------

  /// Writes bytes of any length as records of whatever size suits. Yields how many were written:
  /// all, or fewer when the time was up or the peer went after some.
  ///
  /// Errors: as write(), if none was written.
  [[nodiscard]] result<std::size_t> write_all(std::span<const std::byte> bytes, timeout limit = {});
  /// Fills `into` from as many records as that takes; what is left of the last one comes with the
  /// next call. Yields how many bytes were read: all, or fewer when after some the time was up or
  /// the peer's bytes came to their end; empty at the end.
  ///
  /// Errors: as above, if none was read.
  [[nodiscard]] result<std::optional<std::size_t>> read_exact(std::span<std::byte> into,
                                                              timeout limit = {});

  // ---- the end ------------------------------------------------------------------------------

  /// Nothing more will be written. The peer reads what was, then the end; it can go on writing.
  void close_writing() noexcept;
  /// Ends both directions, and calls that wait in other threads, with errc::closed. The peer reads
  /// what was written, then the end; it can write no more. A record that is being written meanwhile
  /// may or may not arrive.
  void close() noexcept;

  [[nodiscard]] shm_stream_stats stats() const noexcept;

 private:
  friend class shm_workers;

  explicit shm_stream(std::unique_ptr<shm::stream_core> core) noexcept;

  std::unique_ptr<shm::stream_core> core_;
};

}  // namespace hawser
