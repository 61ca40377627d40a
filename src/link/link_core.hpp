// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/current_executor.hpp"
#include "exec/worker.hpp"
#include "hawser/link.hpp"
#include "link/reference_tab.hpp"
#include "link/waiters.hpp"
#include "os/birthmark.hpp"
#include "os/reactor.hpp"
#include "shm/arena.hpp"
#include "shm/port.hpp"
#include "shm/ring_stream.hpp"
#include "wire/machine.hpp"

namespace hawser::detail {

class link_core;
class link_registry;

/// A socket on its way to becoming a channel's own. Destroying it gives up.
class attacher {
 public:
  virtual ~attacher() = default;
};

/// One channel of a link, on its home worker: who waits for what.
class channel_core {
 public:
  channel_core() noexcept : api_(*this) {}
  channel_core(const channel_core&) = delete;
  channel_core& operator=(const channel_core&) = delete;

  inline void bind(link_core& owner, std::size_t index) noexcept;
  [[nodiscard]] link_core& owner() const noexcept { return *owner_; }
  [[nodiscard]] channel& api() noexcept { return api_; }
  [[nodiscard]] std::size_t index() const noexcept { return index_; }
  [[nodiscard]] std::size_t lane_index(lane via) const noexcept {
    return wire::lane_of(index_, via == lane::urgent);
  }

  /// What the machine has said; each looks at its waiters again.
  void readable() noexcept;
  void writable() noexcept;
  void flushed() noexcept;

  // For the operations.
  [[nodiscard]] std::optional<message> take() noexcept;
  /// Never nothing; made where the caller wants it.
  ///
  /// Shape: has_message().
  [[nodiscard]] std::optional<message> take_next() noexcept;
  /// The same at the end of `room`, which has some.
  void take_into(std::vector<message>& room) noexcept;
  [[nodiscard]] bool has_message() const noexcept {
    return !arrived_->empty();
  }
  [[nodiscard]] std::size_t ready_messages() const noexcept { return arrived_->size(); }
  [[nodiscard]] inline wire::machine& wire() noexcept;
  [[nodiscard]] errc ended_code() noexcept;  // for one that cannot go on
  /// Something was accepted, not on the short way.
  void sent() noexcept;
  void wait_to_receive(channel_operation& one) noexcept;
  /// No message is there. True: none will come, and the receiver knows why.
  [[nodiscard]] bool nothing_left(channel_operation& receiver) noexcept;
  void wait_for_flush(channel_operation& one) noexcept;
  void stop_waiting_for_flush(channel_operation& one) noexcept;
  waiter_list receivers;
  [[nodiscard]] waiter_list& senders(lane via) noexcept {
    return senders_[static_cast<std::size_t>(via)];
  }

  /// Ends those at the front that need not wait any more.
  static void retry(waiter_list& waiting) noexcept;
  /// Ends one that was cancelled.
  static void leave(waiter_list& waiting, channel_operation& gone) noexcept;

 private:
  template <class Make>
  auto take_as(Make make) noexcept;
  void retry_flushers() noexcept;

  link_core* owner_ = nullptr;
  std::size_t index_ = 0;
  std::array<waiter_list, 2> senders_;  // by lane
  waiter_list flushers_;
  wire::channel_arrivals* arrived_ = nullptr;  // the machine's
  channel api_;
};

/// A link on its home worker: drives the wire machine over its pipes.
///
/// It lives as long as somebody needs it: a handle, a message that holds its credit, a pipe that
/// is not closed. While the link is alive all of it belongs to the home worker; what other
/// threads let go of is collected under a mutex and told to home with one post. Once the link has
/// ended and its pipes are closed it is *inert*: nothing runs any more, home is not needed, and the
/// last handle or message to go, on whichever thread, deletes it.
///
///   alive --machine ended, output written or given up--> closing pipes --last on_closed--> inert
///   inert, no handle, no message --> deleted
///   alive --machine offline--> closing pipes --last on_closed--> alive, without pipes
///         --reconnect() or resume()--> alive
class link_core final : public component, private shm::port_events, private shm::arena_events {
 public:
  struct origin {
    std::string peer;                               ///< for people
    bool kernel_buffers = false;                    ///< raise the socket buffers
    /// Client: opens a further socket for a channel and calls attach() or attach_failed().
    std::function<std::unique_ptr<attacher>(link_core&, std::size_t)> attach;
    /// Client whose peer is on this host: offers it a segment and calls share() or share_failed().
    std::function<std::unique_ptr<attacher>(link_core&)> share;
    /// Client that survives: starts something that tries to reach the peer until is_settled(), and
    /// then calls end_reaching().
    std::function<void(link_core&)> reach_again;
  };

