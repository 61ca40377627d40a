// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/buffer.hpp"
#include "hawser/message.hpp"
#include "hawser/operation.hpp"
#include "hawser/result.hpp"
#include "hawser/runtime.hpp"
#include "hawser/task.hpp"

namespace hawser {

class channel;
class link;

namespace detail {
class channel_core;
class listener_core;
class waiter_list;
}  // namespace detail

/// Bounds and habits of a link. Message and window bounds say what we take: they bind the peer's
/// sends, as the peer's bind ours.
///
/// Shape:  every field may also be given in the URI, which wins: `?channels=1&keepalive=500`;
///         values percent-encoded, durations in milliseconds; four numbers of an array joined by
///         `,` in the order control, rpc, stream, bulk, or one for all.
/// Errors: errc::bad_config naming field, value and range.
struct link_options {
  /// Channels that may have a socket of their own: 4, or 1 for one socket in all. A channel whose
  /// socket cannot be attached stays on the control socket.
  unsigned channels = 4;
  std::array<std::size_t, 4> max_message_bytes{64 << 10, 16 << 20, 16 << 20, 16 << 20};
  std::array<std::size_t, 4> window_bytes{64 << 10, 256 << 10, 1 << 20, 4 << 20};  ///< by channel
  std::size_t urgent_window_bytes = 16 << 10;   ///< of each urgent lane; also its largest message
  std::size_t queue_bytes = 8 << 20;            ///< accepted but unsent, a lane; then suspend
  std::size_t reassembly_bytes = 64 << 20;      ///< for messages above the window, a link
  std::size_t pinned_bytes = 4 << 20;           ///< of shared receive blocks; then copies
  /// Asked of the system for a socket that carries much: any of a unix link, of a tcp link the one
  /// that all channels share and those of rpc, stream and bulk. Between two ends on one host the
  /// latter also leave a congestion control that paces (bbr) for cubic or reno, where permitted.
  std::size_t socket_buffer_bytes = 1 << 20;
  /// Unix: once a link has traffic that is worth it, its frames cross in memory that both processes
  /// share, and its sockets only tell that the peer lives. Both sides must want it; where it cannot
  /// be had the sockets go on, and link::road() says why. An address `shm:` requires it.
  bool share_memory = true;
  /// By channel, of each direction; a power of two. The side that connects decides, and has the
  /// memory reserved when a channel is first used.
  std::array<std::size_t, 4> ring_bytes{256 << 10, 256 << 10, 1 << 20, 256 << 10};
  std::size_t shared_bytes = 64 << 20;  ///< most that a peer's rings may have
  /// Of each side, where a channel lends the memory that payloads lie in, see channel::loan(): a
  /// power of two, or zero for none. The side that connects decides, and the other takes no more
  /// than its own; what is not lent goes back to the system when the link falls silent.
  std::size_t arena_bytes = 16 << 20;
  std::size_t lend_from_bytes = 64 << 10;  ///< payloads from this size on are put there by send()
  /// Where the link lends, what send_file() sends may cross as the file itself, which the peer
  /// maps: 0 its contents are sent, 1 sealed memory (memfd_create, F_SEAL_SHRINK) is handed over, 2
  /// any file is. Both sides must want it. Who is handed a file can read all of it, not only the
  /// part; and with 2 both rely on each other that it is not cut short while it is read: that would
  /// end the process that reads.
  unsigned pass_files = 0;
  bool huge_pages = false;              ///< for shared memory, where the system has them
  /// connect() completes before the answer to its hello, so that what is sent on control and rpc
  /// goes along: the first reply comes after one round trip instead of two. A refusal then is the
  /// error of link::opened(), and ends the link. In a URI 0 or 1.
  bool early = false;
  std::chrono::milliseconds handshake_timeout{10'000};  ///< connect(): all addresses together
  std::chrono::milliseconds close_timeout{5'000};
  std::chrono::milliseconds keepalive{20'000};          ///< ping after this much silence
  std::chrono::milliseconds keepalive_timeout{20'000};  ///< then lost after this much more
  /// How long a link may be without a connection before it is lost; zero: it ends with its
  /// connection. The side that connected tries to reach its peer again meanwhile; the other holds
  /// the link for it, if its own options say so too. See link::changed().
  std::chrono::milliseconds survive{0};
  /// Before each attempt to reach the peer again a random time passes: at first at most this much,
  /// twice as much each time until it is backoff_most.
  std::chrono::milliseconds backoff{2'000};
  std::chrono::milliseconds backoff_most{30'000};
  /// By channel, of a link that survives: what the peer's application has not taken when a
  /// connection breaks is sent again over the next, at least once. Until then it is kept, and
  /// counts for queue_bytes. Otherwise it is lost, and counted.
  std::array<bool, 4> resend{};
};

/// What a listener adds.
struct listen_options {
  link_options link = {};
  unsigned max_links = 10'000;     ///< beyond: the newcomer is refused with errc::limit_reached
  unsigned max_links_per_user = 256;  ///< unix sockets, by uid of the peer
  unsigned backlog = 1024;
  bool any_user = false;           ///< unix sockets: admit other users too
};

/// Per-channel counts of messages, both lanes together.
struct channel_counts {
  std::uint64_t accepted = 0;  ///< taken from send()
  std::uint64_t sent = 0;      ///< last byte given to the system
  std::uint64_t consumed = 0;  ///< handed to the peer's application, as far as the peer has said
  std::uint64_t received = 0;  ///< arrived from the peer, whole
  std::uint64_t taken = 0;     ///< handed to our application by recv()
  /// Accepted, but connections broke: exactly those that did not arrive where the link was resumed;
  /// those that the peer had not said to be consumed where it was not.
  std::uint64_t lost = 0;
  std::uint64_t missed = 0;    ///< lost on the way to us, as the peer says
};

/// What the messages of a link cross, and what that has cost since it was so.
struct link_road {
  bool shared_memory = false;
  std::string why_not;  ///< where it was wanted and could not be had
  std::uint64_t wakeups_sent = 0;    ///< system calls to wake the peer
  std::uint64_t wakeups_spared = 0;  ///< publications that found it awake
  std::uint64_t full_stalls = 0;     ///< writes that had to wait for room in a ring
  std::size_t lent_bytes = 0;        ///< of our arena: with the peer, or not sent yet
  std::uint64_t files_passed = 0;    ///< by send_file(), as handles
};

/// A file that is open for reading, as the system knows it: a descriptor.
using file_handle = std::intptr_t;

/// One of the four flow-controlled message queues of a link.
///
/// A link lives on one worker, its home. Awaiting an operation of a channel on another worker moves
/// the task home.
///
/// Shape:   a reference to a channel is valid as long as any handle of its link; so must be the
///          handle while an operation is awaited.
/// Threads: sends from any task, several at once: order is the order of acceptance. One receiver
///          at a time: a second recv() while one waits is a bug and asserts. The try_ forms only on
///          the home worker, which is asserted: there a task is right after it has itself awaited
///          an operation of this link.
class channel {
 public:
  class send_op;
  class send_batch_op;
  class flush_op;
  class recv_op;
  class recv_batch_op;
  class finish_op;
  class loan_op;

  channel(const channel&) = delete;
  channel& operator=(const channel&) = delete;

  /// Completes when the channel has accepted the message: the peer's credit covers all of it, and
  /// less than queue_bytes wait to be written.
  ///
  /// Shape:   0..max_message_bytes of the peer, urgent 0..urgent_window_bytes of the peer; the
  ///          bytes are copied before the await suspends or completes. Nothing happens until the
  ///          returned operation is awaited.
  /// Errors:  errc::closed, errc::link_lost, errc::too_large, errc::cancelled,
  ///          errc::resource_exhausted (no memory for the bytes while it waits). On error nothing
  ///          was accepted; what was handed over is gone.
  /// Cancel:  by the stop token. A message too large for the peer's window starts to leave before
  ///          it is accepted, and then completes instead: as soon as the peer takes it, or with the
  ///          end of the link.
  /// Cost:    one copy; no allocation and no system call of its own on the home worker.
  [[nodiscard]] send_op send(std::span<const std::byte> bytes, lane via = lane::normal);
  [[nodiscard]] send_op send(std::string_view text, lane via = lane::normal);
  [[nodiscard]] send_op send(std::span<const std::byte> bytes, message_header header,
                             lane via = lane::normal);
  /// As above, without the copy: the channel shares or takes the bytes.
  [[nodiscard]] send_op send(buffer&& bytes, lane via = lane::normal);
  [[nodiscard]] send_op send(shared_buffer bytes, lane via = lane::normal);
  /// Forwards: payload and header fields; the message's own credit returns when it has left.
  [[nodiscard]] send_op send(message&& forwarded, lane via = lane::normal);

  /// Memory to write a payload in that send() then need not copy: where the link shares memory the
  /// peer reads it in place, and gives it back when its application has let go of the message.
  /// Waits while all of the arena is lent. Elsewhere it is memory like any other: the code is the
  /// same, the copy is the system's.
  ///
  /// Shape:  the bytes are uninitialised. What is never sent goes back with the buffer. What is
  ///         shared may be sent again and again.
  /// Errors: as send().
  /// Cancel: by the stop token; nothing is lent.
  /// Cost:   no copy and no system call once the arena has been used as far; memory comes in units
  ///         of 4 KiB.
  [[nodiscard]] loan_op loan(std::size_t bytes);

  /// Sends a part of a file as one message. How depends on the link: over shared memory the file
  /// itself is handed over, where link_options::pass_files lets it, and else read into a loan; over
  /// sockets alone the system sends from its own copy of the file, and no memory of this process is
  /// filled. Small parts, and those of a unix link that is willing to share memory, are read.
  ///
  /// Shape:  as send(); 0..max_message_bytes of the peer. Position and mode of the file stay as
  ///         they are; it may be closed when this has completed. While the message is under way the
  ///         file must not be cut short, or the link ends with errc::link_lost.
  /// Errors: as send(); errc::unsupported if it is no regular file; std::errc::invalid_argument if
  ///         it has no such part; the system's own; errc::limit_reached (blocking threads).
  /// Cancel: as send(); a read that has begun ends first.
  /// Cost:   a task, and a turn of a blocking thread for what may wait for a disk.
  [[nodiscard]] task<void> send_file(file_handle file, std::uint64_t offset, std::size_t bytes,
                                     message_header header = {}, lane via = lane::normal);

  /// Sends several, in order, with one await. Completes when all are accepted.
  ///
  /// Shape:   the messages are moved from as they are accepted; on error the rest is untouched.
  /// Errors:  as send(); `failure` says how many were accepted, counts() too.
  /// Cancel:  as send(); what was accepted stays accepted.
  [[nodiscard]] send_batch_op send_batch(std::span<message> messages, lane via = lane::normal);
  /// As above, of the caller's bytes: the short way for many small messages, none of which needs a
  /// block of its own.
  ///
  /// Shape:   spans and bytes are copied before the await suspends or completes.
  /// Errors:  also errc::resource_exhausted, as send().
  /// Cost:    one copy; no allocation on the home worker unless it waits, then one a message.
  [[nodiscard]] send_batch_op send_batch(std::span<const std::span<const std::byte>> messages,
                                         lane via = lane::normal);

  /// Completes when the system has every message accepted before.
  ///
  /// Errors:  errc::link_lost, errc::cancelled.
  /// Cancel:  by the stop token; nothing is lost.
  /// Cost:    no allocation, no system call of its own.
  [[nodiscard]] flush_op flush();

  /// The next message, or nothing once all is taken and the peer has finished the channel, or
  /// either side has closed the link in order. Urgent messages come first.
  ///
  /// Errors:  errc::link_lost after all that arrived was taken, errc::cancelled.
  /// Cancel:  by the stop token; no message is lost.
  /// Cost:    no suspension, allocation or system call while a message is ready.
  [[nodiscard]] recv_op recv();

  /// Waits for at least one message, then takes up to `most` that are ready. Empty at the end of
  /// the channel, and for `most` of zero.
  ///
  /// Errors:  as recv().
  /// Cancel:  as recv().
  /// Cost:    one allocation for the vector.
  [[nodiscard]] recv_batch_op recv_batch(std::size_t most);

  /// Accepts the message if that needs no waiting.
  ///
  /// Errors:  throws as send() does, but false instead of waiting.
  [[nodiscard]] bool try_send(std::span<const std::byte> bytes, lane via = lane::normal);
  /// A message if one is ready.
  [[nodiscard]] std::optional<message> try_recv();

  /// Half-close: no more sends from here, also none that waits; the peer's recv ends after the last
  /// message. Completes when all that was accepted is with the system. A second one does nothing
  /// new.
  ///
  /// Errors:  errc::link_lost, errc::cancelled.
  /// Cancel:  by the stop token; the channel is finished all the same.
  [[nodiscard]] finish_op finish();

  /// Threads: home worker, or any once the link is closed.
  [[nodiscard]] channel_counts counts() const noexcept;
  [[nodiscard]] priority kind() const noexcept;

 private:
  friend class detail::channel_core;

  explicit channel(detail::channel_core& core) noexcept : core_(&core) {}

  detail::channel_core* core_;
};

/// The association of two endpoints: four channels, one fate.
///
/// Its home is the worker with the fewest links when it begins.
///
/// Shape:   a handle, copyable; the last one to go closes the link in order, inside the runtime. A
///          task that awaits close() or ended() holds one. Handles may outlive the runtime; then
///          they can only be destroyed. An empty one has no members but bool, and asserts.
/// Threads: handles may be copied and destroyed anywhere.
class link {
 public:
  link() noexcept = default;
  explicit link(detail::link_core* adopted) noexcept : core_(adopted) {}
  link(const link& other) noexcept;
  link(link&& other) noexcept : core_(std::exchange(other.core_, nullptr)) {}
  link& operator=(link other) noexcept {
    std::swap(core_, other.core_);
    return *this;
  }
  ~link();

  [[nodiscard]] channel& control() const noexcept { return at(priority::control); }
  [[nodiscard]] channel& rpc() const noexcept { return at(priority::rpc); }
  [[nodiscard]] channel& stream() const noexcept { return at(priority::stream); }
  [[nodiscard]] channel& bulk() const noexcept { return at(priority::bulk); }
  [[nodiscard]] channel& at(priority which) const noexcept;

  /// Completes when the handshake is done: at once, unless link_options::early.
  ///
  /// Errors:  as connect(); errc::refused may be all that is known of a refusal. errc::cancelled.
  /// Cancel:  by the stop token; the handshake goes on.
  [[nodiscard]] task<void> opened() const;

  /// Exchanges the final sequences of every lane, so that both sides know that all arrived, then
  /// shuts the sockets. What arrived and was not taken can still be received.
  ///
  /// Errors:  errc::link_lost when the peer does not answer within close_timeout, or was lost
  ///          before; the failure of the link otherwise; errc::cancelled.
  /// Cancel:  by the stop token; the closing goes on by itself.
  [[nodiscard]] task<void> close() const;

  enum class condition : std::uint8_t {
    opening,  ///< the handshake is under way
    open,
    offline,  ///< the connection is lost, the link is not yet: link_options::survive
    ended,
  };
  struct status {
    condition now = condition::opening;
    std::uint64_t connections = 0;  ///< that there have been
    /// The peer held the link when the last connection began: all that channel_counts::lost does
    /// not count has arrived or will. False: it knows nothing of what was before.
    bool resumed = false;

    friend bool operator==(const status&, const status&) = default;
  };
  /// Completes when the status is another than `known`, with that status: at once if it is already.
  ///
  /// While a link is offline its sends, flushes and receives wait, as far as they do not complete
  /// without a connection; an end in order is an end, whichever side asked for it, and so is
  /// close() while offline.
  ///
  /// Errors:  errc::cancelled.
  /// Cancel:  by the stop token; the link goes on.
  [[nodiscard]] task<status> changed(status known) const;
  [[nodiscard]] task<status> changed() const;  ///< from what a link is before its handshake

  /// Completes when the link has ended, in order or not; the value says why (errc::closed in
  /// order).
  ///
  /// Errors:  errc::cancelled.
  /// Cancel:  by the stop token; the link goes on.
  [[nodiscard]] task<failure> ended() const;

  /// Threads: home worker.
  [[nodiscard]] link_road road() const;
  [[nodiscard]] std::string peer() const;           ///< address and, on unix, pid and uid
  [[nodiscard]] unsigned sockets() const noexcept;  ///< how many carry the channels now: 1..4
  [[nodiscard]] explicit operator bool() const noexcept { return core_ != nullptr; }
  [[nodiscard]] detail::link_core* core() const noexcept { return core_; }

 private:
  detail::link_core* core_ = nullptr;
};

/// Where links come in.
///
/// Shape:   move-only; the destructor stops listening, ends what waits in accept(), and removes the
///          socket file it made. May outlive the runtime.
class listener {
 public:
  listener(listener&&) noexcept;
  listener& operator=(listener&&) noexcept;
  ~listener();

  /// The next link whose handshake is done. Handshakes run beside each other; one that fails or
  /// is too slow is logged and concerns nobody else.
  ///
  /// Errors:  errc::closed once the listener is closed, errc::cancelled. The system's lack of
  ///          descriptors is none: the listener logs it once and waits.
  /// Threads: any task, several at once.
  /// Cancel:  by the stop token; no link is lost.
  [[nodiscard]] task<link> accept();
  /// The address with what the system chose (the port of `tcp://:0`).
  [[nodiscard]] const std::string& uri() const noexcept;

 private:
  friend listener listen(runtime&, std::string_view, listen_options);

  explicit listener(std::shared_ptr<detail::listener_core> core) noexcept;

  std::shared_ptr<detail::listener_core> core_;
};

/// Listens at `tcp://host:port` (no host: loopback), `unix:/path`, `shm:/path` or `inproc:name`.
///
/// Unix: the socket file gets mode 0600 (0666 with listen_options::any_user); a stale one is
/// replaced, a live one refused; peers of other users are turned away before their first byte is
/// parsed, unless any_user. inproc: names belong to the runtime.
///
/// Errors:  throws std::system_error: errc::bad_uri, errc::bad_config, errc::address_in_use,
///          errc::unauthorized (a foreign or symbolic file at the path), or the system's code.
/// Threads: any; blocks for name resolution, and up to half a second while the address is in use: a
///          process that was killed may still hold it for some milliseconds.
[[nodiscard]] listener listen(runtime& where, std::string_view uri, listen_options options = {});

/// Connects and shakes hands, trying every address a name has, in order.
///
/// With link_options::early the handshake ends later: link::opened() tells.
///
/// Errors:  errc::bad_uri, errc::bad_config, errc::unreachable, errc::refused, errc::unauthorized,
///          errc::limit_reached (the listener is full), errc::unsupported (no common version),
///          errc::timed_out (handshake_timeout), errc::protocol_violation (it is no hawser),
///          errc::cancelled, or the system's code.
/// Threads: in a task of a runtime.
/// Cancel:  by the stop token; nothing is left behind.
[[nodiscard]] task<link> connect(std::string uri, link_options options = {});

// ---- the awaitables of a channel ------------------------------------------------------------

namespace detail {

/// What all operations of a channel share: they run on the link's home worker, and hop there first.
///
/// Shape: may be moved until it is awaited; nothing has happened before.
class channel_operation : public operation {
 public:
  [[nodiscard]] bool await_ready() noexcept { return ready(); }
  template <class Promise>
  [[nodiscard]] bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    return suspend(waiter, context_of(waiter));
  }

 protected:
  explicit channel_operation(channel_core& owner) noexcept : owner_(&owner) {}
  channel_operation(channel_operation&&) noexcept = default;
  ~channel_operation() = default;

  /// Home's thread. True: done, nothing to wait for.
  [[nodiscard]] virtual bool attempt() noexcept = 0;
  /// Home's thread, after attempt() said false: enters the list it waits in.
  virtual void enqueue() noexcept = 0;
  /// Once, before a suspension: what was borrowed must be copied now. False: there is no memory.
  [[nodiscard]] virtual bool keep_bytes() noexcept { return true; }

  [[nodiscard]] bool ready() noexcept;  // attempt() if this is home
  [[nodiscard]] bool suspend(std::coroutine_handle<> waiter, const task_context& context) noexcept;
  void fail(errc code) noexcept { code_ = code; }
  [[nodiscard]] failure why() const;

  channel_core* owner_;
  errc code_{};  // zero: success

 private:
  friend class channel_core;
  friend class waiter_list;

  void on_arrival() noexcept override;

  channel_operation* queue_next_ = nullptr;  // in the channel's list of waiters
  channel_operation* queue_previous_ = nullptr;
};

/// An operation that succeeds with nothing to say.
class acknowledged_operation : public channel_operation {
 public:
  void await_resume() const {
    if (code_ != errc{}) why().raise();
  }
  [[nodiscard]] result<void> await_result() const {
    if (code_ != errc{}) return why();
    return {};
  }

 protected:
  using channel_operation::channel_operation;
  acknowledged_operation(acknowledged_operation&&) noexcept = default;
};

}  // namespace detail

class [[nodiscard]] channel::send_op final : public detail::acknowledged_operation {
 public:
  send_op(detail::channel_core& owner, std::span<const std::byte> borrowed, message_header header,
          lane via) noexcept
      : acknowledged_operation(owner),
        message_(shared_buffer(nullptr, borrowed), header),
        lane_(via),
        borrows_(true) {}
  send_op(detail::channel_core& owner, message&& owned, lane via) noexcept
      : acknowledged_operation(owner), message_(std::move(owned)), lane_(via) {}

  [[nodiscard]] bool await_ready() noexcept;

 private:
  friend class detail::channel_core;

  bool attempt() noexcept override;
  void enqueue() noexcept override;
  void on_cancel() noexcept override;
  bool keep_bytes() noexcept override;

  message message_;
  lane lane_;
  bool borrows_ = false;  // the bytes are the caller's, until a suspension
  bool started_ = false;  // a first slice was handed to the wire: cannot be cancelled any more
};

class [[nodiscard]] channel::send_batch_op final : public detail::acknowledged_operation {
 public:
  send_batch_op(detail::channel_core& owner, std::span<message> messages, lane via) noexcept
      : acknowledged_operation(owner), messages_(messages), count_(messages.size()), lane_(via) {}
  send_batch_op(detail::channel_core& owner, std::span<const std::span<const std::byte>> borrowed,
                lane via) noexcept
      : acknowledged_operation(owner), borrowed_(borrowed), count_(borrowed.size()), lane_(via) {}

  void await_resume() const {
    if (code_ != errc{}) why().raise();
  }
  [[nodiscard]] result<void> await_result() const {
    if (code_ != errc{}) return why();
    return {};
  }

 private:
  friend class detail::channel_core;

  bool attempt() noexcept override;
  void enqueue() noexcept override;
  void on_cancel() noexcept override;
  bool keep_bytes() noexcept override;
  [[nodiscard]] failure why() const;
  [[nodiscard]] std::size_t left() const noexcept { return messages_.size() + borrowed_.size(); }
  void drop_first() noexcept;

  // Not accepted yet; one of the two is empty.
  std::span<message> messages_;
  std::span<const std::span<const std::byte>> borrowed_;  // the caller's, until a suspension
  std::vector<message> kept_;                             // what has become of them then
  std::size_t count_;
  lane lane_;
  bool started_ = false;
  bool stopped_ = false;  // asked to stop; the one that has started still completes
};

class [[nodiscard]] channel::flush_op final : public detail::acknowledged_operation {
 public:
  explicit flush_op(detail::channel_core& owner) noexcept : acknowledged_operation(owner) {}

 private:
  friend class detail::channel_core;

  bool attempt() noexcept override;
  void enqueue() noexcept override;
  void on_cancel() noexcept override;

  std::array<std::uint64_t, 2> target_{};
  bool aimed_ = false;
};

class [[nodiscard]] channel::finish_op final : public detail::acknowledged_operation {
 public:
  explicit finish_op(detail::channel_core& owner) noexcept : acknowledged_operation(owner) {}

 private:
  friend class detail::channel_core;

  bool attempt() noexcept override;
  void enqueue() noexcept override;
  void on_cancel() noexcept override;
};

class [[nodiscard]] channel::loan_op final : public detail::channel_operation {
 public:
  loan_op(detail::channel_core& owner, std::size_t bytes) noexcept
      : channel_operation(owner), bytes_(bytes) {}

  [[nodiscard]] buffer await_resume() {
    if (code_ != errc{}) why().raise();
    return std::move(buffer_);
  }
  [[nodiscard]] result<buffer> await_result() {
    if (code_ != errc{}) return why();
    return std::move(buffer_);
  }

 private:
  friend class detail::channel_core;

  bool attempt() noexcept override;
  void enqueue() noexcept override;
  void on_cancel() noexcept override;

  std::size_t bytes_;
  buffer buffer_;
};

class [[nodiscard]] channel::recv_op final : public detail::channel_operation {
 public:
  explicit recv_op(detail::channel_core& owner) noexcept : channel_operation(owner) {}

  [[nodiscard]] bool await_ready() noexcept;
  [[nodiscard]] std::optional<message> await_resume() {
    if (code_ != errc{}) why().raise();
    if (waits_in_queue_) return take();
    return std::move(message_);
  }
  [[nodiscard]] result<std::optional<message>> await_result() {
    if (code_ != errc{}) return why();
    if (waits_in_queue_) return take();
    return std::move(message_);
  }

 private:
  friend class detail::channel_core;

  bool attempt() noexcept override;
  void enqueue() noexcept override;
  void on_cancel() noexcept override;
  [[nodiscard]] std::optional<message> take() noexcept;

  // One that need not suspend leaves its message where it is until it gives it away.
  bool waits_in_queue_ = false;
  std::optional<message> message_;
};

class [[nodiscard]] channel::recv_batch_op final : public detail::channel_operation {
 public:
  recv_batch_op(detail::channel_core& owner, std::size_t most) noexcept
      : channel_operation(owner), most_(most) {}

  [[nodiscard]] std::vector<message> await_resume() {
    if (code_ != errc{}) why().raise();
    return std::move(messages_);
  }
  [[nodiscard]] result<std::vector<message>> await_result() {
    if (code_ != errc{}) return why();
    return std::move(messages_);
  }

 private:
  friend class detail::channel_core;

  bool attempt() noexcept override;
  void enqueue() noexcept override;
  void on_cancel() noexcept override;

  std::size_t most_;
  std::vector<message> messages_;
};

inline channel::send_op channel::send(std::span<const std::byte> bytes, lane via) {
  return {*core_, bytes, message_header{}, via};
}

inline channel::send_op channel::send(message&& forwarded, lane via) {
  return {*core_, std::move(forwarded), via};
}

inline channel::recv_op channel::recv() {
  return recv_op(*core_);
}

}  // namespace hawser
