// SPDX-License-Identifier: Apache-2.0
#include "support/simulated_wire.hpp"

#include <algorithm>
#include <cstring>

namespace test {
namespace {

// Long enough that offsets into it look unrelated; prime, so that periods do not align.
constexpr std::size_t noise_bytes = 65'521;

const std::vector<std::byte>& noise() {
  static const std::vector<std::byte> table = [] {
    std::vector<std::byte> bytes(2 * noise_bytes);
    std::mt19937 engine(20'260'101);
    for (std::size_t i = 0; i < noise_bytes; ++i) {
      bytes[i] = bytes[i + noise_bytes] = static_cast<std::byte>(engine());
    }
    return bytes;
  }();
  return table;
}

template <class Visit>
bool visit_pattern(std::uint64_t number, std::size_t bytes, Visit visit) {
  const std::uint64_t mixed = number * 0x9e37'79b9'7f4a'7c15ULL;
  std::size_t at = 0;
  for (std::uint64_t run = mixed >> 20; at < bytes; run += noise_bytes / 3 + 1) {
    const std::size_t count = std::min(bytes - at, noise_bytes);
    const std::byte* const from = noise().data() + run % noise_bytes;
    if (!visit(at, std::span<const std::byte>(from, count))) return false;
    at += count;
  }
  return true;
}

}  // namespace

std::vector<std::byte> pattern(std::uint64_t number, std::size_t bytes) {
  std::vector<std::byte> made(bytes);
  visit_pattern(number, bytes, [&](std::size_t at, std::span<const std::byte> run) {
    std::memcpy(made.data() + at, run.data(), run.size());
    return true;
  });
  return made;
}

hawser::message message_of(std::uint64_t number, std::size_t bytes, hawser::message_header header) {
  auto content = hawser::buffer::copy_of(pattern(number, bytes));
  return hawser::message(hawser::shared_buffer(std::move(content)), header);
}

bool has_pattern(std::span<const std::byte> bytes, std::uint64_t number) {
  return visit_pattern(number, bytes.size(), [&](std::size_t at, std::span<const std::byte> run) {
    return std::memcmp(bytes.data() + at, run.data(), run.size()) == 0;
  });
}

simulated_wire::simulated_wire(machine& connecting, machine& accepting, std::uint64_t seed,
                               wire_habits habits)
    : habits_(habits), dice_(seed), now_(simulated_start()) {
  sides_[client].machine_ = &connecting;
  sides_[server].machine_ = &accepting;
}

hawser::wire::happenings simulated_wire::happened(std::size_t side) noexcept {
  collect(side);
  return std::exchange(sides_[side].collected, {});
}

void simulated_wire::collect(std::size_t side) {
  const auto news = sides_[side].machine_->take_happenings();
  auto& all = sides_[side].collected;
  all.readable |= news.readable;
  all.writable |= news.writable;
  all.flushed |= news.flushed;
  all.attach_wanted |= news.attach_wanted;
  all.established |= news.established;
  all.ended |= news.ended;
  for (std::size_t channel = 0; channel < hawser::wire::channel_count; ++channel) {
    if (!shared_ || (news.moved & 1U << channel) == 0) continue;
    const std::size_t pipe = channel == 0 ? hawser::wire::shared_main : channel;
    sides_[side].ring_readable[pipe] = true;
    if (!std::exchange(sides_[side].open[pipe], true)) sides_[side].machine_->attached(pipe);
  }
}

void simulated_wire::share() {
  for (auto& each : sides_) {
    if (each.machine_->ended() || !each.machine_->may_share()) return;
  }
  shared_ = true;
  for (auto& each : sides_) each.open[hawser::wire::shared_main] = true;
  sides_[server].machine_->shared();
  sides_[client].machine_->shared();
}

void simulated_wire::attach(std::size_t channel) {
  if (shared_) {
    if (sides_[client].open[channel] || !sides_[client].machine_->attach_allowed(channel)) return;
    sides_[client].open[channel] = true;
    sides_[client].machine_->attached(channel);
    return;
  }
  if (sides_[server].open[channel] || !sides_[server].machine_->attach_allowed(channel)) return;
  sides_[server].open[channel] = true;
  sides_[server].machine_->attached(channel);
  client_attaches_[channel] =
      now_ + std::chrono::microseconds(
                 dice_.below(2 * static_cast<std::uint64_t>(habits_.delay_max.count()) + 1));
}

void simulated_wire::reset(std::size_t pipe) {
  const auto why = std::make_error_code(std::errc::connection_reset);
  for (auto& side : sides_) {
    auto& out = side.out[pipe];
    out.under_way.clear();
    out.bytes_under_way = 0;
    out.shut = out.end_told = true;
    side.machine_->pipe_ended(pipe, why);
  }
}

bool simulated_wire::step() {
  // Starts at a random action and takes the first that is possible.
  constexpr std::size_t actions = 2 * (2 * pipes + 2);
  const std::size_t first = dice_.below(actions);
  for (std::size_t i = 0; i < actions; ++i) {
    const std::size_t chosen = (first + i) % actions;
    const std::size_t side = chosen % 2;
    const std::size_t action = chosen / 2;
    bool done = false;
    if (action < pipes) {
      done = write(side, action);
    } else if (action < 2 * pipes) {
      done = read(side, action - pipes);
    } else if (action == 2 * pipes) {
      done = tick(side);
    } else {
      done = leave(side);
    }
    if (done) return true;
  }
  return false;
}

bool simulated_wire::write(std::size_t side, std::size_t pipe) {
  side_state& from = sides_[side];
  direction& out = from.out[pipe];
  if (!from.open[pipe] || from.gone || out.shut) return false;
  if (!out.in_write) {
    if (out.bytes_under_way >= habits_.pipe_bytes || !from.machine_->has_output(pipe)) return false;
    std::vector<std::span<const std::byte>> pieces(dice_.between(1, habits_.pieces_max));
    pieces.resize(from.machine_->gather(pipe, pieces));
    collect(side);
    if (pieces.empty()) return false;
    out.writing = std::move(pieces);
    out.in_write = true;
  }
  if (out.writing.empty()) {
    out.in_write = false;
    from.machine_->written(pipe);
    collect(side);
    return true;
  }
  if (out.bytes_under_way >= habits_.pipe_bytes) return false;
  // The system takes some of it now, perhaps not all: the pieces must stay where they are.
  auto& piece = out.writing.front();
  const std::size_t count = dice_.one_in(3) ? dice_.between(1, piece.size()) : piece.size();
  burst sent;
  sent.due = now_;
  if (habits_.delay_max.count() != 0) {
    sent.due += std::chrono::microseconds(
        dice_.below(static_cast<std::uint64_t>(habits_.delay_max.count()) + 1));
  }
  if (!out.under_way.empty()) sent.due = std::max(sent.due, out.under_way.back().due);
  sent.bytes.assign(piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(count));
  piece = piece.subspan(count);
  out.carried += count;
  if (piece.empty()) out.writing.erase(out.writing.begin());
  if (!from.swallowed) {
    out.bytes_under_way += count;
    if (!out.under_way.empty() && out.under_way.back().due == sent.due) {
      auto& last = out.under_way.back().bytes;  // one read may take what several writes brought
      last.insert(last.end(), sent.bytes.begin(), sent.bytes.end());
    } else {
      out.under_way.push_back(std::move(sent));
    }
  }
  return true;
}

bool simulated_wire::read(std::size_t side, std::size_t pipe) {
  side_state& to = sides_[side];
  direction& in = sides_[1 - side].out[pipe];
  if (to.gone) {  // nobody reads: the bytes are lost
    const bool any = !in.under_way.empty();
    in.under_way.clear();
    in.bytes_under_way = 0;
    return any;
  }
  if (shared_ && pipe != 0 && !to.ring_readable[pipe]) return false;
  if (!to.open[pipe]) {
    auto& joins = client_attaches_[pipe];
    if (side != client || !joins.has_value() || *joins > now_) return false;
    joins.reset();
    to.open[pipe] = true;
    to.machine_->attached(pipe);
    collect(side);
    return true;
  }
  if (in.under_way.empty()) {
    if (!in.shut || in.end_told) return false;
    if (shared_ && (pipe != 0 || has_rings_to_drain(side))) return false;  // rings have no end
    in.end_told = true;
    to.machine_->pipe_ended(pipe, {});
    collect(side);
    return true;
  }
  burst& next = in.under_way.front();
  if (next.due > now_) return false;
  const std::size_t there = std::min(next.bytes.size() - next.taken, habits_.read_max);
  std::size_t count = dice_.one_in(2) ? there : dice_.between(1, there);
  const std::byte* const bytes = next.bytes.data() + next.taken;
  const auto space = to.machine_->direct_space(pipe);
  if (habits_.direct && !space.empty() && !dice_.one_in(4)) {
    count = std::min(count, space.size());
    std::memcpy(space.data(), bytes, count);
    to.machine_->receive_direct(pipe, count, now_);
  } else {
    auto* const block = hawser::detail::allocate_block(count);
    std::memcpy(block->data(), bytes, count);
    to.machine_->receive(pipe, block, count, now_);
  }
  collect(side);
  next.taken += count;
  in.bytes_under_way -= count;
  if (next.taken == next.bytes.size()) in.under_way.pop_front();
  return true;
}

bool simulated_wire::can_read(std::size_t side, std::size_t pipe) const {
  const side_state& to = sides_[side];
  return to.open[pipe] && (!shared_ || pipe == 0 || to.ring_readable[pipe]);
}

// What is in shared memory stays there when its writer has gone.
bool simulated_wire::has_rings_to_drain(std::size_t side) const {
  for (std::size_t pipe = 1; pipe < pipes; ++pipe) {
    if (can_read(side, pipe) && !sides_[1 - side].out[pipe].under_way.empty()) return true;
  }
  return false;
}

bool simulated_wire::tick(std::size_t side) {
  side_state& of = sides_[side];
  if (of.gone || of.machine_->next_deadline() > now_) return false;
  of.machine_->tick(now_);
  collect(side);
  return true;
}

// A link that has ended writes what is left to say and lets go of its sockets. One that is stuck in
// a write is not waited for.
bool simulated_wire::leave(std::size_t side) {
  side_state& of = sides_[side];
  if (of.gone || !of.machine_->ended()) return false;
  const std::size_t main = of.machine_->main_pipe();
  const direction& out = of.out[main];
  const bool can_write = !out.shut && (out.in_write || of.machine_->has_output(main)) &&
                         out.bytes_under_way < habits_.pipe_bytes;
  if (can_write) return false;
  of.gone = true;
  for (auto& pipe : of.out) pipe.shut = true;
  return true;
}

// When the next bytes or pipes are due; those that nobody can read do not count.
simulated_wire::time simulated_wire::next_arrival() const {
  auto next = time::max();
  for (std::size_t side = 0; side < sides_.size(); ++side) {
    const side_state& to = sides_[1 - side];
    if (to.gone) continue;
    for (std::size_t pipe = 0; pipe < pipes; ++pipe) {
      const auto& under_way = sides_[side].out[pipe].under_way;
      if (can_read(1 - side, pipe) && !under_way.empty())
        next = std::min(next, under_way.front().due);
    }
  }
  for (const auto& joins : client_attaches_) {
    if (joins.has_value() && !sides_[client].gone) next = std::min(next, *joins);
  }
  return next;
}

bool simulated_wire::advance() {
  auto next = next_arrival();
  for (const auto& side : sides_) {
    if (!side.gone) next = std::min(next, side.machine_->next_deadline());
  }
  if (next == time::max()) return false;
  now_ = std::max(now_, next);
  return true;
}

void simulated_wire::settle() {
  while (true) {
    while (step()) {
    }
    const auto next = next_arrival();
    if (next == time::max()) return;
    now_ = std::max(now_, next);
  }
}

}  // namespace test