  /// Home's thread. The side that connects; one handle is held by the caller.
  link_core(worker& home, const link_options& options, const wire::settings& settings,
            origin from);
  /// The side that was connected to.
  link_core(worker& home, const link_options& options, const wire::settings& settings,
            const wire::hello& peer, origin from);

  // ---- any thread ------------------------------------------------------------------------
  void retain_handle() noexcept { handles_.fetch_add(1, std::memory_order_relaxed); }
  void release_handle() noexcept;
  /// With a reference to the block that the message was in, if it was in one.
  void release_message(block* used, std::uint32_t lane_and_flag, std::uint64_t cost) noexcept;
  /// Keeps the core from becoming inert until `arrived()`, which runs on home. False: too late.
  [[nodiscard]] bool begin_visit() noexcept;
  void end_visit() noexcept;  // home's thread
  [[nodiscard]] worker& home() const noexcept { return home_; }
  [[nodiscard]] channel_core& at(std::size_t index) noexcept { return channels_[index]; }
  [[nodiscard]] const std::string& peer() const noexcept { return origin_.peer; }
  [[nodiscard]] unsigned sockets() const noexcept {
    return sockets_.load(std::memory_order_relaxed);
  }

  // ---- home's thread ---------------------------------------------------------------------
  [[nodiscard]] bool at_home() const noexcept { return current_executor == &home_; }
  [[nodiscard]] wire::machine& wire() noexcept { return machine_; }
  [[nodiscard]] const link_options& options() const noexcept { return options_; }
  /// Starts pipe 0; `rest` was read from it already.
  void start(platform::native_handle socket, std::span<const std::byte> rest) noexcept;
  /// Server: attaches are looked up there from now on. False: the link's id is taken.
  [[nodiscard]] bool adopt_registry(std::shared_ptr<link_registry> registry, std::uint32_t user,
                                    bool has_user);
  /// `channel` has a socket of its own, and `rest` was read from it already. False: it may not, and
  /// the socket is the caller's still.
  [[nodiscard]] bool attach(std::size_t channel, platform::native_handle socket,
                            std::span<const std::byte> rest) noexcept;
  /// An attempt to attach ended without a socket; the channel stays on pipe 0.
  void attach_failed(std::size_t channel, std::string_view why) noexcept;
  /// What is framed for a ring goes there in the middle of a turn: no system call is saved by
  /// waiting for its end.
  void flush_ring(std::size_t index) noexcept {
    pipes_[index].push_on();
    pipes_[index].flush();
  }
  /// The first small message of a turn, which needs no more than a place in a ring. False: send it
  /// as any other.
  [[nodiscard]] bool send_to_ring(std::size_t channel, std::size_t lane,
                                  std::span<const std::byte> bytes,
                                  const message_header& header) noexcept;
  [[nodiscard]] bool may_send_to_ring() const noexcept {
    return port_ != nullptr && !flush_queued_;
  }
  /// The peer has the segment, too, and the arena if there is one; takes over all. `own` is ours of
  /// its two sides. Once this side is ready, the peer is told `answer`, over the socket.
  struct lent_memory {
    shm::arena_memory memory;
    shm::file_passage files;
  };
  void share(shm::segment mapped, lent_memory loans, shm::side own, platform::native_handle socket,
             std::span<const std::byte> answer) noexcept;
  /// What can lend so many bytes to that channel's messages, if anything can.
  [[nodiscard]] shm::arena* arena_of(std::size_t channel, std::size_t bytes) const noexcept {
    const bool lends = machine_.lends(channel) && arena_->may_lend(bytes);
    return lends ? arena_ : nullptr;
  }
  /// Which files both sides agree to hand over; what each of them must be told with the segment.
  [[nodiscard]] shm::passable passable() const noexcept;
  /// The same once they can be, by that channel.
  [[nodiscard]] shm::arena* files_of(std::size_t channel) const noexcept {
    return machine_.lends(channel) ? arena_ : nullptr;
  }
  /// The link goes on over its sockets.
  void share_failed(std::string_view why) noexcept;
  /// Offers a segment, now if it may be, and otherwise as soon as there is traffic.
  void consider_sharing(bool now) noexcept;
  /// What is sent crosses shared memory, or will not in this connection.
  [[nodiscard]] bool is_sharing_settled() const noexcept {
    return machine_.in_memory() || !machine_.may_share() || !unshared_because_.empty();
  }
  [[nodiscard]] link_road road() const;
  /// Something may be ready to write: it leaves at the end of this turn.
  void touch() noexcept {
    if (!flush_queued_) queue_flush();
  }
  /// The same for a message of that channel. The first of a turn crosses shared memory at once.
  void touch(std::size_t channel) noexcept {
    if (!flush_queued_) begin_flush(channel);
  }
  /// Client, offline: goes on over a new socket; whether that works shows when the machine is not
  /// greeting() any more. False: not yet, the socket is the caller's still.
  [[nodiscard]] bool reconnect(platform::native_handle socket);
  /// Server: the peer, which has proved that it may, goes on over this socket. False: it cannot,
  /// and the socket is the caller's still.
  [[nodiscard]] bool resume(platform::native_handle socket, const wire::hello& peer,
                            std::vector<std::byte> rest);
  /// Neither offline nor about to be online: there is nothing to reach for.
  [[nodiscard]] bool is_settled() const noexcept {
    return machine_.ended() || !machine_.offline();
  }
  /// Offline, and ready for the next connection.
  [[nodiscard]] bool is_between_connections() const noexcept {
    return machine_.offline() && open_pipes_ == 0;
  }
  /// Whoever origin::reach_again() has started has ended, and so has its visit.
  void end_reaching() noexcept;
  /// Requested when nobody needs to reach the peer again.
  [[nodiscard]] stop_token reach_no_more() noexcept { return unreachable_.token(); }
  [[nodiscard]] link::status status() const noexcept;
  /// How many connections in a row did not last.
  [[nodiscard]] unsigned short_lived() const noexcept { return short_lived_; }
  /// Passes on what the machine has noticed. Call after every input to it.
  void dispatch() noexcept;
  void close() noexcept;
  void note_delivery() noexcept { ++delivered_; }
  /// Whether somebody waits for what that channel has accepted to be with the system.
  void note_flushers(std::size_t channel, bool any) noexcept {
    const unsigned bit = 1U << channel;
    flushers_ = any ? flushers_ | bit : flushers_ & ~bit;
  }
  waiter_list openers;   // wait for the handshake
  waiter_list enders;    // wait for the end
  waiter_list changers;  // wait for another status
  waiter_list greeters;  // wait for the end of an attempt to reconnect
  waiter_list sharers;   // wait for is_sharing_settled()
  waiter_list borrowers;  // wait for room in the arena

