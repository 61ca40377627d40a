// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "core/lender.hpp"
#include "core/ring.hpp"
#include "hawser/buffer.hpp"
#include "hawser/errc.hpp"
#include "hawser/executor.hpp"
#include "hawser/message.hpp"
#include "wire/arrivals.hpp"
#include "wire/frame.hpp"

namespace hawser::wire {

/// What one side of a link is told before it begins.
struct settings {
  limits local;  ///< what we announce and enforce
  secret link_id{};
  std::uint64_t incarnation = 1;
  secret attach_secret{};  ///< server: what an attach must prove
  secret resume_secret{};
  std::size_t queue_bytes = 8 << 20;
  std::size_t reassembly_bytes = 64 << 20;
  std::size_t pinned_bytes = 4 << 20;
  clock::duration handshake_timeout = std::chrono::seconds(10);
  clock::duration close_timeout = std::chrono::seconds(5);
  clock::duration keepalive = std::chrono::seconds(20);
  clock::duration keepalive_timeout = std::chrono::seconds(20);
  clock::duration survive{};  ///< without a connection; zero: the link ends with it
  std::array<bool, channel_count> resend{};
  bool share = false;  ///< pipes may be rings in shared memory
  bool lend = false;   ///< and payloads may lie in an arena: from this size on they are put there
  std::size_t lend_from = 64 << 10;
  std::uint64_t pass = 0;  ///< feature::pass_sealed, pass_any: files that may cross as handles
};

/// What has happened since the last look: flags instead of callbacks, so that nothing re-enters.
struct happenings {
  unsigned readable = 0;       ///< bit per channel: a message or the end may be taken
  unsigned writable = 0;       ///< a send that was blocked or growing should look again
  unsigned flushed = 0;        ///< more is with the system
  unsigned attach_wanted = 0;  ///< client: this channel deserves a pipe of its own
  unsigned moved = 0;          ///< the peer's data of this channel come over its ring from now on
  bool established = false;
  bool broken = false;  ///< the connection is gone, the link is not: close the pipes
  bool ended = false;
  bool sooner = false;  ///< next_deadline() may have come nearer
  bool in_memory = false;  ///< what rode on pipe 0 rides on shared_main

  [[nodiscard]] bool any() const noexcept {
    return (readable | writable | flushed) != 0 || any_rare();
  }
  /// Something that does not happen with every message.
  [[nodiscard]] bool any_rare() const noexcept {
    return (attach_wanted | moved) != 0 || established || broken || ended || sooner || in_memory;
  }
};

enum class verdict : std::uint8_t {
  accepted,
  started,  ///< the message was taken and is leaving; accepted once growing() is false
  blocked,
  too_large,
  ended,  ///< channel finished, link closing or lost
};

struct lane_counts {
  std::uint64_t accepted = 0;
  std::uint64_t sent = 0;
  std::uint64_t consumed = 0;
  std::uint64_t received = 0;
  std::uint64_t taken = 0;
  std::uint64_t lost = 0;
  std::uint64_t missed = 0;
};

/// The protocol of a link, without I/O: it is fed bytes and a clock, and emits bytes and events.
///
/// Both sides are the same machine; only the handshake differs. A machine never blocks, never
/// throws for what a peer sends, and after ended() it only lets received messages be taken.
///
///   client: hello -> (early control and rpc frames) -> welcome -> open
///   server: made from a hello -> open
///   open -> closing (close() or the peer's CLOSE) -> ended: closed
///   any -> ended: a failure (violation, silence, end of a pipe)
///
/// A link that survives goes another way when it was open and its connection ends:
///
///   open -> offline -> leave_connection() -> client: greet(), server: welcome_back()
///        -> handshake -> open, or offline again
///   offline -> ended: for too long, or close()
///
/// Meanwhile it accepts messages as far as its credit goes, and what arrived can be taken.
///
/// Threads: one.
class machine {
 public:
  /// The side that connects.
  machine(const settings& local, clock::time_point now);
  /// The side that was connected to, after the peer's hello was read.
  machine(const settings& local, const hello& peer, clock::time_point now);
  machine(const machine&) = delete;
  machine& operator=(const machine&) = delete;
  ~machine();

  // ---- input -----------------------------------------------------------------------------

  /// `bytes` at the start of `filled` came in on `pipe`. Takes over the only reference.
  void receive(std::size_t pipe, detail::block* filled, std::size_t bytes,
               clock::time_point now) noexcept;
  /// Where the next bytes of `pipe` belong, if they belong to a large payload.
  [[nodiscard]] std::span<std::byte> direct_space(std::size_t pipe) noexcept;
  void receive_direct(std::size_t pipe, std::size_t bytes, clock::time_point now) noexcept;
  void pipe_ended(std::size_t pipe, std::error_code why) noexcept;
  /// Nothing more can be written there. What the peer had said before may still be read: the pipe
  /// ends by itself soon, and if not, it is ended.
  void pipe_deaf(std::size_t pipe, std::error_code why, clock::time_point now) noexcept;
  /// Call at next_deadline() or later.
  void tick(clock::time_point now) noexcept;
  [[nodiscard]] clock::time_point next_deadline() const noexcept;

