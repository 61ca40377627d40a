// SPDX-License-Identifier: Apache-2.0
// The receiving half of wire::machine: from bytes to messages, and the credit given back.
#include <algorithm>
#include <cstring>
#include <new>

#include "wire/machine.hpp"
#include "wire/planted.hpp"

namespace hawser::wire {
namespace {

constexpr std::size_t frame_start_bytes = 8;
constexpr std::size_t stream_from = 16 << 10;  // frames from this size are filled where they belong
constexpr std::size_t header_bytes_usual = 64;  // most headers of large frames end before
constexpr std::size_t direct_from = 4096;       // a rest below this is not worth a read of its own
constexpr std::size_t shared_report_bytes = 64 << 10;
constexpr std::size_t resume_report_bytes = 64 << 10;  // what may have to be sent again
// A block this small costs little more than what the credit of a message in it accounts for.
constexpr std::size_t unpinned_bytes = 256;
constexpr std::size_t header_room = header_bytes_max - length_bytes;

std::size_t length_of(std::span<const std::byte> frame) noexcept {
  return load_length(frame.data());
}

}  // namespace

void machine::receive(std::size_t pipe, detail::block* filled, std::size_t bytes,
                      clock::time_point now) noexcept {
  if (offline_ && !greeting_) return detail::release(filled);
  heard(now);
  try {
    consume(pipe, filled, bytes);
  } catch (const std::bad_alloc&) {
    fail(errc::resource_exhausted, "no memory to receive a message");
  }
}

// Parses a block to its end. Messages share the block; their references are counted here and noted
// at the end, while ours still keeps it alive.
void machine::consume(std::size_t pipe, detail::block* filled, std::size_t bytes) {
  const std::uint32_t outer_shares = std::exchange(shares_, 0);
  rx_pipe& in = in_[pipe];
  std::byte* const data = filled->data();
  try {
    std::size_t at = 0;
    while (at < bytes && !ended()) {
      const std::span<const std::byte> rest(data + at, bytes - at);
      if (in.held) {
        hold(pipe, rest);
        break;
      }
      if (in.streaming || in.padding_left != 0) {
        at += continue_stream(in, rest);
        if (in.streaming && in.stream_left == 0) end_stream(pipe);
      } else if (!in.staged.empty()) {
        at += continue_staged(pipe, rest);
      } else {
        // Frames start 8-aligned in the stream but the block may start anywhere in it. What lies
        // before `at` is used up, so the rest can move down.
        const std::size_t shift = at % 8;
        if (shift != 0 && shares_ == 0) {
          std::memmove(data + at - shift, data + at, bytes - at);
          at -= shift;
          bytes -= shift;
        }
        at += frames_in_place(pipe, {data + at, bytes - at}, filled);
      }
    }
  } catch (...) {
    end_sharing(filled, outer_shares);
    throw;
  }
  end_sharing(filled, outer_shares);
}

// Nobody else has had a reference to the block: ours becomes those of its messages.
void machine::end_sharing(detail::block* parsed, std::uint32_t outer_shares) noexcept {
  const std::uint32_t shares = std::exchange(shares_, outer_shares);
  if (shares == 0) return detail::release(parsed);
  parsed->references.store(shares, std::memory_order_relaxed);
}

// The usual case of handle_frame() and check_data(): whole messages that break no rule, in a block
// that may be shared. Returns how many bytes they were; what follows needs a closer look.
std::size_t machine::plain_frames(std::size_t pipe, std::span<const std::byte> bytes,
                                  detail::block* block) {
  const std::byte* at = bytes.data();
  const std::byte* const end = at + bytes.size();
  if (reinterpret_cast<std::uintptr_t>(at) % 8 != 0) return 0;
  while (static_cast<std::size_t>(end - at) >= frame_start_bytes) {
    const auto start = load_little_endian<std::uint64_t>(at);
    if (!plain::matches(start)) break;
    const std::size_t lane = plain::lane(start);
    rx_lane& to = rx_[lane];
    plain_run run = run_at(to, pipe, {at, end});
    if (run.left == 0 && open_way(to, lane)) run = run_at(to, pipe, {at, end});
    if (run.left == 0 || !can_share(block)) break;
    const std::byte* const after = std::exchange(run.next, at);
    run.block = block;
    arrived_[lane / 2].of(lane).add(run);
    shares_ += run.left;
    to.arrived += static_cast<std::size_t>(after - at) + run.left * message_overhead;
    to.received += run.left;
    happened_.readable |= 1U << (lane / 2);
    at = after;
  }
  return static_cast<std::size_t>(at - bytes.data());
}

// How many plain frames of one lane begin here, and where they end: what they cost is within what
// may come on the short way.
plain_run machine::run_at(const rx_lane& to, std::size_t pipe,
                          std::span<const std::byte> bytes) noexcept {
  plain_run run{.next = bytes.data()};
  if (to.quick_pipe != pipe) return run;
  const std::byte* const end = bytes.data() + bytes.size();
  auto start = load_little_endian<std::uint64_t>(run.next);
  const auto same_lane = start >> 32;
  std::uint64_t arrived = to.arrived;
  do {
    const std::size_t padded = plain::frame_bytes(start);
    arrived += padded + message_overhead;
    if (padded > static_cast<std::size_t>(end - run.next) ||
        plain::payload_bytes(start) - 1 >= to.quick_bytes || arrived > to.quick_until) {
      break;
    }
    run.next += padded;
    ++run.left;
    if (static_cast<std::size_t>(end - run.next) < frame_start_bytes) break;
    start = load_little_endian<std::uint64_t>(run.next);
  } while (start >> 32 == same_lane);
  return run;
}

bool machine::open_way(rx_lane& to, std::size_t lane) noexcept {
  const std::size_t channel = lane / 2;
  const rx_channel& from = rx_channel_[channel];
  const bool shared_bulk = channel == channel_count - 1 && from.pipe == rx_main_;
  if (!established_ || offline_ || from.end.has_value() || to.partial.active ||
      peer_close_.has_value() || shared_bulk) {
    return false;
  }
  use(channel);
  to.quick_until = to.granted;
  to.quick_bytes = std::min<std::size_t>(stream_from, local_.local.message_bytes[channel]);
  to.quick_pipe = from.pipe;
  return true;
}

std::size_t machine::frames_in_place(std::size_t pipe, std::span<const std::byte> bytes,
                                     detail::block* block) {
  std::size_t at = 0;
  while (bytes.size() - at >= frame_start_bytes) {
    at += plain_frames(pipe, bytes.subspan(at), block);
    const auto rest = bytes.subspan(at);
    if (rest.size() < frame_start_bytes) break;
    const std::size_t length = length_of(rest);
    const std::size_t padded = align8(length_bytes + length);
    if (!plausible(length)) return bytes.size();
    if (padded > rest.size()) {
      if (begin_stream(pipe, rest)) return bytes.size();
      break;
    }
    handle_frame(pipe, rest.first(padded), block);
    if (ended()) return bytes.size();
    if (in_[pipe].held) return at;  // the caller holds the rest, this frame included
    at += padded;
  }
  const auto rest = bytes.subspan(at);
  in_[pipe].staged.assign(rest.begin(), rest.end());
  return bytes.size();
}

bool machine::plausible(std::size_t length) {
  if (length >= 2 && length <= local_.local.frame_bytes + header_bytes_max) return true;
  fail(length < 2 ? errc::protocol_violation : errc::too_large,
       "a frame of " + std::to_string(length) + " bytes");
  return false;
}

// The start of a frame lies in `staged`: adds what is needed to know more, or to have it whole.
std::size_t machine::continue_staged(std::size_t pipe, std::span<const std::byte> bytes) {
  rx_pipe& in = in_[pipe];
  std::size_t taken = 0;
  std::size_t padded = 0;  // of the frame, once its length is there
  while (true) {
    std::size_t want = frame_start_bytes;
    if (in.staged.size() >= frame_start_bytes) {
      const std::size_t length = length_of(in.staged);
      if (!plausible(length)) return bytes.size();
      padded = align8(length_bytes + length);
      want = padded;
      if (padded >= stream_from) {
        if (in.staged.size() >= header_bytes_usual && stream_staged(pipe)) return taken;
        want = in.staged.size() < header_bytes_usual ? header_bytes_usual : header_bytes_max;
      }
    }
    const auto more = bytes.subspan(taken, std::min(bytes.size() - taken, want - in.staged.size()));
    in.staged.insert(in.staged.end(), more.begin(), more.end());
    taken += more.size();
    if (in.staged.size() < want) return taken;
    if (padded != 0 && padded < stream_from) break;
  }
  std::vector<std::byte> frame = std::exchange(in.staged, {});
  handle_frame(pipe, frame, nullptr);
  if (in.held) hold(pipe, frame);
  frame.clear();
  in.staged = std::move(frame);  // keeps its memory for the next frame that is split
  return taken;
}

bool machine::stream_staged(std::size_t pipe) {
  std::vector<std::byte> frame = std::exchange(in_[pipe].staged, {});
  const bool begun = begin_stream(pipe, frame);
  if (begun) frame.clear();
  in_[pipe].staged = std::move(frame);
  return begun;
}

// ---- large payloads -------------------------------------------------------------------------

// True: all of `start` was used up. False: more is needed first. Headers are short, so it is tried
// before as many bytes are there as a header may have: those that are not header are copied.
bool machine::begin_stream(std::size_t pipe, std::span<const std::byte> start) {
  const std::size_t length = length_of(start);
  const std::size_t padded = align8(length_bytes + length);
  if (padded < stream_from || start.size() < header_bytes_usual) return false;
  const bool all_there = start.size() >= header_bytes_max;
  const auto header =
      start.subspan(length_bytes, std::min(start.size(), header_bytes_max) - length_bytes);
  const auto begun = peek_kind(header);
  const auto from = decode_data(header);
  if (begun.has_value() && begun->kind != kind::data) {
    fail(errc::too_large, "a header of " + std::to_string(length) + " bytes");
    return true;
  }
  if (!from.has_value()) {
    if (!all_there) return false;
    fail(errc::protocol_violation, "malformed data header");
    return true;
  }
  const std::size_t prefix = align8(length_bytes + from->header_bytes);
  if (prefix > start.size() && !all_there) return false;
  if (prefix > start.size() || prefix > length_bytes + length) {
    fail(errc::protocol_violation, "a header longer than its frame");
    return true;
  }
  const std::size_t payload = length_bytes + length - prefix;
  if (!check_data(pipe, from->header, payload, length)) return true;
  rx_pipe& in = in_[pipe];
  if (in.held) {
    hold(pipe, start);
    return true;
  }
  const std::size_t lane = lane_of(from->header);
  partial_message& partial = rx_[lane].partial;
  const bool first = !partial.active;
  in.stream_cost = padded + (first ? message_overhead : 0);
  if (first && (from->header.flags & flag::continued) != 0) {
    begin_partial(lane, from->header, in.stream_cost);
  }
  in.stream_in_whole = partial.active && partial.budgeted;
  if (in.stream_in_whole) {
    in.stream_to = partial.whole.data() + partial.filled;
  } else {
    in.stream_buffer = buffer(payload);
    in.stream_to = in.stream_buffer.data();
  }
  in.streaming = true;
  in.stream_header = from->header;
  in.stream_left = payload;
  in.padding_left = padded - length_bytes - length;
  auto rest = start.subspan(prefix);
  while (!rest.empty() && (in.streaming || in.padding_left != 0)) {
    rest = rest.subspan(continue_stream(in, rest));
    if (in.streaming && in.stream_left == 0) end_stream(pipe);
  }
  return true;
}

std::size_t machine::continue_stream(rx_pipe& in, std::span<const std::byte> bytes) {
  if (in.stream_left == 0) {
    const std::size_t skipped = std::min(in.padding_left, bytes.size());
    in.padding_left -= skipped;
    return skipped;
  }
  const std::size_t taken = std::min(in.stream_left, bytes.size());
  std::memcpy(in.stream_to, bytes.data(), taken);
  in.stream_to += taken;
  in.stream_left -= taken;
  return taken;
}

void machine::end_stream(std::size_t pipe) {
  rx_pipe& in = in_[pipe];
  in.streaming = false;
  const std::size_t lane = lane_of(in.stream_header);
  std::span<const std::byte> bytes;
  if (in.stream_in_whole) {
    partial_message& partial = rx_[lane].partial;
    const std::byte* start = partial.whole.data() + partial.filled;
    bytes = {start, static_cast<std::size_t>(in.stream_to - start)};
  } else {
    bytes = in.stream_buffer.bytes();
  }
  accept_slice(lane, in.stream_header, bytes, std::exchange(in.stream_buffer, {}),
               in.stream_in_whole, in.stream_cost);
}

std::span<std::byte> machine::direct_space(std::size_t pipe) noexcept {
  rx_pipe& in = in_[pipe];
  if (ended() || offline_ || in.held || !in.streaming || in.stream_left < direct_from) return {};
  return {in.stream_to, in.stream_left};
}

void machine::receive_direct(std::size_t pipe, std::size_t bytes, clock::time_point now) noexcept {
  if (offline_) return;
  heard(now);
  rx_pipe& in = in_[pipe];
  in.stream_to += bytes;
  in.stream_left -= bytes;
  if (in.stream_left != 0 || ended()) return;
  try {
    end_stream(pipe);
  } catch (const std::bad_alloc&) {
    fail(errc::resource_exhausted, "no memory to receive a message");
  }
}

// ---- whole frames ---------------------------------------------------------------------------

void machine::handle_frame(std::size_t pipe, std::span<const std::byte> frame,
                           detail::block* block) {
  const std::size_t length = length_of(frame);
  const auto body = frame.subspan(length_bytes, length);
  const auto start = peek_kind(body.first(std::min(body.size(), header_room)));
  if (!start.has_value()) return fail(errc::protocol_violation, "a frame without a header");
  if (start->kind == kind::data) return handle_data(pipe, frame, block);
  if (length > header_room) {
    return fail(errc::too_large, "a header of " + std::to_string(length) + " bytes");
  }
  handle_control(pipe, start->kind, body);
}

void machine::handle_data(std::size_t pipe, std::span<const std::byte> frame,
                          detail::block* block) {
  const std::size_t length = length_of(frame);
  const auto body = frame.subspan(length_bytes, length);
  const auto from = decode_data(body.first(std::min(body.size(), header_room)));
  if (!from.has_value()) return fail(errc::protocol_violation, "malformed data header");
  const std::size_t prefix = align8(length_bytes + from->header_bytes);
  // A header without payload may end the frame before the padding does.
  const std::size_t end = length_bytes + length;
  const auto payload = frame.subspan(std::min(prefix, end), end - std::min(prefix, end));
  if (!check_data(pipe, from->header, payload.size(), length)) return;
  if (in_[pipe].held) return;

  const std::size_t lane = lane_of(from->header);
  if (is_lent(from->header)) {
    return handle_lent(lane, from->header, align8(end) + message_overhead);
  }
  const bool in_slices = rx_[lane].partial.active || (from->header.flags & flag::continued) != 0;
  const std::uint64_t cost = align8(end) + (rx_[lane].partial.active ? 0 : message_overhead);
  if (in_slices) {
    if (!rx_[lane].partial.active) begin_partial(lane, from->header, cost);
    return accept_slice(lane, from->header, payload, {}, false, cost);
  }
  shared_buffer kept;
  const bool aligned = reinterpret_cast<std::uintptr_t>(payload.data()) % 8 == 0;
  const bool share = !payload.empty() && block != nullptr && aligned && can_share(block);
  if (!payload.empty() && !share) kept = buffer::copy_of(payload);
  inbound& whole = deliver(lane, from->header, cost);
  if (share) {
    // Nothing throws any more: only consume() adds the reference that this one stands for.
    whole.payload = shared_buffer(block, payload);
    ++shares_;
  } else {
    whole.payload = std::move(kept);
  }
  if (peer_close_.has_value()) check_closed();
}

void machine::handle_lent(std::size_t lane, const data_header& header, std::uint64_t cost) {
  if (lender_ == nullptr) return fail(errc::protocol_violation, "a loan, and nothing is shared");
  shared_buffer payload = lender_->borrow(header.at, header.total);
  if (payload.empty()) return fail(errc::protocol_violation, "a loan that is not there");
  deliver(lane, header, cost).payload = std::move(payload);
  // A peer that keeps what was not consumed keeps its loans until it hears of that, and the credit
  // that loans cost is too little to tell it soon.
  if (resumable_) {
    rx_[lane].reports = true;
    rx_[lane].grant_at = 0;
  }
  if (peer_close_.has_value()) check_closed();
}

void machine::handle_returned(const returned& from) {
  for (std::size_t i = 0; i < from.count; ++i) {
    if (lender_ != nullptr && lender_->take_return(from.places[i])) continue;
    return fail(errc::protocol_violation, "a return of what was not lent");
  }
}

void machine::give_back(std::uint64_t at) noexcept {
  if (ended() || offline_) return;
  try {
    returns_due_.push_back(at);
  } catch (const std::bad_alloc&) {
    fail(errc::resource_exhausted, "no memory to return a loan");
  }
}

// A block stays whole as long as one message in it lives. The first share charges it to the link's
// budget; with the budget used up messages are copied out instead.
bool machine::can_share(detail::block* block) noexcept {
  if (block->pinned_by == pins_ || block->capacity <= unpinned_bytes) return true;
  if (block->pinned_by != nullptr) return false;
  if (pins_->pinned_bytes.load(std::memory_order_relaxed) + block->capacity > local_.pinned_bytes) {
    return false;
  }
  detail::pin_block(block, *pins_);
  return true;
}

// What every data frame must satisfy, whole or not; takes its credit. False: the link has failed.
bool machine::check_data(std::size_t pipe, const data_header& header, std::size_t payload_bytes,
                         std::size_t length) {
  const auto violation = [this](const char* what) {
    fail(errc::protocol_violation, what);
    return false;
  };
  // An attached pipe may be faster than RESUMED on pipe 0, behind which MOVED comes.
  if (!established_ || (offline_ && pipe == 0)) {
    return violation("data before the handshake is done");
  }
  const std::size_t channel = header.channel;
  const std::size_t lane = lane_of(header);
  if (rx_channel_[channel].pipe != pipe) {
    const bool may_move_here = pipe == channel && rx_channel_[channel].pipe == rx_main_;
    if (!may_move_here || pipe == 0) return violation("data on a pipe of another channel");
    in_[pipe].held = true;  // its MOVED is still under way on the old pipe
    return true;
  }
  if (const auto& end = rx_channel_[channel].end; end.has_value()) {
    const std::uint64_t last = lane % 2 == 1 ? end->urgent : end->normal;
    if (rx_[lane].received >= last) return violation("data after the END of its channel");
  }
  if (payload_bytes > local_.local.frame_bytes) {
    fail(errc::too_large, "a slice of " + std::to_string(payload_bytes) + " bytes");
    return false;
  }
  const partial_message& partial = rx_[lane].partial;
  const bool continued = (header.flags & flag::continued) != 0;
  const bool lent = is_lent(header);
  if (lent && (partial.active || continued || payload_bytes != 0)) {
    return violation("a loan that is no message of its own");
  }
  // On a pipe of its own the start of a message that CLOSE has given up may come behind it.
  if (peer_close_.has_value() && rx_[lane].received >= peer_close_->final_sequences[lane] &&
      !continued) {
    return violation("data after CLOSE");
  }
  const std::uint64_t total = partial.active      ? partial.total
                              : continued || lent ? header.total
                                                  : payload_bytes;
  if (total > local_.local.message_bytes[channel]) {
    fail(errc::too_large,
         "a message of " + std::to_string(total) + " bytes on channel " + std::to_string(channel));
    return false;
  }
  const std::uint64_t filled = partial.active ? partial.filled : 0;
  if (continued &&
      (lane % 2 == 1 || payload_bytes < slice_bytes_min || filled + payload_bytes >= total)) {
    return violation("a slice that does not fit its message");
  }
  if (!continued && !lent && filled + payload_bytes != total) {
    return violation("a message shorter or longer than announced");
  }
  rx_lane& to = rx_[lane];
  const std::uint64_t cost =
      align8(length_bytes + length) + (partial.active ? 0 : message_overhead);
  if (cost > to.granted - to.arrived) return violation("more than the granted credit");
  to.arrived += cost;
  if (pipe == rx_main_ && channel == channel_count - 1 &&
      to.arrived - to.told_received >= shared_report_bytes) {
    grants_due_ |= 1U << lane;
  }
  return true;
}

// Queues a message whose payload the caller sets.
inbound& machine::deliver(std::size_t lane, const data_header& header, std::uint64_t cost) {
  rx_lane& to = rx_[lane];
  const std::size_t channel = lane / 2;
  inbound& whole = arrived_[lane / 2].of(lane).add(lane, cost);
  whole.header = {header.id, static_cast<codec>(header.codec)};
  ++to.received;
  happened_.readable |= 1U << channel;
  use(channel);
  return whole;
}

// ---- messages in slices ---------------------------------------------------------------------

void machine::begin_partial(std::size_t lane, const data_header& header, std::uint64_t cost) {
  partial_message& partial = rx_[lane].partial;
  rx_[lane].quick_until = 0;
  partial.active = true;
  partial.total = header.total;
  partial.header = header;
  partial.reserve = message_cost_bound(header.total);
  partial.grant_floor = rx_[lane].arrived - cost + partial.reserve;
  budget_partials();
}

// Room for a whole message is taken at once and its missing credit granted at once, so two
// half-received messages never wait for each other.
void machine::budget_partials() {
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    partial_message& partial = rx_[lane].partial;
    if (!partial.active || partial.budgeted) continue;
    if (reassembly_in_use_ != 0 && reassembly_in_use_ + partial.reserve > local_.reassembly_bytes) {
      continue;
    }
    partial.make_whole();
    partial.budgeted = true;
    reassembly_in_use_ += static_cast<std::size_t>(partial.reserve);
    consider_grant(lane);
  }
}

