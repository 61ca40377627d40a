// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <system_error>

#include "core/counter.hpp"
#include "hawser/buffer.hpp"
#include "hawser/errc.hpp"
#include "hawser/executor.hpp"
#include "os/platform.hpp"

namespace hawser {

/// What a connected socket tells its owner. Called on the reactor's thread, inside turn().
class stream_events {
 public:
  /// Memory of a large message that the next bytes belong into; empty: deliver a block. Asked
  /// before each read is started; the memory must stay until the read or the stream has ended.
  [[nodiscard]] virtual std::span<std::byte> direct_space() noexcept = 0;
  /// `bytes` more were put at the start of the last direct_space().
  virtual void on_direct(std::size_t bytes) noexcept = 0;
  /// `bytes` arrived at the start of `filled`. One reference to the block is handed over, the only
  /// one: the receiver may write to the block.
  virtual void on_block(detail::block* filled, std::size_t bytes) noexcept = 0;
  /// Nothing more will arrive. A clear error is the orderly end of the stream.
  virtual void on_end(std::error_code why) noexcept = 0;
  /// The write is done, whole, or has failed. Its memory may go.
  virtual void on_written(std::error_code error) noexcept = 0;
  /// The last event: the descriptor is closed, no operation is under way, the stream object may be
  /// destroyed from here on.
  virtual void on_closed() noexcept = 0;

 protected:
  ~stream_events() = default;
};

/// A connected socket in a reactor.
///
/// Threads: the reactor's. No member calls back into stream_events before it returns, except that
/// close() may be called from inside any event but on_closed.
class stream {
 public:
  virtual ~stream() = default;  // after on_closed, or before anything was started
  virtual void start_reading() noexcept = 0;
  /// When on_written has to be called.
  enum class notice : std::uint8_t {
    soon,  ///< as soon as it is true: it ends a wait
    late,  ///< nobody waits for it: after a success the next wait may end first
  };
  /// Writes all of the slices, in order. At most one write at a time. True: all of it is with the
  /// system already, and on_written will not be called. Otherwise the bytes must stay until then;
  /// the slices themselves are copied.
  ///
  /// Shape: 1..max_slices slices.
  [[nodiscard]] virtual bool write(std::span<const platform::io_slice> slices,
                                   notice when) noexcept = 0;
  /// Abandons what is under way and closes the descriptor; on_closed follows in a later turn.
  virtual void close() noexcept = 0;

  static constexpr std::size_t max_slices = 64;
};

class accept_events {
 public:
  /// A connection, owned by the receiver now.
  virtual void on_accept(platform::native_handle socket) noexcept = 0;
  /// Accepting failed and has stopped; call acceptor::start() again, later if
  /// platform::is_exhaustion(why).
  virtual void on_accept_failed(std::error_code why) noexcept = 0;
  virtual void on_closed() noexcept = 0;  // as stream_events

 protected:
  ~accept_events() = default;
};

/// A listening socket in a reactor. Same rules as stream.
class acceptor {
 public:
  virtual ~acceptor() = default;
  virtual void start() noexcept = 0;
  virtual void close() noexcept = 0;
};

/// Waits once until a native handle is readable or writable; may end early for no reason, so who
/// was told tries, and waits again.
///
/// Shape: embedded in what waits; `done` runs inside turn(), once, also after cancel_wait().
struct readiness {
  using function = void (*)(readiness&, std::error_code) noexcept;
  enum class kind : std::uint8_t { readable, writable };

  explicit readiness(function action) noexcept : done(action) {}

  function done;
  void* backend = nullptr;  // the reactor's
};

/// Read by any thread.
struct reactor_counters {
  detail::counter system_calls;
  detail::counter completions;
  detail::counter multishot;
  detail::counter inline_reads;
  detail::counter bytes_read;
  detail::counter bytes_written;

  void reset() noexcept {
    for (auto* each : {&system_calls, &completions, &multishot, &inline_reads, &bytes_read,
                       &bytes_written}) {
      each->reset();
    }
  }
};

/// What a worker parks in: all I/O of a worker, in one place.
///
/// Threads: one thread, the same from creation on; only wake() may be called from others.
class reactor {
 public:
  virtual ~reactor() = default;

  /// Takes over a connected, non-blocking socket; closes it if that fails.
  ///
  /// Errors: throws std::bad_alloc or std::system_error; listen() likewise.
  [[nodiscard]] virtual std::unique_ptr<stream> open(platform::native_handle socket,
                                                     stream_events& owner) = 0;
  [[nodiscard]] virtual std::unique_ptr<acceptor> listen(platform::native_handle socket,
                                                         accept_events& owner) = 0;
  /// Errors: throws std::bad_alloc or std::system_error; the handle stays as it is, and `done` is
  ///         not called.
  virtual void wait(platform::native_handle handle, readiness::kind what, readiness& entry) = 0;
  virtual void cancel_wait(readiness& entry) noexcept = 0;
  /// Whether wait_while() can be had here; otherwise who changes the word has to say so through a
  /// handle.
  [[nodiscard]] virtual bool waits_for_words() const noexcept { return false; }
  /// Waits once until somebody, in any process, has woken those that sleep on `word`, or until it
  /// is not `expected`. cancel_wait() ends that, too. The word must stay until `done`.
  ///
  /// Errors: as wait().
  virtual void wait_while(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                          readiness& entry);
  /// Some wait still, or were cancelled and have not been told.
  [[nodiscard]] bool has_waits() const noexcept { return waits_ != 0; }

  /// Hands what is queued to the system, waits at most `limit` for something to happen (zero:
  /// just looks), and reports all that has happened. Ends early after wake().
  virtual void turn(clock::duration limit) noexcept = 0;
  /// Hands what is queued to the system and reports what has happened, without waiting: what a
  /// worker that looks for work calls over and over.
  virtual void poll() noexcept { turn(clock::duration::zero()); }
  /// Hands what is queued to the system. Call where other work comes between it and turn().
  virtual void submit() noexcept {}
  /// Threads: any. Sticky: a wake before turn() ends that turn at once.
  virtual void wake() noexcept = 0;

  // For a worker that is driven by another event loop, which waits in the place of turn().
  /// Call first of all. What is readable from now on when turn() has something to do, which
  /// includes wake(); no_handle: nobody can wait for it.
  ///
  /// Errors: throws std::bad_alloc or std::system_error.
  [[nodiscard]] virtual platform::native_handle make_pollable() { return platform::no_handle; }
  /// The handle is not waited for any more: the next turn() makes it unreadable if it can.
  virtual void handle_was_readable() noexcept {}
  /// turn() has something to do that the handle does not tell.
  [[nodiscard]] virtual bool has_more() const noexcept { return false; }

  [[nodiscard]] virtual clock::time_point now() const noexcept { return clock::now(); }
  [[nodiscard]] const reactor_counters& counters() const noexcept { return counters_; }

 protected:
  // Once nothing of wait() can fail any more, and before `done`.
  void wait_begins() noexcept { ++waits_; }
  void wait_ends() noexcept { --waits_; }

  reactor_counters counters_;

 private:
  std::size_t waits_ = 0;
};

inline void reactor::wait_while(const std::atomic<std::uint32_t>& /*word*/,
                                std::uint32_t /*expected*/, readiness& /*entry*/) {
  failure(errc::unsupported, "this reactor does not wait for words").raise();
}

/// The reactor on Asio: epoll, kqueue or IOCP.
///
/// Errors: throws std::system_error.
[[nodiscard]] std::unique_ptr<reactor> make_portable_reactor();

}  // namespace hawser