  // ---- output ----------------------------------------------------------------------------

  /// The bytes to write next on `pipe`, in order; they stay where they are until written(). Empty:
  /// nothing to write, or the last gathering is not written yet.
  [[nodiscard]] std::size_t gather(std::size_t pipe,
                                   std::span<std::span<const std::byte>> pieces) noexcept {
    const std::size_t count = gather(pipe, pieces.size());
    for (std::size_t i = 0; i < count; ++i) pieces[i] = gathered(pipe, i);
    return count;
  }
  /// The same for who has a shape of his own for the bytes: at most `most`, then one by one.
  [[nodiscard]] std::size_t gather(std::size_t pipe, std::size_t most) noexcept;
  [[nodiscard]] std::span<const std::byte> gathered(std::size_t pipe, std::size_t index) noexcept {
    return out_[pipe].pieces.at(index).bytes;
  }
  void written(std::size_t pipe) noexcept;
  /// Of a channel that rides on a ring: so much is framed that the peer should have it by now,
  /// whatever else is sent in this turn.
  [[nodiscard]] bool is_worth_a_flush(std::size_t channel) const noexcept {
    return shared_ && unsent(out_[tx_channel_[channel].pipe]) >= ring_flush_bytes;
  }
  [[nodiscard]] std::size_t pipe_of(std::size_t channel) const noexcept {
    return tx_channel_[channel].pipe;
  }
  /// Whether something here depends on when the last gathering is written(): output that did not
  /// fit into it, a sender that was told to wait, memory of a message. Not: who looks at sent().
  [[nodiscard]] bool awaits_written(std::size_t pipe) const noexcept;
  /// Lets go of all that was accepted and not written, and of what has half arrived. After ended(),
  /// when nobody writes any more.
  void drop_output() noexcept;
  /// Cheaper still: may some has_output() be true?
  [[nodiscard]] bool may_have_output() const noexcept {
    if (may_have_control()) return true;
    for (const tx_pipe& each : out_) {
      if (each.backlog != 0 || !each.pieces.empty()) return true;
    }
    return false;
  }
  /// Cheap: is it worth calling gather()?
  [[nodiscard]] bool has_output(std::size_t pipe) const noexcept {
    const tx_pipe& out = out_[pipe];
    if (out.in_flight != 0 || (offline_ && !greeting_)) return false;
    if (!out.pieces.empty()) return true;
    if (out.backlog == 0 && (pipe != tx_main_ || !may_have_control())) return false;
    return would_frame(pipe);
  }

  // ---- pipes -----------------------------------------------------------------------------

  /// `channel` has a pipe of its own from now on, with the channel's number: a socket or a ring.
  void attached(std::size_t channel, bool is_ring = false) noexcept;
  [[nodiscard]] bool attach_allowed(std::size_t channel) const noexcept;
  [[nodiscard]] unsigned pipes() const noexcept;
  /// The pipe that frames about the link ride on, and all channels without a pipe of their own.
  [[nodiscard]] std::size_t main_pipe() const noexcept { return tx_main_; }
  /// This side is willing to share memory, whatever the peer says.
  [[nodiscard]] bool would_share() const noexcept { return local_.share; }
  /// Both sides are willing to share memory.
  [[nodiscard]] bool may_share() const noexcept { return may_share_; }
  /// The two sides share a segment: what rides on pipe 0 moves to shared_main, as soon as that can
  /// be, and the pipes of channels that are attached from now on are rings, too. The client moves
  /// first; `happenings::moved` tells the server of each ring that it has to attach, and both sides
  /// from when on to read one.
  void shared() noexcept;
  [[nodiscard]] bool shares() const noexcept { return shared_; }
  /// And what this side says goes there.
  [[nodiscard]] bool in_memory() const noexcept { return tx_main_ == shared_main && !main_moving_; }
  /// Both sides are willing to lend each other payloads.
  [[nodiscard]] bool may_lend() const noexcept { return may_lend_; }
  /// Of feature::pass_sealed and feature::pass_any: what both sides are willing to hand over.
  [[nodiscard]] std::uint64_t passes() const noexcept { return passes_; }
  /// Where loans lie from now on; until the connection is left, or null takes it away.
  ///
  /// Shape: may_lend(), shares().
  void lend_from(detail::lender* memory) noexcept { lender_ = memory; }
  /// The channel rides on a ring, so that the other side can read what is lent for it.
  [[nodiscard]] bool lends(std::size_t channel) const noexcept {
    const std::size_t pipe = tx_channel_[channel].pipe;
    return lender_ != nullptr && (rings_ & 1U << pipe) != 0;
  }
  /// A borrowed payload was let go.
  void give_back(std::uint64_t at) noexcept;
  /// The credit that was spent in this session, both ways.
  [[nodiscard]] std::uint64_t traffic() const noexcept;

