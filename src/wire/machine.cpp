// SPDX-License-Identifier: Apache-2.0
#include "wire/machine.hpp"

#include <algorithm>
#include <new>

#include "wire/planted.hpp"

namespace hawser::wire {
namespace {

constexpr auto ping_gap_usual = std::chrono::seconds(5);
constexpr auto ping_gap_min = std::chrono::milliseconds(5);  // however often a peer says it pings
constexpr unsigned ping_strikes_max = 2;
// What has arrived is read at once; this is for a peer that lives, and only does not listen.
constexpr auto last_words_time = std::chrono::milliseconds(200);
constexpr unsigned unknown_kinds_max = 16;

std::string peer_said(std::string_view what, const std::error_code& code, std::string_view text) {
  std::string said = "peer ";
  said.append(what).append(": ").append(code.message());
  if (!text.empty()) said.append(": ").append(text);
  return said;
}

}  // namespace

machine::machine(const settings& local, clock::time_point now, bool server)
    : local_(local),
      server_(server),
      pins_(new detail::pin_budget),
      now_(now),
      last_heard_(now),
      handshake_deadline_(now + local.handshake_timeout) {
  out_[0].lanes = (1U << lane_count) - 1;
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    auto& window = local_.local.window[lane];
    window = std::max(window, first_credit[lane]);
    raise_grant(lane, window);
    tx_[lane].granted = first_credit[lane];
  }
  // What a client may send before it knows our limits is within them.
  for (std::size_t channel = 0; channel < channel_count; ++channel) {
    auto& most = local_.local.message_bytes[channel];
    most = std::max(most, first_credit[lane_of(channel, false)]);
  }
  peer_.message_bytes = local_.local.message_bytes;
  peer_.window = first_credit;
}

machine::machine(const settings& local, clock::time_point now) : machine(local, now, false) {
  say_hello(false);
}

machine::machine(const settings& local, const hello& peer, clock::time_point now)
    : machine(local, now, true) {
  local_.link_id = peer.link_id;
  adopt_limits(peer.limits);
  const auto refuse = [&](errc code, std::string text) {
    append(0, encode(refusal{code, text}));
    ended_.emplace(code, std::move(text));
    happened_.ended = true;
  };
  if (peer.lowest > version_highest || peer.highest < version_lowest) {
    refuse(errc::unsupported, "no common version: peer speaks " + std::to_string(peer.lowest) +
                                  " to " + std::to_string(peer.highest) + ", here " +
                                  std::to_string(version_lowest) + " to " +
                                  std::to_string(version_highest));
    return;
  }
  if (peer.resume_secret.has_value()) {
    refuse(errc::refused, "the link to resume is not held here");
    return;
  }
  resumable_ = agrees_to_resume(peer.features);
  agree(peer.features);
  say_welcome(peer);
  go_online();
}

machine::~machine() {
  for (auto& pipe : out_) {
    drop_pieces(pipe);
    if (pipe.open != nullptr) let_go(pipe.open);
  }
  detail::release_budget(pins_);
}

void machine::adopt_limits(const limits& peer) noexcept {
  peer_ = peer;
  close_ways();
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    tx_[lane].granted = std::clamp(peer.window[lane], first_credit[lane], window_max);
    peer_.window[lane] = tx_[lane].granted;
    if (std::exchange(tx_[lane].blocked, false)) happened_.writable |= 1U << (lane / 2);
  }
}

void machine::heard(clock::time_point now) noexcept {
  now_ = now;
  last_heard_ = now;
  ping_pending_ = false;
}

// ---- the end of a link ----------------------------------------------------------------------

void machine::close(clock::time_point now) noexcept {
  if (closing_ || ended()) return;
  now_ = now;
  if (offline_) return end(errc::link_lost, "closed while there was no connection");
  closing_ = true;
  happened_.sooner = true;
  close_deadline_ = now + local_.close_timeout;
  unsaid_ = true;
  close_ways();
  for (auto& lane : tx_) {
    // What was not accepted is not part of the final sequences: the receiver drops its start.
    lane.abandoned = std::exchange(lane.growing, false);
  }
  happened_.writable = (1U << channel_count) - 1;
}

void machine::fail(errc code, std::string_view text) noexcept {
  if (ended()) return;
  try {
    append(tx_main_, encode_close(code, text, {}));
    ended_.emplace(code, std::string(text));
  } catch (const std::bad_alloc&) {
    ended_.emplace(errc::resource_exhausted);
  }
  say_ended();
}

