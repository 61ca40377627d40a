// SPDX-License-Identifier: Apache-2.0
// What wire::machine does between two connections, and how a link goes on over the next one.
#include <algorithm>
#include <new>
#include <utility>

#include "wire/machine.hpp"
#include "wire/planted.hpp"

namespace hawser::wire {
namespace {

// As far as messages that were accepted before are concerned.
bool takes_less(const limits& now, const limits& before) noexcept {
  const auto is_less = [](const auto& left, const auto& right) {
    return !std::equal(left.begin(), left.end(), right.begin(), std::greater_equal<>());
  };
  lane_numbers window = now.window;
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    window[lane] = std::clamp(window[lane], first_credit[lane], window_max);
  }
  return now.frame_bytes < before.frame_bytes || is_less(now.message_bytes, before.message_bytes) ||
         is_less(window, before.window);
}

}  // namespace

// ---- the end of a connection ----------------------------------------------------------------

void machine::break_off(errc code, std::string_view why) noexcept {
  if (ended()) return;
  if (!may_survive()) return end(code, why);
  keep_reason(broken_by_, code, why);
  offline_ = true;
  established_ = greeting_ = false;
  close_ways();
  for (auto& lane : rx_) lane.quick_until = 0;
  happened_.broken = true;
}

void machine::leave_connection(clock::time_point now) noexcept {
  now_ = now;
  if (offline_deadline_ == clock::time_point::max()) offline_deadline_ = now + local_.survive;
  leave_pipes();
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    rx_lane& from = rx_[lane];
    partial_message& partial = from.partial;
    if (!has(planted::debt_forgotten)) from.released += partial.cost;
    if (partial.budgeted) reassembly_in_use_ -= static_cast<std::size_t>(partial.reserve);
    partial = {};
    from.granted = from.arrived;  // until the next connection says more
    from.told_received = from.arrived;
  }
  for (auto& channel : rx_channel_) channel = {};
  grants_due_ = 0;
  unsaid_ = true;  // each END once more
  pong_due_.reset();
  ping_pending_ = false;
  ping_strikes_ = 0;
  last_ping_from_peer_ = {};
}

// All channels are on pipe 0 again, and nothing is in it.
void machine::leave_pipes() noexcept {
  deaf_deadline_ = clock::time_point::max();
  std::size_t waiting = 0;
  for (auto& lane : tx_) waiting += lane.backlog.size();
  for (auto& pipe : out_) {
    drop_pieces(pipe);
    pipe.written = pipe.appended;
    pipe.lanes = 0;
    pipe.backlog = 0;
  }
  out_[0].lanes = (1U << lane_count) - 1;
  out_[0].backlog = waiting;
  for (auto& channel : tx_channel_) {
    const bool finished = channel.finished;
    channel = {};
    channel.finished = finished;
  }
  moving_ = 0;
  tx_main_ = rx_main_ = 0;
  may_share_ = may_lend_ = shared_ = main_move_wanted_ = main_moving_ = false;
  passes_ = 0;
  lender_ = nullptr;
  rings_ = 1U << shared_main;
  returns_due_.clear();
  for (auto& pipe : in_) {
    if (pipe.streaming) rx_[lane_of(pipe.stream_header)].released += pipe.stream_cost;
    pipe = {};
  }
  pipe_open_ = {true};
}

// ---- what is sent again ---------------------------------------------------------------------

void machine::forget_consumed(tx_lane& lane) noexcept {
  while (lane.kept_messages.size() > lane.framed - lane.consumed) {
    lane.kept_bytes -= lane.kept_messages.front().payload.size() + message_overhead;
    lane.kept_messages.pop();
  }
}

bool machine::rewind(const lane_numbers& received) {
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    if (received[lane] < tx_[lane].consumed || received[lane] > tx_[lane].framed) {
      fail(errc::protocol_violation, "resumed with what was never sent, or was consumed before");
      return false;
    }
  }
  for (std::size_t lane = 0; lane < lane_count; ++lane) rewind_lane(lane, received[lane]);
  return true;
}