  // ---- one connection after another ------------------------------------------------------

  /// There is no connection on which messages can pass, but may be again.
  [[nodiscard]] bool offline() const noexcept { return offline_; }
  /// Of an offline link: a handshake is under way.
  [[nodiscard]] bool greeting() const noexcept { return greeting_; }
  /// The connection is of no use any more: another takes its place, or the link ends.
  void break_off(errc code, std::string_view why) noexcept;
  /// Offline and all pipes are closed: lets go of what was half sent and half received.
  void leave_connection(clock::time_point now) noexcept;
  /// Client: a new connection begins; it resumes the link if the peer agreed to hold it. False: not
  /// yet, the application still has to take what an earlier session left.
  ///
  /// Shape: leave_connection() was called; `fresh_id` is for a link that cannot be resumed.
  [[nodiscard]] bool greet(const secret& fresh_id, clock::time_point now) noexcept;
  /// Server: the peer resumes the link; that it may was checked. Shape: leave_connection() was
  /// called.
  void welcome_back(const hello& peer, const secret& attach_secret,
                    clock::time_point now) noexcept;
  /// The peer has agreed to resume.
  [[nodiscard]] bool resumable() const noexcept { return resumable_; }
  [[nodiscard]] bool may_resume(const hello& peer) const noexcept;
  /// How many connections there have been; zero before the first handshake is done.
  [[nodiscard]] std::uint64_t connections() const noexcept { return connections_; }
  /// The peer holds what it held before this connection.
  [[nodiscard]] bool resumed() const noexcept { return resumed_; }
  /// Why the connection went; of an offline link.
  [[nodiscard]] const failure& broken_by() const noexcept { return *broken_by_; }

  // ---- application -----------------------------------------------------------------------

  /// Frames a small plain message where `place(bytes)` says, which is the pipe of its channel, if
  /// nothing stands in its way or before it there. False: ask send(); null of `place` likewise.
  template <class Place>
  [[nodiscard]] bool send_directly(std::size_t lane, std::span<const std::byte> bytes,
                                   const message_header& header, Place place) noexcept;
  /// Copies the bytes of a small plain message if nothing stands in its way. False: ask send().
  [[nodiscard]] bool send_quickly(std::size_t lane, std::span<const std::byte> bytes,
                                  const message_header& header) noexcept;
  /// Copies the bytes, if accepted.
  [[nodiscard]] verdict send(std::size_t lane, std::span<const std::byte> bytes,
                             const message_header& header) noexcept;
  /// The same, but blocked where that would say started.
  [[nodiscard]] verdict send_at_once(std::size_t lane, std::span<const std::byte> bytes,
                                     const message_header& header) noexcept;
  /// Takes the message, if accepted or started.
  [[nodiscard]] verdict send(std::size_t lane, message& owned) noexcept;
  /// A started message still waits for credit.
  [[nodiscard]] bool growing(std::size_t lane) const noexcept { return tx_[lane].growing; }
  /// It was given up because the link closed first; the peer drops its start.
  [[nodiscard]] bool abandoned(std::size_t lane) const noexcept { return tx_[lane].abandoned; }
  [[nodiscard]] bool readable(std::size_t channel) const noexcept {
    return !arrived_[channel].empty();
  }
  [[nodiscard]] std::optional<inbound> take(std::size_t channel) noexcept {
    if (!readable(channel)) return std::nullopt;
    return arrived_[channel].take(channel);
  }
  /// What take() takes from; may be taken there.
  [[nodiscard]] channel_arrivals& arrived(std::size_t channel) noexcept {
    return arrived_[channel];
  }
  /// The peer has finished the channel and all of it was taken.
  [[nodiscard]] bool at_end(std::size_t channel) const noexcept;
  /// True: something may have to be written now.
  bool release(std::size_t lane, std::uint64_t cost, bool reassembled) noexcept {
    rx_lane& from = rx_[lane];
    from.released += cost;
    if (!reassembled && from.released < from.grant_at) return false;
    settle_release(lane, cost, reassembled);
    return true;
  }
  /// No more sends on the channel.
  void finish(std::size_t channel) noexcept;
  [[nodiscard]] bool finished(std::size_t channel) const noexcept;
  /// Closes in order: what was accepted still goes.
  void close(clock::time_point now) noexcept;
  /// Gives up at once; tells the peer why if that is possible.
  /// Without memory for the text the link fails with errc::resource_exhausted.
  void fail(errc code, std::string_view text) noexcept;