// All of the message in one buffer, with what came before there was room for it.
void machine::partial_message::make_whole() {
  whole = buffer(static_cast<std::size_t>(total));
  std::size_t at = 0;
  for (buffer& slice : early) {
    std::memcpy(whole.data() + at, slice.data(), slice.size());
    at += slice.size();
  }
  early.clear();
}

void machine::accept_slice(std::size_t lane, const data_header& header,
                           std::span<const std::byte> bytes, buffer&& owned, bool in_place,
                           std::uint64_t cost) {
  partial_message& partial = rx_[lane].partial;
  if (!partial.active) {
    if (has(planted::delivered_twice) && rx_[lane].received % 10 == 7) {
      deliver(lane, header, cost).payload = buffer::copy_of(owned.bytes());
    }
    deliver(lane, header, cost).payload = std::move(owned);
    if (peer_close_.has_value()) check_closed();
    return;
  }
  partial.cost += cost;
  if (in_place) {
    // the bytes are where they belong
  } else if (partial.budgeted) {
    std::memcpy(partial.whole.data() + partial.filled, bytes.data(), bytes.size());
  } else {
    partial.early.push_back(owned.empty() ? buffer::copy_of(bytes) : std::move(owned));
  }
  partial.filled += bytes.size();
  if ((header.flags & flag::continued) == 0) finish_partial(lane);
}