// The peer has `arrived` messages. What else was sent goes again, if it was kept, and is lost
// otherwise; the next one has the number behind those that arrived.
void machine::rewind_lane(std::size_t lane, std::uint64_t arrived) {
  tx_lane& to = tx_[lane];
  std::uint64_t missing = to.framed - arrived;
  if (has(planted::resent_twice) && !to.kept_messages.empty()) missing = to.framed - to.consumed;
  for (; missing != 0 && !to.kept_messages.empty(); --missing) {
    kept_message& last = to.kept_messages.back();
    const std::size_t bytes = last.payload.size();
    to.backlog.emplace_front(message(last.payload, last.header), 0);
    to.queued_bytes += bytes;
    to.kept_bytes -= bytes + message_overhead;
    to.kept_messages.pop_back();
    --to.framed;
    ++out_[0].backlog;
  }
  if (!has(planted::loss_uncounted)) to.lost += missing;
  to.lost_here += missing;
  to.past += missing;
  to.framed = to.sent = arrived;
  to.reserved = 0;
  for (std::size_t i = 0; i < to.backlog.size(); ++i) {
    outbound& each = to.backlog.at(i);
    each.offset = 0;
    each.reserve_left = 0;
    to.queued_bytes -= each.weight();
    each.covered = each.lent = false;
    to.queued_bytes += each.weight();
  }
  to.uncovered = to.backlog.size() - (to.growing ? 1 : 0);
  to.accepted = arrived + to.uncovered;
  happened_.flushed |= 1U << (lane / 2);
}

// ---- the next connection --------------------------------------------------------------------

void machine::say_hello(bool resume) {
  hello greeting;
  greeting.link_id = local_.link_id;
  greeting.incarnation = local_.incarnation;
  greeting.limits = local_.local;
  greeting.features = features();
  if (resume) {
    greeting.resume_secret = local_.resume_secret;
    for (std::size_t lane = 0; lane < lane_count; ++lane) {
      greeting.received[lane] = rx_[lane].received;
    }
  }
  append(0, encode(greeting));
}

bool machine::greet(const secret& fresh_id, clock::time_point now) noexcept {
  try {
    if (!resumable_) {
      if (session_open_) {
        if (!owes_nothing_old()) return false;
        begin_session();
      }
      for (std::size_t lane = 0; lane < lane_count; ++lane) {
        raise_grant(lane, local_.local.window[lane]);
      }
      local_.link_id = fresh_id;
      local_.incarnation = 0;
    }
    resuming_ = resumable_;
    greeting_ = true;
    ++local_.incarnation;
    heard(now);
    handshake_deadline_ = now + local_.handshake_timeout;
    say_hello(resuming_);
  } catch (const std::bad_alloc&) {
    break_off(errc::resource_exhausted, "no memory to connect again");
  }
  return true;
}

// What the application holds of the session before the last was bounded by its windows, what it
// holds of the last one is; without this rule there would be no bound for both together.
bool machine::owes_nothing_old() const noexcept {
  return std::ranges::all_of(
      rx_, [](const rx_lane& each) { return static_cast<std::int64_t>(each.released) >= 0; });
}

// The peer knows nothing of this link any more. What it has not said to be consumed goes again, if
// it was kept, and may be lost otherwise.
void machine::begin_session() {
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    tx_lane& to = tx_[lane];
    rewind_lane(lane, to.consumed);
    to.past += to.consumed;
    to.consumed_before += to.consumed;
    to.accepted -= to.consumed;
    to.framed = to.sent = to.consumed = to.spent = to.peer_received = to.lost_here = 0;

    rx_lane& from = rx_[lane];
    from.received_before += from.received;
    from.missed_before += from.missed;
    // What the application still holds is a debt: below zero, modulo 2^64.
    from.released -= from.arrived;
    from.received = from.missed = from.arrived = from.told_received = 0;
  }
  session_open_ = false;
}

void machine::handle_refusal(const refusal& from) {
  const errc code = known_code(static_cast<std::uint64_t>(from.code));
  const std::string why = "refused: " + from.text;
  if (connections_ == 0) return end(code, why);  // the peer has hung up: nothing to tell
  switch (code) {
    case errc::refused:
    case errc::unauthorized:
      if (resuming_) resumable_ = false;  // it does not hold the link: a new session will do
      [[fallthrough]];
    case errc::limit_reached:
    case errc::resource_exhausted:
      return break_off(errc::link_lost, why);
    default:
      return end(code, why);
  }
}