// Without memory for the words the code has to do.
void machine::keep_reason(std::optional<failure>& place, errc code, std::string_view why) noexcept {
  try {
    place.emplace(code, std::string(why));
  } catch (const std::bad_alloc&) {
    place.emplace(code);
  }
}

// Without a word to the peer.
void machine::end(errc code, std::string_view why) noexcept {
  keep_reason(ended_, code, why);
  say_ended();
}

void machine::say_ended() noexcept {
  close_ways();
  happened_.ended = true;
  happened_.readable = happened_.writable = happened_.flushed = (1U << channel_count) - 1;
}

void machine::pipe_ended(std::size_t pipe, std::error_code why) noexcept {
  if (ended() || (offline_ && !greeting_)) return;
  // Once both sides are closing, a peer that has all it needs shuts its sockets in any order; only
  // the control pipe decides.
  if (pipe != 0 && closing_ && peer_close_.has_value()) return;
  const errc code = connections_ != 0 ? errc::link_lost : errc::refused;
  try {
    break_off(code, why ? "connection broke: " + why.message()
                        : std::string(established_ ? "peer has gone without closing"
                                                   : "peer hung up during the handshake"));
  } catch (const std::bad_alloc&) {
    break_off(code, {});
  }
}

void machine::pipe_deaf(std::size_t pipe, std::error_code why, clock::time_point now) noexcept {
  if (deaf_deadline_ != clock::time_point::max()) return;
  deaf_deadline_ = now + last_words_time;
  deaf_pipe_ = pipe;
  deaf_because_ = why;
  happened_.sooner = true;
}

void machine::handle_close(const wire::closing& from) {
  if (from.code != 0) {
    const errc code = known_code(from.code);
    const std::string why = peer_said("gave up", code, from.text);
    if (code == errc::link_lost) return break_off(code, why);
    return end(errc::link_lost, why);
  }
  if (peer_close_.has_value()) return fail(errc::protocol_violation, "second CLOSE");
  peer_close_ = from;
  for (auto& lane : rx_) lane.quick_until = 0;
  close(now_);
  for (std::size_t channel = 0; channel < channel_count; ++channel) check_end(channel);
  check_closed();
}

// All that the peer accepted has arrived: say so, and be done once everything else is said.
void machine::check_closed() {
  if (ended() || !peer_close_.has_value()) return;
  lane_numbers received{};
  lane_numbers consumed{};
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    received[lane] = rx_[lane].received;
    consumed[lane] = taken(lane);
    if (received[lane] > peer_close_->final_sequences[lane]) {
      return fail(errc::protocol_violation, "more messages than CLOSE announced");
    }
  }
  if (!closed_sent_ && received == peer_close_->final_sequences) {
    append(tx_main_, encode_closed(received, consumed));
    closed_sent_ = true;
  }
  if (close_sent_ && closed_sent_ && closed_received_) {
    end(errc::closed, {});
  }
}

// ---- time -----------------------------------------------------------------------------------

clock::time_point machine::next_deadline() const noexcept {
  if (ended()) return clock::time_point::max();
  if (offline_) {
    return std::min(deaf_deadline_, greeting_ ? std::min(handshake_deadline_, offline_deadline_)
                                              : offline_deadline_);
  }
  if (!established_) return std::min(handshake_deadline_, deaf_deadline_);
  const auto latest = std::min(close_deadline_, deaf_deadline_);
  if (said_all()) return latest;
  const auto silence =
      ping_pending_ ? ping_sent_ + local_.keepalive_timeout : last_heard_ + local_.keepalive;
  return std::min(silence, latest);
}

void machine::tick(clock::time_point now) noexcept {
  now_ = now;
  if (ended()) return;
  if (now >= deaf_deadline_) {
    deaf_deadline_ = clock::time_point::max();
    pipe_ended(deaf_pipe_, deaf_because_);
    if (ended()) return;
  }
  if (offline_) return tick_offline();
  if (!established_) {
    if (now >= handshake_deadline_) fail(errc::timed_out, "no answer to the hello");
    return;
  }
  if (now >= close_deadline_) {
    return fail(errc::link_lost, "peer did not finish closing in time");
  }
  if (said_all()) return;
  if (ping_pending_) {
    if (now < ping_sent_ + local_.keepalive_timeout) return;
    constexpr const char* why = "peer fell silent";
    return may_survive() ? break_off(errc::link_lost, why) : fail(errc::link_lost, why);
  }
  if (now < last_heard_ + local_.keepalive) return;
  shed_memory();
  try {
    append(tx_main_, encode_token(kind::ping, ++ping_token_));
    ping_pending_ = true;
    ping_sent_ = now;
  } catch (const std::bad_alloc&) {
    fail(errc::resource_exhausted, "no memory for a ping");
  }
}

