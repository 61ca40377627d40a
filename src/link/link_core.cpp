// SPDX-License-Identifier: Apache-2.0
#include "link/link_core.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <new>

#include "core/assert.hpp"
#include "exec/runtime_core.hpp"
#include "link/registry.hpp"
#include "link/socket_owner.hpp"

namespace hawser::detail {
namespace {

// On a socket that all channels share the system takes no more than this before it can send it: the
// rest waits here, where the more urgent may still pass.
constexpr std::size_t unsent_bytes_shared = 128 << 10;
// How long the last words of a link that failed may take to leave.
constexpr auto linger_time = std::chrono::milliseconds(500);
constexpr unsigned writes_a_flush = 4;
constexpr std::array<std::size_t, wire::pipe_count> flush_order{1, 2, wire::shared_main, 0, 3};
// How long a channel is used before it gets a socket of its own: a link that asks one question does
// not pay for it, and the first reply does not wait for it.
constexpr auto attach_pause = std::chrono::milliseconds(2);
// The credit that has gone to and fro when a link is worth a segment: some thirty small messages.
constexpr std::uint64_t worth_sharing = 4 << 10;

constexpr std::size_t ring_pipe(std::size_t channel) noexcept {
  return channel == 0 ? wire::shared_main : channel;
}

}  // namespace

wire::settings make_settings(const link_options& options) {
  wire::settings settings;
  for (std::size_t channel = 0; channel < wire::channel_count; ++channel) {
    settings.local.message_bytes[channel] = options.max_message_bytes[channel];
    settings.local.window[wire::lane_of(channel, false)] = options.window_bytes[channel];
    // An urgent message is one frame, and a single frame may take three quarters of its window.
    const std::size_t urgent_cost =
        options.urgent_window_bytes + wire::message_overhead + wire::data_prefix_max;
    settings.local.window[wire::lane_of(channel, true)] = (urgent_cost + 2) / 3 * 4;
  }
  settings.local.keepalive_ms = static_cast<std::uint64_t>(options.keepalive.count());
  settings.local.pipes = options.channels;
  settings.queue_bytes = options.queue_bytes;
  settings.reassembly_bytes = options.reassembly_bytes;
  settings.pinned_bytes = options.pinned_bytes;
  settings.handshake_timeout = options.handshake_timeout;
  settings.close_timeout = options.close_timeout;
  settings.keepalive = options.keepalive;
  settings.keepalive_timeout = options.keepalive_timeout;
  settings.survive = options.survive;
  settings.resend = options.resend;
  settings.share = options.share_memory;
  settings.lend = options.arena_bytes != 0;
  settings.lend_from = options.lend_from_bytes;
  settings.pass = options.pass_files == 0 ? 0 : wire::feature::pass_sealed;
  if (options.pass_files == 2) settings.pass |= wire::feature::pass_any;
  return settings;
}

link_core::link_core(worker& home, const link_options& options, const wire::settings& settings,
                     origin from)
    : home_(home),
      options_(options),
      origin_(std::move(from)),
      machine_(settings, home.now()),
      timer_(*this, &link_core::on_timer),
      attach_timer_(*this, &link_core::on_attach_timer),
      flush_work_(*this, &link_core::run_flush),
      collect_work_(*this, &link_core::run_collect),
      dropped_work_(*this, &link_core::run_dropped) {
  join_home();
}

link_core::link_core(worker& home, const link_options& options, const wire::settings& settings,
                     const wire::hello& peer, origin from)
    : home_(home),
      options_(options),
      origin_(std::move(from)),
      machine_(settings, peer, home.now()),
      timer_(*this, &link_core::on_timer),
      attach_timer_(*this, &link_core::on_attach_timer),
      flush_work_(*this, &link_core::run_flush),
      collect_work_(*this, &link_core::run_collect),
      dropped_work_(*this, &link_core::run_dropped) {
  join_home();
}

link_core::~link_core() = default;

void link_core::join_home() noexcept {
  for (std::size_t i = 0; i < wire::channel_count; ++i) channels_[i].bind(*this, i);
  for (std::size_t i = 0; i < wire::pipe_count; ++i) pipes_[i].bind(*this, i);
  home_.add_component(*this);
  home_.link_opened();
  joined_ = true;
}

// ---- pipes ----------------------------------------------------------------------------------

// The socket of a handshake is tuned once its first words have left, which the peer waits for.
void link_core::pipe::start(platform::native_handle socket) {
  socket_ = socket;
  tuned_ = index_ != 0;
  if (tuned_) tune();
  writing_ = closing_ = reading_ = deaf_ = false;
  stream_ = owner_->home_.reactor().open(socket, *this);
  owner_->open_pipes_ |= 1U << index_;
  owner_->sockets_.fetch_add(1, std::memory_order_relaxed);
  read();
}

// Nobody reads a ring before the peer has moved there.
void link_core::pipe::start(std::unique_ptr<shm::ring_stream> ring) noexcept {
  ring_ = ring.get();
  socket_ = platform::no_handle;
  tuned_ = true;
  writing_ = closing_ = reading_ = deaf_ = false;
  stream_ = std::move(ring);
  owner_->open_pipes_ |= 1U << index_;
}

void link_core::pipe::tune() noexcept {
  platform::stream_options options;
  if (owner_->origin_.kernel_buffers || index_ != 0) {
    options.send_buffer_bytes = owner_->options_.socket_buffer_bytes;
    options.receive_buffer_bytes = owner_->options_.socket_buffer_bytes;
    options.fast_when_local = true;
    if (index_ == 0) options.unsent_bytes = unsent_bytes_shared;
  }
  platform::apply(socket_, options);
}

void link_core::pipe::take_over(std::span<const std::byte> rest) {
  if (rest.empty()) return;
  block* const copy = allocate_block(rest.size());
  std::memcpy(copy->data(), rest.data(), rest.size());
  on_block(copy, rest.size());
}

// What the system has taken at once makes room for more; others get their turn after a few.
void link_core::pipe::flush() noexcept {
  for (unsigned left = writes_a_flush; left != 0 && wants_flush(); --left) {
    const std::size_t count = owner_->machine_.gather(index_, stream::max_slices);
    if (count == 0) return;
    std::array<platform::io_slice, stream::max_slices> slices;
    for (std::size_t i = 0; i < count; ++i) {
      const auto bytes = owner_->machine_.gathered(index_, i);
      slices[i] = {bytes.data(), bytes.size()};
    }
    const bool awaited = owner_->flushers_ != 0 || owner_->machine_.awaits_written(index_);
    if (stream_->write(std::span<const platform::io_slice>(slices).first(count),
                       awaited ? stream::notice::soon : stream::notice::late)) {
      owner_->machine_.written(index_);
    } else {
      writing_ = true;
    }
    if (!std::exchange(tuned_, true)) tune();
  }
}

void link_core::pipe::close() noexcept {
  if (!usable()) return;
  closing_ = true;
  stream_->close();
}

std::span<std::byte> link_core::pipe::direct_space() noexcept {
  return owner_->machine_.direct_space(index_);
}

void link_core::pipe::on_direct(std::size_t bytes) noexcept {
  owner_->machine_.receive_direct(index_, bytes, owner_->home_.lately());
  owner_->settle();
}

void link_core::pipe::on_block(block* filled, std::size_t bytes) noexcept {
  owner_->machine_.receive(index_, filled, bytes, owner_->home_.lately());
  owner_->settle();
}

void link_core::pipe::on_end(std::error_code why) noexcept {
  // What a peer had put into shared memory has arrived, even if it is dead now.
  if (index_ == 0 && owner_->port_ != nullptr) owner_->port_->drain();
  if (why == errc::protocol_violation) {
    owner_->machine_.fail(errc::protocol_violation, "a ring in shared memory is broken");
  } else {
    owner_->machine_.pipe_ended(index_, why);
  }
  close();
  owner_->dispatch();
}

void link_core::pipe::on_written(std::error_code error) noexcept {
  // Who cannot write any more may still read: a peer that died has left what it had said.
  if (error && !owner_->machine_.ended()) {
    deaf_ = true;
    owner_->machine_.pipe_deaf(index_, error, owner_->home_.now());
    return owner_->dispatch();
  }
  writing_ = false;
  if (error) {
    close();
  } else {
    owner_->machine_.written(index_);
  }
  owner_->settle();
}

void link_core::pipe::on_closed() noexcept {
  ring_ = nullptr;
  stream_.reset();
  owner_->open_pipes_ &= ~(1U << index_);
  if (socket_ != platform::no_handle) owner_->sockets_.fetch_sub(1, std::memory_order_relaxed);
  if (owner_->open_pipes_ == 0) owner_->on_pipes_closed();
  owner_->try_inert();
}

void link_core::start(platform::native_handle socket, std::span<const std::byte> rest) noexcept {
  try {
    pipes_[0].start(socket);
    pipes_[0].take_over(rest);
  } catch (const std::exception& error) {
    machine_.fail(errc::resource_exhausted, error.what());
  }
  dispatch();
  touch();
}

bool link_core::adopt_registry(std::shared_ptr<link_registry> registry, std::uint32_t user,
                               bool has_user) {
  if (!registry->add(machine_.link_id(), *this, user, has_user)) return false;
  registry_ = std::move(registry);
  return true;
}

// ---- attaching ------------------------------------------------------------------------------

void link_core::on_attach_timer(timer& entry) noexcept {
  link_core& self = static_cast<link_timer&>(entry).owner;
  self.start_attaches(std::exchange(self.attach_wanted_, 0U));
}

void link_core::start_attaches(unsigned channels) noexcept {
  for (; channels != 0; channels &= channels - 1) {
    start_attach(static_cast<std::size_t>(std::countr_zero(channels)));
  }
}

void link_core::start_attach(std::size_t channel) noexcept {
  if (!origin_.attach || !machine_.attach_allowed(channel) || attachers_[channel] != nullptr) {
    return;
  }
  if (origin_.share && may_still_share() && port_ == nullptr) {
    attach_later_ |= 1U << channel;
    return consider_sharing(false);
  }
  try {
    if (port_ != nullptr) return open_ring(channel);
    attachers_[channel] = origin_.attach(*this, channel);
  } catch (const std::exception& error) {
    attach_failed(channel, error.what());
  }
}

// Also while the link closes: the server, which was asked before, may have moved the channel
// already, and what it has accepted comes on this socket.
bool link_core::attach(std::size_t channel, platform::native_handle socket,
                       std::span<const std::byte> rest) noexcept {
  attachers_[channel].reset();
  if (machine_.ended() || pipes_[channel].open()) return false;
  try {
    pipes_[channel].start(socket);
    machine_.attached(channel);
    pipes_[channel].take_over(rest);
  } catch (const std::exception& error) {
    machine_.fail(errc::resource_exhausted, error.what());  // the peer counts on this socket
    dispatch();
  }
  touch();
  return true;
}

void link_core::attach_failed(std::size_t channel, std::string_view why) noexcept {
  home_.runtime().log(log_level::info, "link", [&] {
    return "channel " + std::to_string(channel) + " stays on the control socket of " +
           origin_.peer + ": " + std::string(why);
  });
  attachers_[channel].reset();
  if (machine_.ended()) try_inert();
}

// ---- shared memory --------------------------------------------------------------------------

void link_core::consider_sharing(bool now) noexcept {
  if (share_asked_ || !origin_.share || !may_still_share() || machine_.offline()) return;
  if (!now && machine_.traffic() < worth_sharing) return;
  share_asked_ = true;
  try {
    sharer_ = origin_.share(*this);
  } catch (const std::exception& error) {
    share_failed(error.what());
  }
}

shm::passable link_core::passable() const noexcept {
  const std::uint64_t agreed = machine_.passes();
  if ((agreed & wire::feature::pass_any) != 0) return shm::passable::any;
  return agreed != 0 ? shm::passable::sealed : shm::passable::none;
}

void link_core::share(shm::segment mapped, lent_memory loans, shm::side own,
                      platform::native_handle socket, std::span<const std::byte> answer) noexcept {
  sharer_.reset();
  if (machine_.ended() || machine_.offline() || port_ != nullptr) {
    platform::close(socket);
    return;
  }
  try {
    port_ = new shm::port(home_, std::move(mapped), own, socket, *this);
  } catch (const std::exception& error) {
    platform::close(socket);
    return share_failed(error.what());
  }
  std::unique_ptr<shm::ring_stream> ring;
  try {
    if (loans.memory.bytes() != 0) {
      arena_ = shm::arena::make(std::move(loans.memory), std::move(loans.files), *this);
    }
    ring = port_->open(0, pipes_[wire::shared_main]);
  } catch (const std::bad_alloc&) {
    drop_port();
    return share_failed("no memory");
  }
  if (!answer.empty() && !write_at_once(socket, answer)) {
    ring.reset();
    drop_port();
    return share_failed("the peer does not wait for an answer");
  }
  pipes_[wire::shared_main].start(std::move(ring));
  machine_.shared();
  machine_.lend_from(arena_);
  start_attaches(std::exchange(attach_later_, 0U));
  dispatch();
  channel_core::retry(sharers);
  touch();
}

void link_core::share_failed(std::string_view why) noexcept {
  sharer_.reset();
  try {
    unshared_because_ = why;
  } catch (const std::bad_alloc&) {
    unshared_because_ = "no memory";  // short enough to need none
  }
  home_.runtime().log(log_level::info, "link", [&] {
    return "link to " + origin_.peer + " goes on over sockets: " + unshared_because_;
  });
  start_attaches(std::exchange(attach_later_, 0U));
  channel_core::retry(sharers);
  if (machine_.ended()) try_inert();
}

link_road link_core::road() const {
  link_road now{.shared_memory = machine_.shares() && !port_lost_, .why_not = unshared_because_};
  if (port_ != nullptr) {
    now.wakeups_sent = port_->counted().wakeups_sent;
    now.wakeups_spared = port_->counted().wakeups_spared;
    now.full_stalls = port_->counted().full_stalls;
  }
  if (arena_ != nullptr) {
    now.lent_bytes = arena_->lent_bytes();
    now.files_passed = arena_->files_passed();
  }
  return now;
}

// Errors: throws what keeps the channel where it is.
void link_core::open_ring(std::size_t channel) {
  if (const std::error_code error = port_->reserve(channel)) {
    throw std::system_error(error, "shared memory: cannot reserve");
  }
  pipes_[channel].start(port_->open(channel, pipes_[channel]));
  machine_.attached(channel, true);
  touch();
}

// The peer writes into these rings from now on. A server has not moved there itself yet.
void link_core::see_moved(unsigned channels) noexcept {
  if (port_ == nullptr) return;
  for (; channels != 0; channels &= channels - 1) {
    const auto channel = static_cast<std::size_t>(std::countr_zero(channels));
    pipe& in = pipes_[ring_pipe(channel)];
    if (!in.open()) {
      try {
        in.start(port_->open(channel, in));
        machine_.attached(channel, true);
      } catch (const std::bad_alloc&) {
        return machine_.fail(errc::resource_exhausted, "no memory for a ring");
      }
    }
    if (in.usable()) in.read();
  }
  touch();
}

// While the peer's MOVED is still in pipe 0, so is what it had said before; if it is dead, that
// pipe ends, too, and is read to its end first.
//
// A server that was not asked to move yet may have a client that could not share, and lives: it
// goes on over its sockets. A client has moved by itself, and nobody wakes it any more.
void link_core::on_port_lost(std::error_code why) noexcept {
  if (pipes_[wire::shared_main].reading()) {
    machine_.pipe_ended(wire::shared_main, why);
    pipes_[wire::shared_main].close();  // nobody reads last words there
  } else if (registry_ == nullptr) {
    machine_.pipe_deaf(wire::shared_main, why, home_.now());
  } else {
    port_lost_ = true;
  }
  dispatch();
}

void link_core::drop_port() noexcept {
  port_lost_ = false;
  if (port_ != nullptr) shm::port::abandon(std::exchange(port_, nullptr));
  if (arena_ == nullptr) return;
  machine_.lend_from(nullptr);
  std::exchange(arena_, nullptr)->abandon();
  channel_core::retry(borrowers);
}

void link_core::on_let_go(std::uint64_t at) noexcept {
  machine_.give_back(at);
  touch();
}

void link_core::on_let_go_elsewhere() noexcept {
  const std::lock_guard guard(mutex_);
  ask_to_collect();
}

// ---- the turn -------------------------------------------------------------------------------

void link_core::queue_flush() noexcept {
  if (inert_) return;
  flush_queued_ = true;
  home_.at_turn_end(flush_work_);
}

void link_core::begin_flush(std::size_t channel) noexcept {
  queue_flush();
  if (port_ != nullptr) flush_ring(machine_.pipe_of(channel));
}

bool link_core::send_to_ring(std::size_t channel, std::size_t lane,
                             std::span<const std::byte> bytes,
                             const message_header& header) noexcept {
  shm::ring_stream* const ring = pipes_[machine_.pipe_of(channel)].ring();
  if (ring == nullptr) return false;
  std::size_t frame = 0;
  const bool sent = machine_.send_directly(lane, bytes, header, [&](std::size_t room) {
    frame = room;
    return ring->place(room);
  });
  if (!sent) return false;
  ring->commit(frame);
  queue_flush();
  return true;
}

void link_core::run_flush(work& item) noexcept {
  static_cast<link_work&>(item).owner.flush();
}

// Bulk after the others: until the system has copied a slice of it nothing else leaves. The control
// pipe once more at the end: what the others have just framed may let it say END or CLOSE.
void link_core::flush() noexcept {
  flush_queued_ = false;
  if (port_ != nullptr && !machine_.may_have_output() && !machine_.has_happened() &&
      !machine_.ended()) {
    return;  // send_to_ring() has done it all
  }
  for (const std::size_t each : flush_order) {
    if ((open_pipes_ & 1U << each) != 0) pipes_[each].flush();
  }
  pipes_[machine_.main_pipe()].flush();
  if (!share_asked_ && origin_.share) consider_sharing(false);
  // What left at once may have let others say something: a channel that has moved. Before
  // dispatch(), which may be our end.
  touch_for_output();
  dispatch();
}

// The machine was told something: whoever waits looks again, and what it has to say leaves.
void link_core::settle() noexcept {
  dispatch();
  touch_for_output();
}

void link_core::touch_for_output() noexcept {
  if (flush_queued_ || !machine_.may_have_output()) return;
  for (unsigned left = open_pipes_; left != 0; left &= left - 1) {
    if (pipes_[static_cast<std::size_t>(std::countr_zero(left))].wants_flush()) return touch();
  }
}

void link_core::dispatch() noexcept {
  if (dispatching_) return;
  dispatching_ = true;
  bool rare = false;
  while (machine_.has_happened()) {
    const wire::happenings now = machine_.take_happenings();
    for (unsigned left = now.readable | now.writable | now.flushed; left != 0; left &= left - 1) {
      const auto i = static_cast<std::size_t>(std::countr_zero(left));
      const unsigned bit = 1U << i;
      if ((now.readable & bit) != 0) channels_[i].readable();
      if ((now.writable & bit) != 0) channels_[i].writable();
      if ((now.flushed & bit) != 0) channels_[i].flushed();
    }
    if (!now.any_rare()) continue;
    rare = true;
    dispatch_rare(now);
  }
  dispatching_ = false;
  if (rare || !timer_.armed()) rearm();
  if (machine_.ended()) finish_up();
}

void link_core::dispatch_rare(const wire::happenings& now) noexcept {
  if (now.attach_wanted != 0) {
    attach_wanted_ |= now.attach_wanted;
    if (!attach_timer_.armed()) home_.arm(attach_timer_, home_.now() + attach_pause);
  }
  if (now.moved != 0) see_moved(now.moved);
  if (now.in_memory) channel_core::retry(sharers);
  if (now.established && close_wanted_) close();
  if (now.established || now.broken || now.ended) {
    note_change();
    channel_core::retry(changers);
    channel_core::retry(sharers);
  }
  if (now.established || now.ended) {
    channel_core::retry(openers);
    channel_core::retry(greeters);
  }
  if (now.ended) {
    channel_core::retry(enders);
    channel_core::retry(borrowers);
  }
  if (now.broken) on_broken();
}

// The timer may fire early: deadlines only move away while the peer is heard.
void link_core::rearm() noexcept {
  if (linger_ || !joined_) return;
  const auto deadline = machine_.next_deadline();
  if (deadline == clock::time_point::max()) {
    if (timer_.armed()) home_.disarm(timer_);
    return;
  }
  if (timer_.armed()) {
    if (timer_.deadline <= deadline) return;
    home_.disarm(timer_);
  }
  home_.arm(timer_, deadline);
}

void link_core::on_timer(timer& entry) noexcept {
  link_core& self = static_cast<link_timer&>(entry).owner;
  if (self.linger_) return self.close_pipes();
  self.let_go_.settle();  // copies of payloads may have gone elsewhere since
  self.machine_.tick(self.home_.now());
  self.dispatch();
  self.touch();
}

// ---- one connection after another -----------------------------------------------------------

link::status link_core::status() const noexcept {
  using condition = link::condition;
  const auto now = machine_.ended()         ? condition::ended
                   : machine_.offline()     ? condition::offline
                   : machine_.established() ? condition::open
                                            : condition::opening;
  return {now, machine_.connections(), machine_.resumed()};
}

// Said once each: attempts that fail change nothing.
void link_core::note_change() noexcept {
  const bool is_offline = machine_.offline() && !machine_.ended();
  if (std::exchange(was_offline_, is_offline) == is_offline) return;
  const auto note = [this](log_level level, const auto& make_rest) {
    home_.runtime().log(level, "link", [&] { return "link to " + origin_.peer + make_rest(); });
  };
  if (is_offline) {
    const bool lasted = home_.now() - online_since_ > options_.backoff_most;
    short_lived_ = lasted ? 0 : short_lived_ + 1;
    note(log_level::warning,
         [this] { return " has lost its connection: " + machine_.broken_by().text(); });
  } else if (machine_.ended()) {
    note(log_level::warning, [this] { return " is lost: " + machine_.why().text(); });
  } else {
    online_since_ = home_.now();
    note(log_level::info, [this] {
      return std::string(" is connected again") +
             (machine_.resumed() ? ", resumed" : ", in a new session");
    });
  }
}

void link_core::on_broken() noexcept {
  for (auto& each : attachers_) each.reset();
  if (attach_timer_.armed()) home_.disarm(attach_timer_);
  attach_wanted_ = attach_later_ = 0;
  sharer_.reset();
  share_asked_ = false;
  unshared_because_.clear();
  for (auto& each : pipes_) each.close();
}

// What is half written or half read stays where it is until nobody touches it any more.
void link_core::on_pipes_closed() noexcept {
  drop_port();
  if (!machine_.offline() || machine_.ended()) return;
  machine_.leave_connection(home_.now());
  if (comeback_ != nullptr) return welcome_back();
  rearm();
  channel_core::retry(greeters);
  start_reaching();
}

void link_core::start_reaching() noexcept {
  if (!origin_.reach_again || std::exchange(reaching_, true)) return;
  try {
    origin_.reach_again(*this);
  } catch (const std::bad_alloc&) {
    machine_.fail(errc::resource_exhausted, "no memory to connect again");
    dispatch();
  }
}

void link_core::end_reaching() noexcept {
  reaching_ = false;
  if (is_between_connections() && !machine_.ended()) start_reaching();
  end_visit();
}

bool link_core::reconnect(platform::native_handle socket) {
  wire::secret fresh_id{};
  home_.runtime().fill_random(fresh_id.data(), fresh_id.size());
  if (!machine_.greet(fresh_id, home_.now())) return false;
  start(socket, {});
  return true;
}

bool link_core::resume(platform::native_handle socket, const wire::hello& peer,
                       std::vector<std::byte> rest) {
  if (!machine_.may_resume(peer)) return false;
  auto later = std::make_unique<comeback>(comeback{socket, peer, std::move(rest)});
  refuse_comeback();
  comeback_ = std::move(later);
  if (open_pipes_ == 0) {
    welcome_back();
  } else {
    machine_.break_off(errc::link_lost, "the peer has connected anew");
    dispatch();
  }
  return true;
}

void link_core::welcome_back() noexcept {
  const std::unique_ptr<comeback> peer = std::move(comeback_);
  wire::secret attach_secret{};
  home_.runtime().fill_random(attach_secret.data(), attach_secret.size());
  if (registry_ != nullptr) registry_->renew(*this, attach_secret);
  machine_.welcome_back(peer->hello, attach_secret, home_.now());
  start(peer->socket, peer->rest);
}

void link_core::refuse_comeback() noexcept {
  if (comeback_ == nullptr) return;
  platform::close(comeback_->socket);
  comeback_.reset();
}

// ---- the end --------------------------------------------------------------------------------

// An early link may have sent already what its peer shall take: it closes once it is open.
void link_core::close() noexcept {
  if (!machine_.established() && !machine_.ended() && !machine_.offline()) {
    if (options_.early) {
      close_wanted_ = true;
      return;
    }
    machine_.fail(errc::cancelled, "closed during the handshake");
  }
  machine_.close(home_.now());
  dispatch();
  touch();
}

void link_core::on_abandon() noexcept {
  machine_.fail(errc::link_lost, "the runtime has ended");
  dispatch();
  close_pipes();
}

// The machine has ended. Its last words leave first, if they can, within a short time.
void link_core::finish_up() noexcept {
  for (auto& each : attachers_) each.reset();
  sharer_.reset();
  if (attach_timer_.armed()) home_.disarm(attach_timer_);
  refuse_comeback();
  unreachable_.request_stop();
  pipe& last = pipes_[machine_.main_pipe()];
  last.flush();  // now: whoever waited for the end may go on to something long
  if (registry_ != nullptr) std::exchange(registry_, nullptr)->remove(*this);
  if (last.usable() && (last.writing() || machine_.has_output(machine_.main_pipe()))) {
    if (!std::exchange(linger_, true)) {
      if (timer_.armed()) home_.disarm(timer_);
      home_.arm(timer_, home_.now() + linger_time);
      touch();
    }
    return;
  }
  close_pipes();
}

void link_core::close_pipes() noexcept {
  if (timer_.armed()) home_.disarm(timer_);
  linger_ = true;  // nothing arms it again
  for (auto& each : pipes_) each.close();
  try_inert();
}

void link_core::try_inert() noexcept {
  if (inert_ || !machine_.ended() || flush_queued_) {
    if (flush_queued_ && machine_.ended()) touch();
    return;
  }
  for (const auto& each : pipes_) {
    if (each.open()) return;
  }
  // What was to be forwarded may be our own messages, which would keep us for ever.
  machine_.drop_output();
  if (flush_queued_) return;  // it comes back
  let_go_.settle();
  {
    const std::lock_guard guard(mutex_);
    if (visits_ != 0) return;  // end_visit() comes back
    if (timer_.armed()) home_.disarm(timer_);
    inert_ = true;
    if (joined_) {
      joined_ = false;
      home_.link_closed();
      home_.remove_component(*this);
    }
    if (!unneeded()) return;
  }
  delete this;
}

// ---- what others let go of ------------------------------------------------------------------

bool link_core::unneeded() const noexcept {
  return inert_ && handles_.load(std::memory_order_acquire) == 0 &&
         delivered_ == released_ + returned_.messages;
}

// The last handle goes under the mutex: otherwise home could find the core unneeded, and delete it,
// between the count and the lock.
void link_core::release_handle() noexcept {
  auto held = handles_.load(std::memory_order_relaxed);
  while (held > 1) {
    if (handles_.compare_exchange_weak(held, held - 1, std::memory_order_release,
                                       std::memory_order_relaxed)) {
      return;  // release pairs with the acquire in unneeded()
    }
  }
  if (birthmark_.is_inherited()) return;
  {
    const std::lock_guard guard(mutex_);
    if (handles_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    if (!inert_) {
      ++visits_;
      home_.post(dropped_work_, priority::control);
      return;
    }
    if (!unneeded()) return;
  }
  delete this;
}

void link_core::run_dropped(work& item) noexcept {
  link_core& self = static_cast<link_work&>(item).owner;
  self.close();
  self.end_visit();
}

bool link_core::begin_visit() noexcept {
  const std::lock_guard guard(mutex_);
  if (inert_) return false;
  ++visits_;
  return true;
}

void link_core::end_visit() noexcept {
  {
    const std::lock_guard guard(mutex_);
    --visits_;
  }
  try_inert();
}

void link_core::release_message(block* used, std::uint32_t lane_and_flag,
                                std::uint64_t cost) noexcept {
  if (!at_home() || inert_) return release_elsewhere(used, lane_and_flag, cost);
  if (used != nullptr) let_go_.add(*used);
  const bool reassembled = (lane_and_flag & reassembled_flag) != 0;
  ++released_;
  if (machine_.release(lane_and_flag & ~reassembled_flag, cost, reassembled)) touch();
}

// Not on home's thread, or when the link is only memory.
void link_core::release_elsewhere(block* used, std::uint32_t lane_and_flag,
                                  std::uint64_t cost) noexcept {
  if (used != nullptr) release(used);
  if (birthmark_.is_inherited()) return;
  const bool reassembled = (lane_and_flag & reassembled_flag) != 0;
  const std::size_t lane = lane_and_flag & ~reassembled_flag;
  {
    const std::lock_guard guard(mutex_);
    ++returned_.messages;
    if (!inert_) {
      (reassembled ? returned_.reassembled_cost : returned_.cost)[lane] += cost;
      return ask_to_collect();
    }
    if (!unneeded()) return;
  }
  delete this;
}

void link_core::ask_to_collect() noexcept {
  if (std::exchange(collect_posted_, true)) return;
  ++visits_;
  home_.post(collect_work_, priority::control);
}

void link_core::run_collect(work& item) noexcept {
  link_core& self = static_cast<link_work&>(item).owner;
  self.collect();
  self.end_visit();
}

void link_core::collect() noexcept {
  let_go_.settle();  // what was let go of elsewhere may have been the rest of a block
  returned taken;
  {
    const std::lock_guard guard(mutex_);
    taken = std::exchange(returned_, {});
    collect_posted_ = false;
    released_ += taken.messages;
  }
  for (std::size_t lane = 0; lane < wire::lane_count; ++lane) {
    if (taken.cost[lane] != 0) machine_.release(lane, taken.cost[lane], false);
    if (taken.reassembled_cost[lane] != 0) {
      machine_.release(lane, taken.reassembled_cost[lane], true);
    }
  }
  if (arena_ != nullptr) arena_->collect();
  dispatch();
  touch();
}

void lease::end(block* used) noexcept {
  owner_->release_message(used, lane_index_, cost_);
}

}  // namespace hawser::detail