  [[nodiscard]] happenings take_happenings() noexcept { return std::exchange(happened_, {}); }
  [[nodiscard]] bool has_happened() const noexcept { return happened_.any(); }
  [[nodiscard]] bool established() const noexcept { return established_; }
  [[nodiscard]] bool closing() const noexcept { return closing_; }
  /// Nothing more happens but that received messages are taken and the last bytes are written.
  [[nodiscard]] bool ended() const noexcept { return ended_.has_value(); }
  [[nodiscard]] const failure& why() const noexcept { return *ended_; }
  [[nodiscard]] lane_counts counts(std::size_t lane) const noexcept;
  /// All messages accepted so far on the lane are with the system, or given up, up to this number.
  [[nodiscard]] std::uint64_t sent(std::size_t lane) const noexcept {
    return tx_[lane].past + tx_[lane].sent;
  }
  [[nodiscard]] std::uint64_t accepted(std::size_t lane) const noexcept {
    return tx_[lane].past + tx_[lane].accepted;
  }
  /// The credit left to spend, for tests.
  [[nodiscard]] std::int64_t available(std::size_t lane) const noexcept {
    return static_cast<std::int64_t>(tx_[lane].granted - tx_[lane].spent - tx_[lane].reserved);
  }
  /// The credit that arrived with messages which are not released, for tests.
  [[nodiscard]] std::int64_t held_credit(std::size_t lane) const noexcept {
    return static_cast<std::int64_t>(rx_[lane].arrived - rx_[lane].released);
  }
  /// Bytes the machine keeps for messages that are on their way, in or out; not those it has
  /// received whole, which the credit bounds. For tests and statistics.
  [[nodiscard]] std::size_t memory_in_use() const noexcept;
  [[nodiscard]] const secret& link_id() const noexcept { return local_.link_id; }
  [[nodiscard]] const secret& attach_secret() const noexcept { return local_.attach_secret; }
  [[nodiscard]] const secret& resume_secret() const noexcept { return local_.resume_secret; }
  [[nodiscard]] const limits& peer_limits() const noexcept { return peer_; }
  /// What we announce: the settings, raised to what version 1 grants before the handshake.
  [[nodiscard]] const limits& local_limits() const noexcept { return local_.local; }

 private:
  machine(const settings& local, clock::time_point now, bool server);

  // -- sending
  struct outbound {
    outbound(message&& taken, std::uint64_t reserve) noexcept
        : owned(std::move(taken)), reserve_left(reserve) {}
    message owned;
    std::size_t offset = 0;
    std::uint64_t reserve_left;
    bool covered = reserve_left != 0;  // by credit; otherwise it leaves as credit comes
    bool lent = false;                 // only where it lies is sent

    /// What it counts for in the queue.
    [[nodiscard]] std::size_t weight() const noexcept {
      return lent ? message_overhead : owned.size();
    }
  };
  // A message that is with the system, until the peer's application has it.
  struct kept_message {
    shared_buffer payload;
    message_header header;
  };
  struct tx_pipe;
  struct tx_lane {
    // The short way of small plain messages looks at these only. Whatever makes the lane unusual
    // closes it (quick_until = 0); who finds it closed looks closer, and opens it if all is usual.
    std::uint64_t spent = 0;        // by frames in a pipe
    std::uint64_t quick_until = 0;  // what may be spent on the short way
    std::size_t quick_bytes = 0;    // the largest message that may take it
    tx_pipe* quick_pipe = nullptr;
    std::uint64_t quick_start = 0;  // of the frame of an empty message
    std::uint64_t granted = 0;      // by the peer, total
    std::uint64_t reserved = 0;  // by accepted messages that are not in a pipe yet
    std::uint64_t accepted = 0;  // messages
    std::uint64_t framed = 0;    // messages whole in a pipe
    std::uint64_t sent = 0;      // messages with the system
    std::uint64_t consumed = 0;  // as the peer said
    std::uint64_t peer_received = 0;
    std::size_t queued_bytes = 0;
    bool growing = false;    // the last of the backlog is not accepted yet
    bool abandoned = false;  // the last of the backlog was growing when the link closed
    bool blocked = false;    // somebody was told to wait
    detail::ring<outbound> backlog;
    // What connections that broke have left. The numbers above begin anew with each session at the
    // peer; where it is resumed, with what the peer has received.
    std::size_t uncovered = 0;    // accepted messages in the backlog for which credit is missing
    std::uint64_t past = 0;       // messages of earlier times, consumed or lost
    std::uint64_t consumed_before = 0;
    std::uint64_t lost = 0;       // in all
    std::uint64_t lost_here = 0;  // in this session
    std::size_t kept_bytes = 0;
    detail::ring<kept_message> kept_messages;  // the last that were framed and not consumed
  };
  struct piece {
    std::span<const std::byte> bytes;
    detail::block* block = nullptr;  // one reference of ours
    message owned;
  };
  struct tx_pipe {
    std::byte* next = nullptr;     // free room in `open`
    std::byte* until = nullptr;    // up to here frames may join the last piece without a look
    std::byte* settled = nullptr;  // what lies between here and `next` is not counted yet
    std::byte* end = nullptr;      // of `open`
    detail::block* open = nullptr;
    detail::ring<piece> pieces;
    std::size_t in_flight = 0;  // pieces that gather() gave out
    std::size_t unsent_bytes = 0;
    std::uint64_t appended = 0;
    std::uint64_t written = 0;
    std::uint64_t in_flight_bytes = 0;
    unsigned lanes = 0;    // bit per lane that rides here
    lane_numbers marks{};  // framed, by lane, when everything was gathered
    bool marked = false;
    bool lends = false;  // a piece refers to memory of a message
    std::size_t backlog = 0;  // messages in lanes that ride here
    std::uint64_t virtual_now = 0;
  };
  struct tx_channel {
    std::size_t pipe = 0;
    bool moving = false;  // MOVED is in the main pipe, not with the system yet
    bool move_wanted = false;
    std::uint64_t move_position = 0;
    bool finished = false;
    bool end_sent = false;
    bool used = false;
    std::uint64_t virtual_time = 0;
  };