void machine::handle_welcome(const welcome& from) {
  if (from.version < version_lowest || from.version > version_highest) {
    return fail(errc::unsupported, "peer chose version " + std::to_string(from.version));
  }
  if (from.link_id != local_.link_id || from.received.has_value() != resuming_) {
    return fail(errc::protocol_violation, "welcome to another link");
  }
  local_.attach_secret = from.attach_secret;
  local_.resume_secret = from.resume_secret;
  if (resuming_) {
    if (!rewind(*from.received)) return;
    established_ = true;
    agree(from.features);
    return say_resumed();
  }
  if (connections_ != 0 && takes_less(from.limits, peer_)) {
    return fail(errc::unsupported, "the peer takes less than before its connection broke");
  }
  adopt_limits(from.limits);
  resumable_ = agrees_to_resume(from.features);
  agree(from.features);
  go_online();
}

bool machine::may_resume(const hello& peer) const noexcept {
  return !ended() && may_survive() && peer.incarnation > local_.incarnation &&
         peer.lowest <= version_highest && peer.highest >= version_lowest;
}

void machine::welcome_back(const hello& peer, const secret& attach_secret,
                           clock::time_point now) noexcept {
  local_.incarnation = peer.incarnation;
  local_.attach_secret = attach_secret;
  agree(peer.features);
  resuming_ = greeting_ = established_ = true;
  heard(now);
  handshake_deadline_ = now + local_.handshake_timeout;
  try {
    if (!rewind(peer.received)) return;
    say_welcome(peer);
    say_resumed();
  } catch (const std::bad_alloc&) {
    fail(errc::resource_exhausted, "no memory to resume");
  }
}

void machine::say_welcome(const hello& peer) {
  welcome answer;
  answer.version = std::min(peer.highest, version_highest);
  answer.features = (resumable_ ? feature::resume : 0) | (may_share_ ? feature::share : 0) |
                    (may_lend_ ? feature::lend | passes_ : 0);
  answer.link_id = peer.link_id;
  answer.incarnation = local_.incarnation;
  answer.attach_secret = local_.attach_secret;
  answer.resume_secret = local_.resume_secret;
  answer.limits = local_.local;
  if (resuming_) {
    auto& received = answer.received.emplace();
    for (std::size_t lane = 0; lane < lane_count; ++lane) received[lane] = rx_[lane].received;
  }
  append(0, encode(answer));
}

void machine::say_resumed() {
  resumption all;
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    raise_grant(lane, std::max(rx_[lane].granted, grant_target(lane)));
    all.lost[lane] = tx_[lane].lost_here;
    all.granted[lane] = rx_[lane].granted;
    all.received[lane] = rx_[lane].arrived;
    all.consumed[lane] = taken(lane);
  }
  append(0, encode(all));
}

void machine::handle_resumed(const resumption& from) {
  if (!offline_ || !resuming_) return fail(errc::protocol_violation, "RESUMED without a break");
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    tx_lane& to = tx_[lane];
    if (from.consumed[lane] > to.framed || from.lost[lane] < rx_[lane].missed) {
      return fail(errc::protocol_violation, "RESUMED with numbers that cannot be");
    }
    to.spent = to.peer_received = from.received[lane];
    to.granted = from.granted[lane];
    to.consumed = std::max(to.consumed, from.consumed[lane]);
    forget_consumed(to);
    rx_[lane].missed = from.lost[lane];
  }
  go_online();
}

void machine::go_online() noexcept {
  offline_ = greeting_ = false;
  established_ = session_open_ = true;
  resumed_ = resuming_;
  ++connections_;
  offline_deadline_ = clock::time_point::max();
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    raise_grant(lane, rx_[lane].granted);  // how often to report is agreed now
    settle_growth(lane);
    tx_[lane].blocked = false;
  }
  happened_.writable = (1U << channel_count) - 1;
  happened_.established = true;
}

}  // namespace hawser::wire
