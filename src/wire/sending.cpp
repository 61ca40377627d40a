// SPDX-License-Identifier: Apache-2.0
// The sending half of wire::machine: credit, lanes, slices, and which frame goes next.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <new>

#include "wire/machine.hpp"
#include "wire/planted.hpp"

namespace hawser::wire {
namespace {

constexpr std::size_t out_block_bytes = 64 << 10;
constexpr std::size_t first_block_bytes = 256;  // for a handshake or a ping: some send no more
constexpr std::size_t copy_below = 4096;         // smaller payloads are gathered by copying
constexpr std::size_t framed_max_own = 1 << 20;  // framed but unsent, on a pipe of its own
constexpr std::size_t framed_max_shared = 128 << 10;
constexpr std::size_t prefix_bound = 64;  // no prefix of ours is longer
// Of the smallest first slice of a message that is larger than its credit.
constexpr std::size_t first_slice_cost = slice_bytes_min + prefix_bound + message_overhead;
constexpr std::size_t not_ready = std::numeric_limits<std::size_t>::max();
constexpr std::array<std::byte, 8> zeros{};
// Virtual time runs slower for the more urgent: weights 64, 16, 4, 1.
constexpr std::array<unsigned, channel_count> time_shift{0, 2, 4, 6};

constexpr bool is_shared(std::size_t pipe) noexcept {
  return pipe == 0 || pipe == shared_main;
}

constexpr std::size_t framed_max(std::size_t pipe) noexcept {
  return is_shared(pipe) ? framed_max_shared : framed_max_own;
}

data_header header_of(std::size_t lane, const message_header& header) noexcept {
  data_header wire_header;
  wire_header.channel = lane / 2;
  wire_header.flags = lane % 2 == 1 ? flag::urgent : 0;
  wire_header.id = header.id;
  wire_header.codec = static_cast<std::uint64_t>(header.encoding);
  return wire_header;
}

}  // namespace

// ---- admission ------------------------------------------------------------------------------

verdict machine::admit_any(std::size_t lane, std::size_t bytes) const noexcept {
  const std::size_t channel = lane / 2;
  if (ended() || closing_ || tx_channel_[channel].finished) return verdict::ended;
  if (offline_) return verdict::blocked;
  return bytes > peer_.message_bytes[channel] ? verdict::too_large : verdict::accepted;
}

bool machine::is_full(std::size_t lane) const noexcept {
  const tx_lane& to = tx_[lane];
  return to.growing || to.uncovered != 0 ||
         to.queued_bytes + to.kept_bytes + unsent(out_[tx_channel_[lane / 2].pipe]) >=
             local_.queue_bytes;
}

verdict machine::admit(std::size_t lane, std::size_t bytes, const message_header& header,
                       std::uint64_t& cost) noexcept {
  tx_lane& to = tx_[lane];
  if (const verdict so_far = admit_any(lane, bytes); so_far != verdict::accepted) {
    to.blocked = to.blocked || so_far == verdict::blocked;
    return so_far;
  }
  const std::uint64_t single =
      frame_cost(data_prefix_bytes(header_of(lane, header)), bytes) + message_overhead;
  const std::uint64_t single_max = single_cost_max(peer_.window[lane]);
  const bool is_single = bytes <= slice_bytes_shared && single <= single_max;
  if (!is_single && established_ && (lane % 2 == 1 || single_max < first_slice_cost)) {
    return verdict::too_large;  // urgent messages are one frame, and slices need a window
  }
  cost = is_single ? single : message_cost_bound(bytes);
  const auto left = static_cast<std::uint64_t>(available(lane));
  if (is_full(lane)) {
    to.blocked = true;
    return verdict::blocked;
  }
  if (left >= cost) return verdict::accepted;
  // What will fit once credit returns waits for it; only what cannot fit starts to leave before.
  const bool never_fits = !is_single && cost > single_max;
  if (never_fits && established_ && left >= first_slice_cost) return verdict::started;
  to.blocked = true;
  return verdict::blocked;
}

bool machine::may_frame_now(std::size_t lane) const noexcept {
  const tx_channel& channel = tx_channel_[lane / 2];
  const tx_pipe& pipe = out_[channel.pipe];
  if (channel.moving || channel.move_wanted || leaving(channel.pipe) || pipe.backlog != 0 ||
      resends(lane))
    return false;
  if (unsent(pipe) >= framed_max(channel.pipe)) return false;
  const bool shared_bulk = lane / 2 == channel_count - 1 && is_shared(channel.pipe);
  return !shared_bulk ||
         tx_[lane].spent - tx_[lane].peer_received < shared_bulk_slices * slice_bytes_shared;
}

// ---- the short way --------------------------------------------------------------------------

// Frames of the short way join the last piece as long as less than this is framed and unsent.
std::size_t machine::quick_limit() const noexcept {
  return std::min(shared_ ? ring_flush_bytes : framed_max_shared, local_.queue_bytes);
}

// What admit() and may_frame_now() would look at, but the credit and the size of one message.
bool machine::open_way(tx_lane& to, std::size_t lane) noexcept {
  const std::size_t channel = lane / 2;
  const tx_channel& state = tx_channel_[channel];
  tx_pipe& pipe = out_[state.pipe];
  const bool shared_bulk = channel == channel_count - 1 && is_shared(state.pipe);
  if (pipe.backlog != 0 || unsent(pipe) >= quick_limit() || state.moving || state.move_wanted ||
      leaving(state.pipe) || state.finished || closing_ || offline_ || ended() || shared_bulk ||
      resends(lane)) {
    return false;
  }
  use(channel);
  to.quick_until = to.granted - to.reserved;
  to.quick_bytes = std::min<std::size_t>(copy_below - 1, peer_.message_bytes[channel]);
  to.quick_pipe = &pipe;
  to.quick_start = plain::start(lane, 0);
  return true;
}

void machine::close_ways() noexcept {
  for (auto& lane : tx_) lane.quick_until = 0;
}

// The way is open; all that is missing is memory behind the last piece.
bool machine::send_in_new_piece(tx_lane& to, std::span<const std::byte> bytes,
                                std::size_t padded) noexcept {
  tx_pipe& pipe = *to.quick_pipe;
  if (unsent(pipe) >= quick_limit()) return false;
  try {
    frame_plain(to, bytes, padded, room(pipe, padded));
    return true;
  } catch (const std::bad_alloc&) {
    return false;  // who takes more care fails for the same reason, and says so
  }
}

verdict machine::send(std::size_t lane, std::span<const std::byte> bytes,
                      const message_header& header) noexcept {
  if (send_quickly(lane, bytes, header)) return verdict::accepted;
  return send_with_care(lane, bytes, header, true);
}

verdict machine::send_at_once(std::size_t lane, std::span<const std::byte> bytes,
                              const message_header& header) noexcept {
  if (send_quickly(lane, bytes, header)) return verdict::accepted;
  return send_with_care(lane, bytes, header, false);
}

verdict machine::send_with_care(std::size_t lane, std::span<const std::byte> bytes,
                                const message_header& header, bool may_start) noexcept {
  tx_lane& to = tx_[lane];
  try {
    if (header.id == 0 && header.encoding == codec::raw && open_way(to, lane)) {
      const std::size_t padded = align8(plain::prefix_bytes + bytes.size());
      const bool fits = bytes.size() <= to.quick_bytes &&
                        to.spent + padded + message_overhead <= to.quick_until;
      const std::size_t channel = lane / 2;
      // The first use of a channel is noticed where it is looked for, not on the short way.
      if (!server_ && channel != 0 && !tx_channel_[channel].used) to.quick_until = 0;
      if (fits) {
        frame_plain(to, bytes, padded, room(*to.quick_pipe, padded));
        return verdict::accepted;
      }
    }
    if (bytes.size() >= local_.lend_from && lends(lane / 2)) {
      if (const auto decided = lend(lane, bytes, {}, header)) return *decided;
    }
    std::uint64_t cost = 0;
    const verdict decided = admit(lane, bytes.size(), header, cost);
    if (decided == verdict::started && !may_start) return verdict::blocked;
    if (decided != verdict::accepted && decided != verdict::started) return decided;
    if (decided == verdict::accepted && bytes.size() <= slice_bytes_shared && may_frame_now(lane)) {
      frame_now(lane, bytes, header);
    } else {
      queue(lane, message(shared_buffer(buffer::copy_of(bytes)), header),
            decided == verdict::accepted ? cost : 0);
    }
    return decided;
  } catch (const std::bad_alloc&) {
    fail(errc::resource_exhausted, "no memory to send a message");
    return verdict::ended;
  }
}

verdict machine::send(std::size_t lane, message& owned) noexcept {
  if (owned.size() < copy_below) {
    const verdict decided = send_quickly(lane, owned.bytes(), owned.header())
                                ? verdict::accepted
                                : send_with_care(lane, owned.bytes(), owned.header(), true);
    if (decided == verdict::accepted) {
      static_cast<void>(message(std::move(owned)));  // its credit returns now
    }
    return decided;
  }
  try {
    if (lends(lane / 2)) {
      const auto decided = lend(lane, owned.bytes(), owned.payload(), owned.header());
      if (decided == verdict::accepted) static_cast<void>(message(std::move(owned)));
      if (decided.has_value()) return *decided;
    }
    std::uint64_t cost = 0;
    const verdict decided = admit(lane, owned.size(), owned.header(), cost);
    if (decided != verdict::accepted && decided != verdict::started) return decided;
    queue(lane, std::move(owned), decided == verdict::accepted ? cost : 0);
    return decided;
  } catch (const std::bad_alloc&) {
    fail(errc::resource_exhausted, "no memory to send a message");
    return verdict::ended;
  }
}

// What is lent costs the peer no memory of its own: its credit is that of a message without bytes.
std::optional<verdict> machine::lend(std::size_t lane, std::span<const std::byte> bytes,
                                     const shared_buffer& payload, const message_header& header) {
  constexpr std::uint64_t cost = data_prefix_max + message_overhead;
  const bool is_lent = lender_->has_lent(payload);
  if (!is_lent && (bytes.size() < local_.lend_from || !lender_->may_lend(bytes.size()))) return {};
  if (const verdict so_far = admit_any(lane, bytes.size()); so_far != verdict::accepted) return {};
  // Over another connection it may have to go by itself.
  const std::uint64_t alone = data_prefix_max + bytes.size() + message_overhead;
  if (lane % 2 == 1 && alone > single_cost_max(peer_.window[lane])) return {};
  if (is_full(lane) || static_cast<std::uint64_t>(available(lane)) < cost) return {};
  if (is_lent && !lender_->prepare(payload)) return {};
  shared_buffer copied;
  if (!is_lent) {
    auto copy = lender_->loan(bytes.size());
    if (!copy.has_value()) return {};
    std::memcpy(copy->data(), bytes.data(), bytes.size());
    copied = std::move(*copy);
  }
  const shared_buffer& there = is_lent ? payload : copied;
  if (may_frame_now(lane)) {
    tx_[lane].spent += frame_lent(lane, there, header);
    ++tx_[lane].accepted;
    ++tx_[lane].framed;
    use(lane / 2);
  } else {
    queue(lane, message(there, header), cost, true);
  }
  return verdict::accepted;
}

// Returns what it cost.
std::uint64_t machine::frame_lent(std::size_t lane, const shared_buffer& payload,
                                  const message_header& header) {
  data_header wire_header = header_of(lane, header);
  wire_header.flags |= flag::lent;
  wire_header.total = payload.size();
  wire_header.at = lender_->place_of(payload);
  const std::size_t prefix = data_prefix_bytes(wire_header);
  std::byte* const frame = room(out_[tx_channel_[lane / 2].pipe], prefix);
  static_cast<void>(encode_data_prefix({frame, prefix}, wire_header, 0));
  lender_->hand_over(payload);
  return prefix + message_overhead;
}

void machine::queue(std::size_t lane, message&& owned, std::uint64_t reserve, bool lent) {
  tx_lane& to = tx_[lane];
  const std::size_t channel = lane / 2;
  outbound& added = to.backlog.emplace(std::move(owned), reserve);
  added.lent = lent;
  to.queued_bytes += added.weight();
  to.reserved += reserve;
  if (reserve != 0) {
    ++to.accepted;
  } else {
    to.growing = true;
  }
  tx_pipe& pipe = out_[tx_channel_[channel].pipe];
  auto& time = tx_channel_[channel].virtual_time;
  time = std::max(time, pipe.virtual_now);
  ++pipe.backlog;
  close_ways();
  use(channel);
}

void machine::frame_now(std::size_t lane, std::span<const std::byte> bytes,
                        const message_header& header) {
  tx_lane& to = tx_[lane];
  const data_header wire_header = header_of(lane, header);
  const std::size_t prefix = data_prefix_bytes(wire_header);
  const std::size_t end = prefix + bytes.size();
  const std::size_t padded = align8(end);
  std::byte* frame = room(out_[tx_channel_[lane / 2].pipe], padded);
  static_cast<void>(encode_data_prefix({frame, prefix}, wire_header, bytes.size()));
  if (!bytes.empty()) std::memcpy(frame + prefix, bytes.data(), bytes.size());
  std::memset(frame + end, 0, padded - end);
  to.spent += padded + message_overhead;
  ++to.accepted;
  ++to.framed;
  use(lane / 2);
}

// A channel that is used deserves a pipe of its own, if both sides want several.
void machine::first_use(std::size_t channel) noexcept {
  if (!established_) return;
  tx_channel_[channel].used = true;
  if (attach_allowed(channel)) happened_.attach_wanted |= 1U << channel;
}

// ---- what is framed and not yet written -----------------------------------------------------

// Counts what has joined the last piece.
void machine::settle(tx_pipe& pipe) noexcept {
  const auto joined = static_cast<std::size_t>(pipe.next - pipe.settled);
  if (joined == 0) return;
  auto& last = pipe.pieces.back().bytes;
  last = {last.data(), last.size() + joined};
  pipe.unsent_bytes += joined;
  pipe.appended += joined;
  pipe.settled = pipe.next;
}

void machine::end_piece(tx_pipe& pipe) noexcept {
  settle(pipe);
  pipe.until = pipe.next;
}

std::byte* machine::room(tx_pipe& pipe, std::size_t bytes) {
  end_piece(pipe);
  const bool joins = pipe.pieces.size() > pipe.in_flight && pipe.pieces.back().block != nullptr &&
                     pipe.pieces.back().bytes.data() + pipe.pieces.back().bytes.size() == pipe.next;
  if (!joins || bytes > static_cast<std::size_t>(pipe.end - pipe.next)) {
    if (pipe.open != nullptr && pipe.pieces.empty() &&
        pipe.open->references.load(std::memory_order_acquire) == 1) {
      pipe.next = pipe.open->data();  // all of it was written: start over in warm memory
    }
    if (bytes > static_cast<std::size_t>(pipe.end - pipe.next)) {
      const std::size_t usual = pipe.open == nullptr ? first_block_bytes : out_block_bytes;
      detail::block* fresh = detail::allocate_block(std::max(bytes, usual));
      if (pipe.open != nullptr) let_go(pipe.open);
      pipe.open = fresh;
      pipe.next = fresh->data();
      pipe.end = pipe.next + fresh->capacity;
    }
    pipe.until = pipe.settled = pipe.next;
    piece& added = pipe.pieces.emplace();
    added.bytes = {pipe.next, 0};
    added.block = pipe.open;
    keep(pipe.open);
  }
  std::byte* const start = pipe.next;
  pipe.next += bytes;
  settle(pipe);
  const std::size_t most = quick_limit();
  const std::size_t more = most - std::min(most, pipe.unsent_bytes);
  pipe.until = pipe.next + std::min(more, static_cast<std::size_t>(pipe.end - pipe.next));
  return start;
}

// Of a link on which nothing was said for long.
void machine::shed_memory() noexcept {
  if (lender_ != nullptr) lender_->shed();
  for (tx_pipe& pipe : out_) {
    if (!pipe.pieces.empty() || pipe.open == nullptr) continue;
    let_go(std::exchange(pipe.open, nullptr));
    pipe.next = pipe.until = pipe.settled = pipe.end = nullptr;
  }
}

void machine::append(std::size_t pipe, std::span<const std::byte> bytes) {
  std::memcpy(room(out_[pipe], bytes.size()), bytes.data(), bytes.size());
}

void machine::append_piece(tx_pipe& pipe, std::span<const std::byte> bytes, message&& owned) {
  end_piece(pipe);
  piece& added = pipe.pieces.emplace();
  added.bytes = bytes;
  added.owned = std::move(owned);
  pipe.lends = true;
  pipe.unsent_bytes += bytes.size();
  pipe.appended += bytes.size();
}

std::size_t machine::gather(std::size_t pipe, std::size_t most) noexcept {
  tx_pipe& out = out_[pipe];
  if (out.in_flight != 0 || (offline_ && !greeting_)) return 0;
  try {
    if (!ended() && pipe == 0 && main_move_wanted_) move_main();
    if (!ended() && pipe == tx_main_) pump_control();
    if (!ended() && !offline_ && out.backlog != 0) {
      pump(pipe);
      if (pipe == tx_main_) pump_control();  // the last backlog may have left just now
    }
  } catch (const std::bad_alloc&) {
    fail(errc::resource_exhausted, "no memory to frame a message");
  }
  end_piece(out);
  out.in_flight = std::min(most, out.pieces.size());
  out.in_flight_bytes = 0;
  out.marked = out.in_flight == out.pieces.size();
  if (out.marked) {
    out.in_flight_bytes = out.unsent_bytes;
    for (unsigned left = out.lanes; left != 0; left &= left - 1) {
      const auto lane = static_cast<std::size_t>(std::countr_zero(left));
      out.marks[lane] = tx_[lane].framed;
    }
  } else {
    for (std::size_t i = 0; i < out.in_flight; ++i) {
      out.in_flight_bytes += out.pieces.at(i).bytes.size();
    }
  }
  return out.in_flight;
}

void machine::written(std::size_t pipe) noexcept {
  tx_pipe& out = out_[pipe];
  for (; out.in_flight > 0; --out.in_flight) {
    if (out.pieces.front().block != nullptr) let_go(out.pieces.front().block);
    out.pieces.pop();
  }
  out.lends = out.lends && !out.pieces.empty();
  out.unsent_bytes -= out.in_flight_bytes;
  out.written += out.in_flight_bytes;
  for (unsigned left = out.lanes; left != 0; left &= left - 1) {
    const auto lane = static_cast<std::size_t>(std::countr_zero(left));
    if (out.marked && tx_[lane].sent < out.marks[lane]) {
      tx_[lane].sent = out.marks[lane];
      happened_.flushed |= 1U << (lane / 2);
    }
    if (std::exchange(tx_[lane].blocked, false)) happened_.writable |= 1U << (lane / 2);
  }
  if (main_moving_ && pipe == 0) finish_main_move();
  if (moving_ != 0 && pipe == tx_main_) finish_moves();
}

bool machine::awaits_written(std::size_t pipe) const noexcept {
  const tx_pipe& out = out_[pipe];
  if (!out.marked || out.lends || out.backlog != 0 || closing_ || ended()) return true;
  if (pipe == tx_main_ && (moving_ != 0 || may_have_control())) return true;
  if (pipe == 0 && main_moving_) return true;
  for (unsigned left = out.lanes; left != 0; left &= left - 1) {
    if (tx_[static_cast<std::size_t>(std::countr_zero(left))].blocked) return true;
  }
  return false;
}

// Whose MOVED is with the system rides on its own pipe from now on.
void machine::finish_moves() noexcept {
  tx_pipe& out = out_[tx_main_];
  for (std::size_t channel = 1; channel < channel_count; ++channel) {
    tx_channel& state = tx_channel_[channel];
    if (!state.moving || out.written < state.move_position) continue;
    state.moving = false;
    --moving_;
    ride(channel, channel);
  }
}

// From now on, on this pipe. All that was framed is with the system; the old pipe does not mark
// these lanes any more.
void machine::ride(std::size_t channel, std::size_t pipe) noexcept {
  tx_pipe& from = out_[std::exchange(tx_channel_[channel].pipe, pipe)];
  tx_pipe& to = out_[pipe];
  const unsigned lanes = 3U << lane_of(channel, false);
  from.lanes &= ~lanes;
  to.lanes |= lanes;
  for (const std::size_t lane : {lane_of(channel, false), lane_of(channel, true)}) {
    if (std::exchange(tx_[lane].sent, tx_[lane].framed) != tx_[lane].framed) {
      happened_.flushed |= 1U << channel;
    }
  }
  const std::size_t waiting =
      tx_[lane_of(channel, false)].backlog.size() + tx_[lane_of(channel, true)].backlog.size();
  from.backlog -= waiting;
  to.backlog += waiting;
}

void machine::shared() noexcept {
  if (ended() || offline_ || std::exchange(shared_, true)) return;
  if (!server_) want_main_move();
  for (std::size_t channel = 1; channel < channel_count; ++channel) {
    const tx_channel& state = tx_channel_[channel];
    if (state.used && attach_allowed(channel)) happened_.attach_wanted |= 1U << channel;
  }
}

void machine::want_main_move() noexcept {
  main_move_wanted_ = true;
  close_ways();
}

// The last frame on pipe 0. What is said about the link goes to the new pipe at once, where nobody
// looks before MOVED was read; what was framed for channels is first brought to its end.
void machine::move_main() {
  if (moving_ != 0) return;  // they left pipe 0 before
  main_move_wanted_ = false;
  if (closing_ || !established_ || offline_) return;
  append(0, encode_moved(0, shared_main, tx_[0].framed + 1, tx_[1].framed + 1));
  main_moving_ = true;
  main_move_position_ = out_[0].appended;
  tx_main_ = shared_main;
  pipe_open_[shared_main] = true;
}

void machine::finish_main_move() noexcept {
  if (out_[0].written < main_move_position_) return;
  main_moving_ = false;
  out_[shared_main].virtual_now = out_[0].virtual_now;
  for (std::size_t channel = 0; channel < channel_count; ++channel) {
    if (tx_channel_[channel].pipe == 0) ride(channel, shared_main);
  }
  unsaid_ = true;
  happened_.writable = (1U << channel_count) - 1;
  happened_.in_memory = true;
}

void machine::drop_pieces(tx_pipe& pipe) noexcept {
  for (; !pipe.pieces.empty(); pipe.pieces.pop()) {
    if (pipe.pieces.front().block != nullptr) let_go(pipe.pieces.front().block);
  }
  pipe.in_flight = pipe.unsent_bytes = pipe.in_flight_bytes = 0;
  pipe.lends = false;
  pipe.until = pipe.settled = pipe.next;
}

void machine::drop_output() noexcept {
  for (auto& pipe : out_) {
    drop_pieces(pipe);
    pipe.backlog = 0;
  }
  for (auto& lane : tx_) {
    lane.backlog.clear();
    lane.kept_messages.clear();
    lane.queued_bytes = lane.kept_bytes = 0;
  }
  for (auto& lane : rx_) lane.partial = {};
  for (auto& pipe : in_) pipe = {};
}

// Nothing is framed; is there what gather() would frame?
bool machine::would_frame(std::size_t pipe) const noexcept {
  if (ended()) return false;
  if (!offline_ && out_[pipe].backlog != 0 && next_lane(pipe).has_value()) return true;
  if (pipe == 0 && main_move_wanted_ && moving_ == 0) return true;
  if (pipe != tx_main_ || !established_) return false;
  if (said_all() && !has(planted::due_for_ever)) return false;
  if (grants_due_ != 0 || pong_due_.has_value() || !returns_due_.empty()) return true;
  if (!unsaid_) return false;
  bool all_drained = true;
  for (std::size_t channel = 0; channel < channel_count; ++channel) {
    const tx_channel& state = tx_channel_[channel];
    if (state.move_wanted && !leaving(state.pipe)) return true;
    if (state.move_wanted && !closing_) continue;
    if (!drained(channel)) {
      all_drained = false;
    } else if (may_end(channel)) {
      return true;
    }
  }
  return closing_ && !close_sent_ && all_drained;
}

// ---- which frame goes next ------------------------------------------------------------------

bool machine::drained(std::size_t channel) const noexcept {
  // Urgent messages are never abandoned: they are one frame.
  const tx_lane& normal = tx_[lane_of(channel, false)];
  return normal.backlog.size() == (normal.abandoned ? 1U : 0U) &&
         tx_[lane_of(channel, true)].backlog.empty();
}

// CLOSE says the same as END; with an abandoned start under way on another pipe it must.
bool machine::may_end(std::size_t channel) const noexcept {
  const tx_channel& state = tx_channel_[channel];
  return state.finished && !state.end_sent && !close_sent_ &&
         !tx_[lane_of(channel, false)].abandoned;
}

void machine::pump_control() {
  if (!established_) return;
  if (said_all()) {
    pong_due_.reset();
    grants_due_ = 0;
    returns_due_.clear();
    unsaid_ = unsaid_ && has(planted::due_for_ever);
    return;
  }
  for (auto due = std::span(returns_due_); !due.empty();) {
    const std::size_t count = std::min(due.size(), returns_max);
    append(tx_main_, encode_returned(due.first(count)));
    due = due.subspan(count);
  }
  returns_due_.clear();
  if (pong_due_.has_value())
    append(tx_main_, encode_token(kind::pong, *std::exchange(pong_due_, {})));
  if (grants_due_ != 0) {
    std::array<grant, lane_count> due;
    std::size_t count = 0;
    for (std::size_t lane = 0; lane < lane_count; ++lane) {
      if ((grants_due_ & 1U << lane) == 0) continue;
      rx_lane& from = rx_[lane];
      from.reports = from.reports && taken(lane) != from.received;
      raise_grant(lane, std::max(from.granted, grant_target(lane)));
      from.told_received = from.arrived;
      due[count++] = {lane, from.granted, taken(lane), from.arrived};
    }
    grants_due_ = 0;
    append(tx_main_, encode(std::span<const grant>(due).first(count)));
  }
  if (!unsaid_) return;
  unsaid_ = false;
  bool all_drained = true;
  for (std::size_t channel = 0; channel < channel_count; ++channel) {
    tx_channel& state = tx_channel_[channel];
    const auto& normal = tx_[lane_of(channel, false)];
    const auto& urgent_lane = tx_[lane_of(channel, true)];
    if (state.move_wanted && leaving(state.pipe) && !closing_) {
      unsaid_ = true;  // once it rides on the new main pipe
      continue;
    }
    if (state.move_wanted && !closing_) {
      append(tx_main_, encode_moved(channel, channel, normal.framed + 1, urgent_lane.framed + 1));
      state.moving = true;
      ++moving_;
      state.move_position = out_[tx_main_].appended;
    }
    state.move_wanted = false;
    if (!drained(channel)) {
      all_drained = false;
    } else if (may_end(channel)) {
      append(tx_main_, encode_end(channel, normal.framed, urgent_lane.framed));
      state.end_sent = true;
    }
    unsaid_ = unsaid_ || may_end(channel);
  }
  unsaid_ = unsaid_ || (closing_ && !close_sent_);
  if (closing_ && !close_sent_ && (all_drained || has(planted::closed_too_soon))) {
    lane_numbers final_sequences{};
    for (std::size_t lane = 0; lane < lane_count; ++lane) final_sequences[lane] = tx_[lane].framed;
    append(tx_main_, encode_close(errc{}, {}, final_sequences));
    close_sent_ = true;
    check_closed();
  }
}

void machine::pump(std::size_t pipe) {
  while (out_[pipe].backlog != 0 && unsent(out_[pipe]) < framed_max(pipe)) {
    const auto lane = next_lane(pipe);
    if (!lane.has_value()) return;
    frame_slice(*lane);
  }
}

// Urgent lanes first, in the order of the channels; then the channel that has had least, by
// weight. The present is where the frame in service started; a channel that was idle starts there,
// so it neither saves up nor waits for what others have had.
// (Start-time fair queueing, Goyal, Vin, Cheng 1996.)
std::optional<std::size_t> machine::next_lane(std::size_t pipe) const noexcept {
  std::optional<std::size_t> best;
  if (leaving(pipe)) return best;
  for (std::size_t channel = 0; channel < channel_count; ++channel) {
    const tx_channel& state = tx_channel_[channel];
    if (state.pipe != pipe || state.moving || state.move_wanted) continue;
    if (next_slice(lane_of(channel, true)) != not_ready) return lane_of(channel, true);
    if (next_slice(lane_of(channel, false)) == not_ready) continue;
    if (!best.has_value() || state.virtual_time < tx_channel_[*best / 2].virtual_time) {
      best = lane_of(channel, false);
    }
  }
  // An urgent lane of a later channel beats a normal one of an earlier.
  if (best.has_value()) {
    for (std::size_t channel = *best / 2 + 1; channel < channel_count; ++channel) {
      const tx_channel& state = tx_channel_[channel];
      if (state.pipe != pipe || state.moving || state.move_wanted) continue;
      if (next_slice(lane_of(channel, true)) != not_ready) return lane_of(channel, true);
    }
  }
  return best;
}

// How many payload bytes the next frame of the lane may carry now.
std::size_t machine::next_slice(std::size_t lane) const noexcept {
  const tx_lane& from = tx_[lane];
  if (from.backlog.empty() || (from.abandoned && from.backlog.size() == 1)) return not_ready;
  const std::size_t pipe = tx_channel_[lane / 2].pipe;
  const outbound& next = from.backlog.front();
  const std::size_t left = next.owned.size() - next.offset;
  const std::size_t most = std::min<std::size_t>(
      is_shared(pipe) ? slice_bytes_shared : slice_bytes_own, peer_.frame_bytes);
  if (next.lent) return 0;
  std::size_t slice = std::min(left, most);
  if (is_shared(pipe) && lane / 2 == channel_count - 1 &&
      from.spent - from.peer_received >= shared_bulk_slices * slice_bytes_shared) {
    return not_ready;
  }
  return next.covered ? slice : uncovered_slice(lane, next, slice);
}

// The same of a message whose credit is not reserved: all of `wanted` bytes, or what of them is
// worth a frame.
std::size_t machine::uncovered_slice(std::size_t lane, const outbound& next,
                                     std::size_t wanted) const noexcept {
  const auto credit = static_cast<std::uint64_t>(std::max<std::int64_t>(available(lane), 0));
  const std::size_t overhead = next.offset == 0 ? message_overhead : 0;
  const bool is_rest = next.offset + wanted == next.owned.size();
  if (is_rest) {
    const auto header = header_of(lane, next.offset == 0 ? next.owned.header() : message_header{});
    if (frame_cost(data_prefix_bytes(header), wanted) + overhead <= credit) return wanted;
  }
  const std::size_t around = prefix_bound + overhead;
  const std::size_t slice =
      std::min<std::size_t>(wanted, credit > around ? credit - around : 0);
  return lane % 2 == 0 && slice >= slice_bytes_min ? slice : not_ready;
}

// Returns what it cost.
std::uint64_t machine::frame_bytes_of(std::size_t lane, outbound& next, std::size_t slice) {
  const std::size_t size = next.owned.size();
  const bool first = next.offset == 0;
  const bool last = next.offset + slice == size;
  tx_pipe& pipe = out_[tx_channel_[lane / 2].pipe];
  data_header header = header_of(lane, first ? next.owned.header() : message_header{});
  if (!last) header.flags |= flag::continued;
  if (first && !last) header.total = size;
  const std::size_t prefix = data_prefix_bytes(header);
  const std::size_t end = prefix + slice;
  const auto bytes = next.owned.bytes().subspan(next.offset, slice);
  if (first && last && slice < copy_below) {
    std::byte* frame = room(pipe, align8(end));
    static_cast<void>(encode_data_prefix({frame, prefix}, header, slice));
    if (slice != 0) std::memcpy(frame + prefix, bytes.data(), slice);
    std::memset(frame + end, 0, align8(end) - end);
  } else {
    static_cast<void>(encode_data_prefix({room(pipe, prefix), prefix}, header, slice));
    append_piece(pipe, bytes, last ? std::move(next.owned) : message());
    const std::size_t padding = align8(end) - end;
    if (padding != 0) append(tx_channel_[lane / 2].pipe, std::span(zeros).first(padding));
  }
  return frame_cost(prefix, slice) + (first ? message_overhead : 0);
}

void machine::frame_slice(std::size_t lane) {
  tx_lane& from = tx_[lane];
  tx_channel& channel = tx_channel_[lane / 2];
  tx_pipe& pipe = out_[channel.pipe];
  outbound& next = from.backlog.front();
  const std::size_t size = next.owned.size();
  const std::size_t slice = next_slice(lane);
  const std::size_t weight = next.weight();
  const bool last = next.lent || next.offset + slice == size;
  if (last && resends(lane)) {
    from.kept_messages.emplace(next.owned.payload(), next.owned.header());
    from.kept_bytes += size + message_overhead;
  }

  const std::uint64_t cost = next.lent ? frame_lent(lane, next.owned.payload(), next.owned.header())
                                       : frame_bytes_of(lane, next, slice);
  const std::uint64_t reserved = std::min(next.reserve_left, cost);
  next.reserve_left -= reserved;
  from.reserved -= reserved;
  from.spent += cost;
  next.offset += slice;
  pipe.virtual_now = std::max(pipe.virtual_now, channel.virtual_time);
  channel.virtual_time += cost << time_shift[lane / 2];
  if (!last) return;
  from.reserved -= next.reserve_left;
  ++from.framed;
  if (from.growing && from.backlog.size() == 1) {
    from.growing = false;
    ++from.accepted;
    happened_.writable |= 1U << (lane / 2);
  } else if (!next.covered && --from.uncovered == 0) {
    from.blocked = false;
    happened_.writable |= 1U << (lane / 2);
  }
  from.queued_bytes -= weight;
  from.backlog.pop();
  --pipe.backlog;
}

void machine::settle_growth(std::size_t lane) noexcept {
  tx_lane& from = tx_[lane];
  if (!from.growing || from.uncovered != 0) return;
  outbound& last = from.backlog.back();
  const std::uint64_t rest = message_cost_bound(last.owned.size() - last.offset) -
                             (last.offset == 0 ? 0 : message_overhead);
  if (static_cast<std::uint64_t>(available(lane)) < rest) return;
  last.reserve_left = rest;
  last.covered = true;
  from.reserved += rest;
  from.growing = false;
  ++from.accepted;
  happened_.writable |= 1U << (lane / 2);
}

// ---- half-close and moving ------------------------------------------------------------------

void machine::finish(std::size_t channel) noexcept {
  tx_channel_[channel].finished = true;
  unsaid_ = true;
  close_ways();
  happened_.writable |= 1U << channel;
}

bool machine::finished(std::size_t channel) const noexcept {
  return tx_channel_[channel].finished;
}

void machine::attached(std::size_t channel, bool is_ring) noexcept {
  if (is_ring) rings_ |= 1U << channel;
  pipe_open_[channel] = true;
  tx_channel_[channel].move_wanted = true;
  unsaid_ = true;
  close_ways();
}

}  // namespace hawser::wire