void machine::finish_partial(std::size_t lane) {
  partial_message& partial = rx_[lane].partial;
  if (partial.budgeted) {
    reassembly_in_use_ -= static_cast<std::size_t>(partial.reserve);
  } else {
    // It fitted into its window while the budget was used up by others.
    partial.make_whole();
  }
  reassembly_in_use_ += static_cast<std::size_t>(partial.cost);
  inbound& whole = deliver(lane, partial.header, partial.cost);
  whole.payload = std::move(partial.whole);
  whole.reassembled = true;
  partial = {};
  budget_partials();
  if (peer_close_.has_value()) check_closed();
}

// ---- the application's side -----------------------------------------------------------------

void machine::settle_release(std::size_t lane, std::uint64_t cost, bool reassembled) noexcept {
  if (ended() || (lane % 2 == 1 && has(planted::credit_forgotten))) return;
  if (reassembled) {
    reassembly_in_use_ -= static_cast<std::size_t>(cost);
    try {
      budget_partials();
    } catch (const std::bad_alloc&) {
      fail(errc::resource_exhausted, "no memory to receive a message");
    }
  }
  consider_grant(lane);
}

std::uint64_t machine::grant_target(std::size_t lane) const noexcept {
  const rx_lane& from = rx_[lane];
  // What an earlier session left is a debt: released may be below zero.
  const auto free = static_cast<std::int64_t>(from.released + local_.local.window[lane]);
  const auto usual = static_cast<std::uint64_t>(std::max<std::int64_t>(free, 0));
  const bool whole_message = from.partial.active && from.partial.budgeted;
  return whole_message ? std::max(usual, from.partial.grant_floor) : usual;
}