void machine::tick_offline() noexcept {
  if (now_ >= offline_deadline_) {
    return end_offline();
  }
  if (greeting_ && now_ >= handshake_deadline_) {
    break_off(errc::link_lost, "no answer to the hello");
  }
}

void machine::end_offline() noexcept {
  try {
    end(errc::link_lost, "no connection for too long: " + broken_by_->text());
  } catch (const std::bad_alloc&) {
    end(errc::link_lost, "no connection for too long");
  }
}

void machine::handle_ping(std::uint64_t token) {
  const auto announced = std::chrono::milliseconds(
      static_cast<std::int64_t>(std::min<std::uint64_t>(peer_.keepalive_ms, 60'000)));
  const auto gap = announced.count() == 0
                       ? clock::duration(ping_gap_usual)
                       : std::clamp<clock::duration>(announced / 2, ping_gap_min, ping_gap_usual);
  if (last_ping_from_peer_ != clock::time_point{} && now_ - last_ping_from_peer_ < gap) {
    if (++ping_strikes_ > ping_strikes_max) {
      return fail(errc::limit_reached, "pings come too often");
    }
  } else {
    ping_strikes_ = 0;
  }
  last_ping_from_peer_ = now_;
  pong_due_ = token;
  shed_memory();
}

// ---- frames that are not data ---------------------------------------------------------------

void machine::handle_control(std::size_t pipe, kind what, std::span<const std::byte> header) {
  if (pipe != rx_main_) {
    return fail(errc::protocol_violation, "a frame that is not data on a pipe for data");
  }
  const auto malformed = [this](const char* name) {
    fail(errc::protocol_violation, std::string("malformed ") + name + " frame");
  };
  if (!established_) {
    if (what == kind::welcome) {
      const auto from = decode_welcome(header);
      return from.has_value() ? handle_welcome(*from) : malformed("welcome");
    }
    if (what == kind::refuse) {
      const auto from = decode_refusal(header);
      return from.has_value() ? handle_refusal(*from) : malformed("refuse");
    }
    return fail(errc::protocol_violation, "expected welcome or refuse");
  }
  if (offline_ && what != kind::resumed) {
    return fail(errc::protocol_violation, "expected RESUMED");
  }
  switch (what) {
    case kind::resumed: {
      const auto from = decode_resumed(header);
      return from.has_value() ? handle_resumed(*from) : malformed("resumed");
    }
    case kind::credit: {
      const auto from = decode_credit(header);
      return from.has_value() ? handle_credit(*from) : malformed("credit");
    }
    case kind::returned: {
      const auto from = decode_returned(header);
      return from.has_value() ? handle_returned(*from) : malformed("returned");
    }
    case kind::ping: {
      const auto token = decode_token(header);
      return token.has_value() ? handle_ping(*token) : malformed("ping");
    }
    case kind::pong: {
      const auto token = decode_token(header);
      if (!token.has_value()) return malformed("pong");
      if (*token > ping_token_) fail(errc::protocol_violation, "pong without ping");
      return;
    }
    case kind::end: {
      const auto from = decode_end(header);
      if (!from.has_value()) return malformed("end");
      auto& channel = rx_channel_[from->channel];
      if (channel.end.has_value()) return fail(errc::protocol_violation, "second END");
      channel.end = *from;
      for (const bool is_urgent : {false, true}) {
        rx_[lane_of(from->channel, is_urgent)].quick_until = 0;
      }
      return check_end(from->channel);
    }
    case kind::close: {
      const auto from = decode_close(header);
      return from.has_value() ? handle_close(*from) : malformed("close");
    }
    case kind::closed: {
      const auto from = decode_closed(header);
      if (!from.has_value()) return malformed("closed");
      if (!close_sent_ || closed_received_) {
        return fail(errc::protocol_violation, "CLOSED without CLOSE");
      }
      for (std::size_t lane = 0; lane < lane_count; ++lane) {
        if (from->received[lane] != tx_[lane].framed || from->consumed[lane] > tx_[lane].framed) {
          return fail(errc::protocol_violation, "CLOSED counts what was never sent");
        }
        tx_[lane].consumed = std::max(tx_[lane].consumed, from->consumed[lane]);
        tx_[lane].sent = tx_[lane].framed;  // the system had it, whatever it has told us yet
      }
      closed_received_ = true;
      return check_closed();
    }
    case kind::moved: {
      const auto from = decode_moved(header);
      return from.has_value() ? handle_moved(*from) : malformed("moved");
    }
    case kind::hello:
    case kind::welcome:
    case kind::refuse:
    case kind::attach:
    case kind::attached:
    case kind::share:
      return fail(errc::protocol_violation, "handshake frame on an open link");
    case kind::unknown:
      return;  // the peer did not know a kind of ours; it has skipped it
    case kind::data:
      break;
  }
  if (unknown_kinds_answered_ < unknown_kinds_max && !said_all()) {
    ++unknown_kinds_answered_;
    append(tx_main_, encode_token(kind::unknown, static_cast<std::uint64_t>(what)));
  }
}

void machine::handle_credit(const grants& from) {
  for (std::size_t i = 0; i < from.count; ++i) {
    const grant& each = from.entries[i];
    tx_lane& lane = tx_[each.lane];
    if (each.received > lane.spent || each.consumed > lane.framed) {
      return fail(errc::protocol_violation, "credit for what was never sent");
    }
    // All three only grow, so a late or doubled frame changes nothing.
    lane.granted = std::max(lane.granted, each.granted);
    lane.consumed = std::max(lane.consumed, each.consumed);
    forget_consumed(lane);
    if (lane.sent < lane.consumed) {  // the system had it, whatever it has told us yet
      lane.sent = lane.consumed;
      happened_.flushed |= 1U << (each.lane / 2);
    }
    lane.peer_received = std::max(lane.peer_received, each.received);
    settle_growth(each.lane);
    if (has(planted::wakeup_lost)) continue;
    if (std::exchange(lane.blocked, false)) happened_.writable |= 1U << (each.lane / 2);
  }
}

void machine::check_end(std::size_t channel) noexcept {
  auto& state = rx_channel_[channel];
  const auto& normal = rx_[lane_of(channel, false)];
  const auto& urgent_lane = rx_[lane_of(channel, true)];
  if (state.end.has_value() &&
      (normal.received > state.end->normal || urgent_lane.received > state.end->urgent)) {
    return fail(errc::protocol_violation, "more messages than END announced");
  }
  if (at_end(channel) && !std::exchange(state.at_end_told, true)) {
    happened_.readable |= 1U << channel;
  }
}

bool machine::at_end(std::size_t channel) const noexcept {
  const auto& normal = rx_[lane_of(channel, false)];
  const auto& urgent_lane = rx_[lane_of(channel, true)];
  if (readable(channel)) return false;
  const auto& end = rx_channel_[channel].end;
  if (end.has_value() && normal.received == end->normal && urgent_lane.received == end->urgent) {
    return true;
  }
  return peer_close_.has_value() &&
         normal.received == peer_close_->final_sequences[lane_of(channel, false)] &&
         urgent_lane.received == peer_close_->final_sequences[lane_of(channel, true)];
}

lane_counts machine::counts(std::size_t lane) const noexcept {
  const tx_lane& to = tx_[lane];
  const rx_lane& from = rx_[lane];
  const std::uint64_t received = from.received_before + from.received;
  return {.accepted = accepted(lane),
          .sent = sent(lane),
          .consumed = to.consumed_before + to.consumed,
          .received = received,
          .taken = received - arrived_[lane / 2].of(lane).size(),
          .lost = to.lost,
          .missed = from.missed_before + from.missed};
}

std::size_t machine::memory_in_use() const noexcept {
  std::size_t bytes = 0;
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    const partial_message& partial = rx_[lane].partial;
    bytes += tx_[lane].queued_bytes + tx_[lane].kept_bytes + partial.whole.size();
    for (const buffer& slice : partial.early) bytes += slice.size();
  }
  for (std::size_t pipe = 0; pipe < pipe_count; ++pipe) {
    const rx_pipe& in = in_[pipe];
    bytes += unsent(out_[pipe]) + in.staged.size() + in.stream_buffer.size() + in.stash.size();
  }
  return bytes;
}

std::uint64_t machine::traffic() const noexcept {
  std::uint64_t sum = 0;
  for (std::size_t lane = 0; lane < lane_count; ++lane) sum += tx_[lane].spent + rx_[lane].arrived;
  return sum;
}

unsigned machine::pipes() const noexcept {
  return static_cast<unsigned>(std::count(pipe_open_.begin(), pipe_open_.end(), true));
}

bool machine::attach_allowed(std::size_t channel) const noexcept {
  return established_ && !ended() && !closing_ && channel >= 1 && channel < channel_count &&
         !pipe_open_[channel] &&
         (shared_ || (local_.local.pipes >= socket_count && peer_.pipes >= socket_count));
}

}  // namespace hawser::wire