  void on_shutdown() noexcept override { close(); }
  void on_abandon() noexcept override;

  static constexpr std::uint32_t reassembled_flag = 1U << 8;

 private:
  class pipe final : public stream_events {
   public:
    void bind(link_core& owner, std::size_t index) noexcept {
      owner_ = &owner;
      index_ = index;
    }
    [[nodiscard]] bool open() const noexcept { return stream_ != nullptr; }
    [[nodiscard]] bool usable() const noexcept { return stream_ != nullptr && !closing_; }
    [[nodiscard]] bool writing() const noexcept { return writing_ && !deaf_; }
    [[nodiscard]] bool wants_flush() const noexcept {
      return usable() && !writing_ && owner_->machine_.has_output(index_);
    }
    void start(platform::native_handle socket);
    void start(std::unique_ptr<shm::ring_stream> ring) noexcept;
    [[nodiscard]] shm::ring_stream* ring() const noexcept { return ring_; }
    void read() noexcept {
      reading_ = true;
      stream_->start_reading();
    }
    [[nodiscard]] bool reading() const noexcept { return usable() && reading_; }
    /// What was read from the socket before it was ours.
    void take_over(std::span<const std::byte> rest);
    void flush() noexcept;
    /// A write that waits for room in a ring, which may be there in the midst of a turn.
    void push_on() noexcept {
      if (!writing_ || ring_ == nullptr || !ring_->push_on()) return;
      writing_ = false;
      owner_->machine_.written(index_);
    }
    void close() noexcept;

    std::span<std::byte> direct_space() noexcept override;
    void on_direct(std::size_t bytes) noexcept override;
    void on_block(block* filled, std::size_t bytes) noexcept override;
    void on_end(std::error_code why) noexcept override;
    void on_written(std::error_code error) noexcept override;
    void on_closed() noexcept override;

   private:
    void tune() noexcept;

    link_core* owner_ = nullptr;
    std::size_t index_ = 0;
    platform::native_handle socket_ = platform::no_handle;  // the stream's
    std::unique_ptr<stream> stream_;
    shm::ring_stream* ring_ = nullptr;  // stream_, if it is one
    bool tuned_ = false;
    bool writing_ = false;
    bool closing_ = false;
    bool reading_ = false;
    bool deaf_ = false;  // the peer takes nothing more
  };
  struct link_timer : timer {
    link_timer(link_core& by, function action) noexcept : timer(action), owner(by) {}
    link_core& owner;
  };
  struct link_work : work {
    link_work(link_core& by, function action) noexcept : work(action), owner(by) {}
    link_core& owner;
  };
  // What others have let go of since home looked last.
  struct returned {
    wire::lane_numbers cost{};
    wire::lane_numbers reassembled_cost{};
    std::uint64_t messages = 0;
  };