  [[nodiscard]] verdict admit(std::size_t lane, std::size_t bytes, const message_header& header,
                              std::uint64_t& cost) noexcept;
  /// What must hold for any message. Accepted: so far.
  [[nodiscard]] verdict admit_any(std::size_t lane, std::size_t bytes) const noexcept;
  /// Nothing more is accepted before what is there has left.
  [[nodiscard]] bool is_full(std::size_t lane) const noexcept;
  /// Sends only where the payload lies, copied there if need be. Nothing: send it as any other.
  ///
  /// Shape: lends().
  [[nodiscard]] std::optional<verdict> lend(std::size_t lane, std::span<const std::byte> bytes,
                                            const shared_buffer& payload,
                                            const message_header& header);
  std::uint64_t frame_lent(std::size_t lane, const shared_buffer& payload,
                           const message_header& header);
  void queue(std::size_t lane, message&& owned, std::uint64_t reserve, bool lent = false);
  void frame_now(std::size_t lane, std::span<const std::byte> bytes, const message_header& header);
  [[nodiscard]] bool may_frame_now(std::size_t lane) const noexcept;
  [[nodiscard]] bool send_in_new_piece(tx_lane& to, std::span<const std::byte> bytes,
                                       std::size_t padded) noexcept;
  [[nodiscard]] verdict send_with_care(std::size_t lane, std::span<const std::byte> bytes,
                                       const message_header& header, bool may_start) noexcept;
  [[nodiscard]] bool open_way(tx_lane& to, std::size_t lane) noexcept;
  void close_ways() noexcept;
  static void frame_plain(tx_lane& to, std::span<const std::byte> bytes,
                          std::size_t padded, std::byte* frame) noexcept;
  static constexpr std::size_t ring_flush_bytes = 4 << 10;
  [[nodiscard]] std::size_t quick_limit() const noexcept;
  [[nodiscard]] static std::size_t unsent(const tx_pipe& pipe) noexcept {
    return pipe.unsent_bytes + static_cast<std::size_t>(pipe.next - pipe.settled);
  }
  [[nodiscard]] std::byte* room(tx_pipe& pipe, std::size_t bytes);
  // Blocks of frames on their way out are ours alone: their references need no locked instruction,
  // which would wait for all that was just written to a ring.
  static void keep(detail::block* own) noexcept {
    const auto before = own->references.load(std::memory_order_relaxed);
    own->references.store(before + 1, std::memory_order_relaxed);
  }
  static void let_go(detail::block* own) noexcept {
    const auto before = own->references.load(std::memory_order_relaxed);
    if (before == 1) return detail::recycle_block(own);
    own->references.store(before - 1, std::memory_order_relaxed);
  }
  static void settle(tx_pipe& pipe) noexcept;
  static void end_piece(tx_pipe& pipe) noexcept;
  void shed_memory() noexcept;
  void append(std::size_t pipe, std::span<const std::byte> bytes);
  void append_piece(tx_pipe& pipe, std::span<const std::byte> bytes, message&& owned);
  void pump(std::size_t pipe);
  void pump_control();
  [[nodiscard]] std::optional<std::size_t> next_lane(std::size_t pipe) const noexcept;
  [[nodiscard]] std::size_t next_slice(std::size_t lane) const noexcept;
  [[nodiscard]] std::size_t uncovered_slice(std::size_t lane, const outbound& next,
                                            std::size_t wanted) const noexcept;
  std::uint64_t frame_bytes_of(std::size_t lane, outbound& next, std::size_t slice);
  void frame_slice(std::size_t lane);
  void settle_growth(std::size_t lane) noexcept;
  [[nodiscard]] bool may_have_control() const noexcept {
    return grants_due_ != 0 || unsaid_ || main_move_wanted_ || pong_due_.has_value() ||
           !returns_due_.empty();
  }
  [[nodiscard]] bool would_frame(std::size_t pipe) const noexcept;
  /// Nothing follows our last word: the peer may close its socket behind it, and what came later
  /// would make of that a reset, in which its own last word is lost.
  [[nodiscard]] bool said_all() const noexcept { return close_sent_ && closed_sent_; }
  void finish_moves() noexcept;
  void want_main_move() noexcept;
  void move_main();
  void finish_main_move() noexcept;
  void ride(std::size_t channel, std::size_t pipe) noexcept;
  /// Nothing more may be framed for what rides on pipe 0, until all of it rides on shared_main.
  [[nodiscard]] bool leaving(std::size_t pipe) const noexcept {
    return pipe == 0 && (main_move_wanted_ || main_moving_);
  }
  [[nodiscard]] bool resends(std::size_t lane) const noexcept {
    return local_.resend[lane / 2] && survives();
  }
  static void forget_consumed(tx_lane& lane) noexcept;
  static void drop_pieces(tx_pipe& pipe) noexcept;
  [[nodiscard]] bool drained(std::size_t channel) const noexcept;
  [[nodiscard]] bool may_end(std::size_t channel) const noexcept;
  void use(std::size_t channel) noexcept {
    if (!server_ && channel != 0 && !tx_channel_[channel].used) first_use(channel);
  }
  void first_use(std::size_t channel) noexcept;