void machine::raise_grant(std::size_t lane, std::uint64_t granted) noexcept {
  const std::uint64_t window = local_.local.window[lane];
  const std::uint64_t next = granted + grant_step(lane);
  rx_[lane].granted = granted;
  rx_[lane].grant_at = next > window && !rx_[lane].reports ? next - window : 0;
}

std::uint64_t machine::grant_step(std::size_t lane) const noexcept {
  const std::uint64_t quarter = local_.local.window[lane] / 4;
  return resumable_ ? std::min<std::uint64_t>(quarter, resume_report_bytes) : quarter;
}

// A grant is worth a frame once it is a quarter of the window, or lets a large message come.
void machine::consider_grant(std::size_t lane) noexcept {
  const rx_lane& from = rx_[lane];
  const std::uint64_t target = grant_target(lane);
  if (from.reports) grants_due_ |= 1U << lane;
  if (target <= from.granted) return;
  const bool awaited = from.partial.active && from.partial.grant_floor > from.granted;
  if (awaited || target - from.granted >= grant_step(lane)) grants_due_ |= 1U << lane;
}

// ---- moving from pipe to pipe ---------------------------------------------------------------

void machine::hold(std::size_t pipe, std::span<const std::byte> bytes) {
  rx_pipe& in = in_[pipe];
  std::uint64_t credit_left = 0;
  for (const bool is_urgent : {false, true}) {
    const rx_lane& lane = rx_[lane_of(pipe, is_urgent)];
    credit_left += lane.granted - lane.arrived;
  }
  if (in.stash.size() + bytes.size() > credit_left) {
    return fail(errc::protocol_violation, "more than its credit on a pipe nobody moved to");
  }
  in.stash.insert(in.stash.end(), bytes.begin(), bytes.end());
}