  ~link_core();
  // A peer that wants to go on over another socket, before the pipes of the last are closed.
  struct comeback {
    platform::native_handle socket = platform::no_handle;
    wire::hello hello;
    std::vector<std::byte> rest;
  };

  void join_home() noexcept;
  void on_port_lost(std::error_code why) noexcept override;
  void on_let_go(std::uint64_t at) noexcept override;
  void on_room() noexcept override { channel_core::retry(borrowers); }
  void on_let_go_elsewhere() noexcept override;
  void ask_to_collect() noexcept;  // under mutex_
  void on_broken() noexcept;
  void on_pipes_closed() noexcept;
  void start_reaching() noexcept;
  void welcome_back() noexcept;
  void refuse_comeback() noexcept;
  void note_change() noexcept;
  void queue_flush() noexcept;
  void begin_flush(std::size_t channel) noexcept;
  void settle() noexcept;
  void touch_for_output() noexcept;
  void dispatch_rare(const wire::happenings& now) noexcept;
  void flush() noexcept;
  void finish_up() noexcept;
  void close_pipes() noexcept;
  void rearm() noexcept;
  void try_inert() noexcept;
  void start_attach(std::size_t channel) noexcept;
  void start_attaches(unsigned channels) noexcept;  // bit per channel
  [[nodiscard]] bool may_still_share() const noexcept {
    return machine_.may_share() && unshared_because_.empty();
  }
  void open_ring(std::size_t channel);
  void see_moved(unsigned channels) noexcept;
  void drop_port() noexcept;
  [[gnu::noinline]] void release_elsewhere(block* used, std::uint32_t lane_and_flag,
                                           std::uint64_t cost) noexcept;
  void collect() noexcept;
  void dropped() noexcept;
  [[nodiscard]] bool unneeded() const noexcept;  // under mutex_
  static void on_timer(timer& entry) noexcept;
  static void on_attach_timer(timer& entry) noexcept;
  static void run_flush(work& item) noexcept;
  static void run_collect(work& item) noexcept;
  static void run_dropped(work& item) noexcept;

  worker& home_;
  link_options options_;
  origin origin_;
  std::shared_ptr<link_registry> registry_;
  wire::machine machine_;
  std::array<channel_core, wire::channel_count> channels_;
  std::array<pipe, wire::pipe_count> pipes_;
  unsigned open_pipes_ = 0;  // bit per pipe that has a stream
  unsigned flushers_ = 0;    // bit per channel whose flushing somebody awaits
  std::array<std::unique_ptr<attacher>, wire::pipe_count> attachers_;
  link_timer timer_;
  link_timer attach_timer_;
  unsigned attach_wanted_ = 0;  // bit per channel, until attach_timer_ fires
  unsigned attach_later_ = 0;   // ... until it is known whether memory will be shared
  std::unique_ptr<attacher> sharer_;
  bool share_asked_ = false;
  std::string unshared_because_;
  shm::port* port_ = nullptr;
  shm::arena* arena_ = nullptr;
  bool port_lost_ = false;  // before the client has moved there
  link_work flush_work_;
  bool flush_queued_ = false;
  bool dispatching_ = false;
  bool close_wanted_ = false;  // early: as soon as the handshake is done
  bool linger_ = false;  // ended; the rest of the output may still leave until the timer fires
  bool joined_ = false;
  bool was_offline_ = false;  // so it has been said
  bool reaching_ = false;
  std::unique_ptr<comeback> comeback_;
  stop_source unreachable_;
  clock::time_point online_since_{};
  unsigned short_lived_ = 0;
  std::uint64_t delivered_ = 0;
  std::uint64_t released_ = 0;
  reference_tab let_go_;  // at home
  std::atomic<unsigned> sockets_{0};
  std::atomic<std::uint32_t> handles_{1};

  birthmark birthmark_;
  std::mutex mutex_;  // what follows
  link_work collect_work_;
  link_work dropped_work_;
  returned returned_;
  bool collect_posted_ = false;
  unsigned visits_ = 0;  // posts under way that need the core
  bool inert_ = false;
};

inline wire::machine& channel_core::wire() noexcept {
  return owner_->wire();
}

inline void channel_core::bind(link_core& owner, std::size_t index) noexcept {
  owner_ = &owner;
  index_ = index;
  arrived_ = &owner.wire().arrived(index);
}

[[nodiscard]] wire::settings make_settings(const link_options& options);

}  // namespace hawser::detail