  // -- receiving
  struct partial_message {
    bool active = false;
    bool budgeted = false;
    std::uint64_t total = 0;
    std::uint64_t filled = 0;
    std::uint64_t cost = 0;
    std::uint64_t reserve = 0;      // what it takes of the link's budget until it is whole
    std::uint64_t grant_floor = 0;  // total credit that lets all of it come
    data_header header;             // of its first slice
    buffer whole;                   // once the budget allows
    std::vector<buffer> early;      // until then

    void make_whole();
  };
  struct rx_lane {
    // The short way, as in tx_lane.
    std::uint64_t arrived = 0;  // credit spent by the peer
    std::uint64_t quick_until = 0;
    std::size_t quick_bytes = 0;
    std::size_t quick_pipe = 0;
    std::uint64_t granted = 0;
    std::uint64_t released = 0;
    std::uint64_t grant_at = 0;  // released, from where on a grant may be due
    std::uint64_t received = 0;  // messages
    std::uint64_t told_received = 0;
    bool reports = false;               // each release: what the peer keeps for us may be large
    std::uint64_t received_before = 0;  // in earlier sessions
    std::uint64_t missed = 0;           // lost on the way, as the peer says
    std::uint64_t missed_before = 0;
    partial_message partial;
  };
  struct rx_pipe {
    std::vector<std::byte> staged;  // the start of a frame whose rest has not come
    // A payload that is being filled as it comes:
    bool streaming = false;
    data_header stream_header;
    std::byte* stream_to = nullptr;
    std::size_t stream_left = 0;
    buffer stream_buffer;  // its own memory, unless it goes into partial_message::whole
    bool stream_in_whole = false;
    std::uint64_t stream_cost = 0;
    std::size_t padding_left = 0;
    bool held = false;  // its channel has not moved here yet
    std::vector<std::byte> stash;
  };
  struct rx_channel {
    std::size_t pipe = 0;
    std::optional<channel_end> end;
    bool at_end_told = false;
  };