void machine::handle_moved(const moved& from) {
  const std::size_t channel = from.channel;
  if (channel == 0) return handle_main_moved(from);
  // A client may read MOVED before it learns that attaching has succeeded; a server knows first.
  const bool unknown_pipe = server_ && !pipe_open_[channel] && !shared_;
  if (from.pipe != channel || rx_channel_[channel].pipe == channel || unknown_pipe) {
    return fail(errc::protocol_violation, "MOVED to a pipe that is not the channel's");
  }
  if (from.next_normal != rx_[lane_of(channel, false)].received + 1 ||
      from.next_urgent != rx_[lane_of(channel, true)].received + 1) {
    return fail(errc::protocol_violation, "MOVED with a gap in the sequence");
  }
  rx_channel_[channel].pipe = channel;
  for (const bool is_urgent : {false, true}) rx_[lane_of(channel, is_urgent)].quick_until = 0;
  happened_.moved |= 1U << channel;
  replay(channel);
}

// All that rides on pipe 0 goes on in shared memory.
void machine::handle_main_moved(const moved& from) {
  if (!shared_ || from.pipe != shared_main || rx_main_ == shared_main) {
    return fail(errc::protocol_violation, "MOVED to a pipe that is not the channel's");
  }
  if (from.next_normal != rx_[0].received + 1 || from.next_urgent != rx_[1].received + 1) {
    return fail(errc::protocol_violation, "MOVED with a gap in the sequence");
  }
  rx_main_ = shared_main;
  for (auto& channel : rx_channel_) {
    if (channel.pipe == 0) channel.pipe = shared_main;
  }
  for (auto& lane : rx_) lane.quick_until = 0;
  happened_.moved |= 1U;
  if (server_) want_main_move();
}

void machine::replay(std::size_t pipe) {
  rx_pipe& in = in_[pipe];
  if (!std::exchange(in.held, false)) return;
  const std::vector<std::byte> stash = std::exchange(in.stash, {});
  if (stash.empty() || has(planted::stash_lost)) return;
  detail::block* copy = detail::allocate_block(stash.size());
  std::memcpy(copy->data(), stash.data(), stash.size());
  consume(pipe, copy, stash.size());
}

}  // namespace hawser::wire