  void consume(std::size_t pipe, detail::block* filled, std::size_t bytes);
  void end_sharing(detail::block* parsed, std::uint32_t outer_shares) noexcept;
  std::size_t continue_stream(rx_pipe& in, std::span<const std::byte> bytes);
  std::size_t continue_staged(std::size_t pipe, std::span<const std::byte> bytes);
  [[nodiscard]] bool stream_staged(std::size_t pipe);
  [[nodiscard]] std::size_t frames_in_place(std::size_t pipe, std::span<const std::byte> bytes,
                                            detail::block* block);
  [[nodiscard]] bool plausible(std::size_t length);
  [[nodiscard]] std::size_t plain_frames(std::size_t pipe, std::span<const std::byte> bytes,
                                         detail::block* block);
  [[nodiscard]] static plain_run run_at(const rx_lane& to, std::size_t pipe,
                                        std::span<const std::byte> bytes) noexcept;
  [[nodiscard]] bool open_way(rx_lane& to, std::size_t lane) noexcept;
  void handle_frame(std::size_t pipe, std::span<const std::byte> frame, detail::block* block);
  void handle_data(std::size_t pipe, std::span<const std::byte> frame, detail::block* block);
  [[nodiscard]] bool begin_stream(std::size_t pipe, std::span<const std::byte> start);
  void end_stream(std::size_t pipe);
  void hold(std::size_t pipe, std::span<const std::byte> bytes);
  [[nodiscard]] bool check_data(std::size_t pipe, const data_header& header,
                                std::size_t payload_bytes, std::size_t length);
  void accept_slice(std::size_t lane, const data_header& header, std::span<const std::byte> bytes,
                    buffer&& owned, bool in_place, std::uint64_t cost);
  void begin_partial(std::size_t lane, const data_header& header, std::uint64_t cost);
  void finish_partial(std::size_t lane);
  void budget_partials();
  inbound& deliver(std::size_t lane, const data_header& header, std::uint64_t cost);
  void handle_control(std::size_t pipe, kind what, std::span<const std::byte> header);
  void handle_welcome(const welcome& from);
  // Of this session: what earlier ones left is taken first.
  [[nodiscard]] std::uint64_t taken(std::size_t lane) const noexcept {
    const std::uint64_t received = rx_[lane].received;
    return received - std::min<std::uint64_t>(received, arrived_[lane / 2].of(lane).size());
  }
  void handle_credit(const grants& from);
  void handle_close(const wire::closing& from);
  void handle_moved(const moved& from);
  void handle_main_moved(const moved& from);
  void handle_ping(std::uint64_t token);
  void handle_returned(const returned& from);
  /// To who has not agreed to it the flag means nothing.
  [[nodiscard]] bool is_lent(const data_header& header) const noexcept {
    return may_lend_ && (header.flags & flag::lent) != 0;
  }
  void handle_lent(std::size_t lane, const data_header& header, std::uint64_t cost);
  void replay(std::size_t pipe);
  [[nodiscard]] std::uint64_t grant_target(std::size_t lane) const noexcept;
  void settle_release(std::size_t lane, std::uint64_t cost, bool reassembled) noexcept;
  void raise_grant(std::size_t lane, std::uint64_t granted) noexcept;
  [[nodiscard]] std::uint64_t grant_step(std::size_t lane) const noexcept;
  void consider_grant(std::size_t lane) noexcept;
  void check_end(std::size_t channel) noexcept;
  void check_closed();
  void adopt_limits(const limits& peer) noexcept;
  void heard(clock::time_point now) noexcept;
  [[nodiscard]] bool can_share(detail::block* block) noexcept;
  void say_ended() noexcept;
  static void keep_reason(std::optional<failure>& place, errc code, std::string_view why) noexcept;
  void end(errc code, std::string_view why) noexcept;
  void end_offline() noexcept;

  // -- one connection after another
  [[nodiscard]] bool survives() const noexcept {
    return local_.survive > clock::duration::zero();
  }
  /// What the features of a hello or welcome mean to us.
  [[nodiscard]] bool agrees_to_share(std::uint64_t features) const noexcept {
    return local_.share && (features & feature::share) != 0;
  }
  [[nodiscard]] bool agrees_to_lend(std::uint64_t features) const noexcept {
    return local_.lend && agrees_to_share(features) && (features & feature::lend) != 0;
  }
  [[nodiscard]] std::uint64_t features() const noexcept {
    return (survives() ? feature::resume : 0) | (local_.share ? feature::share : 0) |
           (local_.share && local_.lend ? feature::lend | local_.pass : 0);
  }
  void agree(std::uint64_t features) noexcept {
    may_share_ = agrees_to_share(features);
    may_lend_ = agrees_to_lend(features);
    passes_ = may_lend_ ? local_.pass & features : 0;
  }
  [[nodiscard]] bool agrees_to_resume(std::uint64_t features) const noexcept {
    return survives() && (features & feature::resume) != 0;
  }
  [[nodiscard]] bool may_survive() const noexcept {
    return survives() && connections_ != 0 && !closing_ && (!server_ || resumable_);
  }
  [[nodiscard]] bool owes_nothing_old() const noexcept;
  void say_hello(bool resume);
  void begin_session();
  void leave_pipes() noexcept;
  [[nodiscard]] bool rewind(const lane_numbers& received);
  void rewind_lane(std::size_t lane, std::uint64_t arrived);
  void say_welcome(const hello& peer);
  void say_resumed();
  void handle_refusal(const refusal& from);
  void handle_resumed(const resumption& from);
  void go_online() noexcept;
  void tick_offline() noexcept;

  settings local_;
  limits peer_;
  bool server_;
  bool established_ = false;
  bool closing_ = false;
  bool close_sent_ = false;
  bool closed_sent_ = false;
  bool closed_received_ = false;
  bool offline_ = false;
  bool greeting_ = false;
  bool resumable_ = false;
  bool resuming_ = false;  // this handshake is to resume
  bool resumed_ = false;
  bool session_open_ = false;  // the peer has been reached since it began
  std::uint64_t connections_ = 0;
  clock::time_point offline_deadline_ = clock::time_point::max();
  std::optional<failure> broken_by_;
  std::optional<failure> ended_;
  happenings happened_;

  std::array<tx_lane, lane_count> tx_;
  std::array<tx_pipe, pipe_count> out_;
  std::array<tx_channel, channel_count> tx_channel_;
  std::array<channel_arrivals, channel_count> arrived_;  // whole, and not taken yet
  std::array<rx_lane, lane_count> rx_;
  std::array<rx_pipe, pipe_count> in_;
  std::array<rx_channel, channel_count> rx_channel_;
  std::array<bool, pipe_count> pipe_open_{true};

  unsigned grants_due_ = 0;  // bit per lane
  unsigned moving_ = 0;      // channels with MOVED in the main pipe
  std::size_t tx_main_ = 0;
  std::size_t rx_main_ = 0;
  bool may_share_ = false;
  bool may_lend_ = false;
  std::uint64_t passes_ = 0;
  bool shared_ = false;
  unsigned rings_ = 1U << shared_main;  // bit per pipe that is no socket
  bool main_move_wanted_ = false;
  bool main_moving_ = false;  // MOVED is in pipe 0, not with the system yet
  std::uint64_t main_move_position_ = 0;
  bool unsaid_ = false;      // a MOVED, END or CLOSE may be due
  detail::lender* lender_ = nullptr;
  std::vector<std::uint64_t> returns_due_;  // borrowed, and let go
  std::optional<wire::closing> peer_close_;
  std::size_t reassembly_in_use_ = 0;
  detail::pin_budget* pins_;
  std::uint32_t shares_ = 0;  // references to the current block that messages hold

  clock::time_point now_;
  clock::time_point last_heard_;
  clock::time_point ping_sent_{};
  bool ping_pending_ = false;
  std::uint64_t ping_token_ = 0;
  std::optional<std::uint64_t> pong_due_;  // the latest token: older ones need no answer
  clock::time_point last_ping_from_peer_{};
  unsigned ping_strikes_ = 0;
  unsigned unknown_kinds_answered_ = 0;
  clock::time_point handshake_deadline_;
  clock::time_point close_deadline_ = clock::time_point::max();
  clock::time_point deaf_deadline_ = clock::time_point::max();
  std::size_t deaf_pipe_ = 0;
  std::error_code deaf_because_;
};

inline void machine::frame_plain(tx_lane& to, std::span<const std::byte> bytes,
                                 std::size_t padded, std::byte* frame) noexcept {
  store_little_endian<std::uint64_t>(frame + padded - sizeof(std::uint64_t), 0);  // the padding
  store_little_endian(frame, to.quick_start + bytes.size());
  if (!bytes.empty()) std::memcpy(frame + plain::prefix_bytes, bytes.data(), bytes.size());
  to.spent += padded + message_overhead;
  ++to.accepted;
  ++to.framed;
}

template <class Place>
bool machine::send_directly(std::size_t lane, std::span<const std::byte> bytes,
                            const message_header& header, Place place) noexcept {
  tx_lane& to = tx_[lane];
  const std::size_t padded = align8(plain::prefix_bytes + bytes.size());
  if (header.id != 0 || header.encoding != codec::raw || bytes.size() > to.quick_bytes ||
      to.spent + padded + message_overhead > to.quick_until || !to.quick_pipe->pieces.empty()) {
    return false;
  }
  std::byte* const frame = place(padded);
  if (frame == nullptr) return false;
  frame_plain(to, bytes, padded, frame);
  to.sent = to.framed;
  to.quick_pipe->appended += padded;
  to.quick_pipe->written += padded;
  return true;
}

inline bool machine::send_quickly(std::size_t lane, std::span<const std::byte> bytes,
                                  const message_header& header) noexcept {
  tx_lane& to = tx_[lane];
  const std::size_t padded = align8(plain::prefix_bytes + bytes.size());
  if (header.id != 0 || header.encoding != codec::raw || bytes.size() > to.quick_bytes ||
      to.spent + padded + message_overhead > to.quick_until) {
    return false;
  }
  tx_pipe& pipe = *to.quick_pipe;
  if (padded > static_cast<std::size_t>(pipe.until - pipe.next)) {
    return send_in_new_piece(to, bytes, padded);
  }
  frame_plain(to, bytes, padded, std::exchange(pipe.next, pipe.next + padded));
  return true;
}

}  // namespace hawser::wire
