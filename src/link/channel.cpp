// SPDX-License-Identifier: Apache-2.0
// The operations of a channel: what each does at once, what it waits for, and how it is cancelled.
#include <algorithm>
#include <new>
#include <utility>

#include "core/assert.hpp"
#include "link/link_core.hpp"

namespace hawser {

using detail::link_core;

namespace detail {

// ---- what all operations share --------------------------------------------------------------

bool channel_operation::ready() noexcept {
  return owner_->owner().at_home() && attempt();
}

// On home, ready() has just tried. Elsewhere the operation goes home first and tries there; the
// task resumes on home either way.
bool channel_operation::suspend(std::coroutine_handle<> waiter,
                                const task_context& context) noexcept {
  link_core& core = owner_->owner();
  if (!keep_bytes()) {
    fail(errc::resource_exhausted);
    return false;
  }
  begin(core.home(), waiter, context);
  set_urgency(owner_->api().kind());
  if (!core.at_home()) {
    travel();
    return true;
  }
  enqueue();
  watch_stop();
  return true;
}

void channel_operation::on_arrival() noexcept {
  if (attempt()) return resume_here();
  enqueue();
  watch_stop();
}

failure channel_operation::why() const {
  wire::machine& wire = owner_->wire();
  if (code_ == errc::link_lost && wire.ended()) {
    const failure& link = wire.why();  // its own code may say more, such as protocol_violation
    return {code_, link.code() == code_ ? link.detail() : link.text()};
  }
  static constexpr const char* names[] = {"control", "rpc", "stream", "bulk"};
  return {code_, std::string("channel ") + names[owner_->index()]};
}

// ---- channel_core ---------------------------------------------------------------------------

void channel_core::sent() noexcept {
  owner_->touch(index_);
  if (wire().is_worth_a_flush(index_)) owner_->flush_ring(wire().pipe_of(index_));
}

errc channel_core::ended_code() noexcept {
  wire::machine& machine = wire();
  return machine.ended() && machine.why().code() != errc::closed ? errc::link_lost : errc::closed;
}

std::optional<message> channel_core::take() noexcept {
  if (!has_message()) return std::nullopt;
  return take_next();
}

template <class Make>
auto channel_core::take_as(Make make) noexcept {
  owner_->note_delivery();
  wire::inbound next = arrived_->take(index_);
  const std::uint32_t lane_and_flag =
      next.lane | (next.reassembled ? link_core::reassembled_flag : 0);
  return make(std::move(next.payload), next.header,
              next.lane % 2 == 1 ? lane::urgent : lane::normal,
              lease(*owner_, lane_and_flag, next.cost));
}

std::optional<message> channel_core::take_next() noexcept {
  return take_as([](auto&&... parts) noexcept {
    return std::optional<message>(std::in_place, std::forward<decltype(parts)>(parts)...);
  });
}

void channel_core::take_into(std::vector<message>& room) noexcept {
  take_as([&](auto&&... parts) noexcept {
    room.emplace_back(std::forward<decltype(parts)>(parts)...);
  });
}

void channel_core::retry(waiter_list& waiting) noexcept {
  while (!waiting.empty()) {
    channel_operation& first = *waiting.first();
    if (!first.attempt()) return;
    waiting.remove(first);
    first.finish();
  }
}

// Those behind one that gives up may need less than it did.
void channel_core::leave(waiter_list& waiting, channel_operation& gone) noexcept {
  waiting.remove(gone);
  gone.finish();
  retry(waiting);
}

void channel_core::wait_to_receive(channel_operation& one) noexcept {
  HAWSER_ASSERT(receivers.empty());  // one receiver a channel at a time
  receivers.push(one);
}

bool channel_core::nothing_left(channel_operation& receiver) noexcept {
  if (wire().at_end(index_)) return true;
  if (!wire().ended()) return false;
  if (wire().why().code() != errc::closed) receiver.fail(errc::link_lost);
  return true;
}

void channel_core::readable() noexcept {
  retry(receivers);
}

void channel_core::writable() noexcept {
  for (auto& lane_senders : senders_) retry(lane_senders);
  retry_flushers();  // a finish() may have waited for the last growing message
}

void channel_core::flushed() noexcept {
  retry_flushers();
}

void channel_core::wait_for_flush(channel_operation& one) noexcept {
  flushers_.push(one);
  owner_->note_flushers(index_, true);
}

void channel_core::stop_waiting_for_flush(channel_operation& one) noexcept {
  leave(flushers_, one);
  owner_->note_flushers(index_, !flushers_.empty());
}

void channel_core::retry_flushers() noexcept {
  if (flushers_.empty()) return;
  retry(flushers_);
  owner_->note_flushers(index_, !flushers_.empty());
}

}  // namespace detail

// ---- send -----------------------------------------------------------------------------------

// Nearly always there is credit and room, and nobody waits: then this is all.
bool channel::send_op::await_ready() noexcept {
  link_core& link = owner_->owner();
  if (!link.at_home()) return false;
  if (link.may_send_to_ring() && owner_->senders(lane_).empty() &&
      link.send_to_ring(owner_->index(), owner_->lane_index(lane_), message_.bytes(),
                        message_.header())) {
    if (!borrows_) message_.let_go();
    return true;
  }
  if (!owner_->senders(lane_).empty() ||
      !link.wire().send_quickly(owner_->lane_index(lane_), message_.bytes(), message_.header())) {
    return attempt();
  }
  link.touch(owner_->index());
  if (!borrows_) message_.let_go();
  return true;
}

bool channel::send_op::attempt() noexcept {
  wire::machine& wire = owner_->wire();
  const std::size_t index = owner_->lane_index(lane_);
  if (started_) {
    if (wire.growing(index) && !wire.ended()) return false;
    if (wire.abandoned(index) || wire.growing(index)) fail(owner_->ended_code());
    return true;
  }
  if (owner_->senders(lane_).contains_others_before(*this)) return false;
  const auto said = borrows_ ? wire.send(index, message_.bytes(), message_.header())
                             : wire.send(index, message_);
  switch (said) {
    case wire::verdict::accepted:
      owner_->sent();
      return true;
    case wire::verdict::started:
      started_ = true;
      owner_->owner().touch();
      return false;
    case wire::verdict::blocked:
      return false;
    case wire::verdict::too_large:
      fail(errc::too_large);
      return true;
    case wire::verdict::ended:
      fail(owner_->ended_code());
      return true;
  }
  return true;
}

void channel::send_op::enqueue() noexcept {
  owner_->senders(lane_).push(*this);
}

void channel::send_op::on_cancel() noexcept {
  if (started_) return;  // the first byte has left: it completes
  fail(errc::cancelled);
  owner_->leave(owner_->senders(lane_), *this);
}

bool channel::send_op::keep_bytes() noexcept {
  if (!borrows_ || started_) return true;
  try {
    message_ = message(shared_buffer(buffer::copy_of(message_.bytes())), message_.header());
    borrows_ = false;
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

// ---- send_batch -----------------------------------------------------------------------------

bool channel::send_batch_op::attempt() noexcept {
  wire::machine& wire = owner_->wire();
  const std::size_t index = owner_->lane_index(lane_);
  if (started_) {
    if (wire.growing(index) && !wire.ended()) return false;
    if (wire.abandoned(index) || wire.growing(index)) {
      fail(owner_->ended_code());
      return true;
    }
    started_ = false;
    drop_first();
    if (stopped_ && left() != 0) {
      fail(errc::cancelled);
      return true;
    }
  }
  if (owner_->senders(lane_).contains_others_before(*this)) return false;
  while (left() != 0) {
    const auto said = borrowed_.empty() ? wire.send(index, messages_.front())
                                        : wire.send(index, borrowed_.front(), message_header{});
    switch (said) {
      case wire::verdict::accepted:
        drop_first();
        owner_->sent();
        continue;
      case wire::verdict::started:
        started_ = true;
        owner_->owner().touch();
        return false;
      case wire::verdict::blocked:
        return false;
      case wire::verdict::too_large:
        fail(errc::too_large);
        return true;
      case wire::verdict::ended:
        fail(owner_->ended_code());
        return true;
    }
  }
  return true;
}

void channel::send_batch_op::enqueue() noexcept {
  owner_->senders(lane_).push(*this);
}

void channel::send_batch_op::on_cancel() noexcept {
  stopped_ = true;
  if (started_) return;  // this one completes, the rest stays
  fail(errc::cancelled);
  owner_->leave(owner_->senders(lane_), *this);
}

void channel::send_batch_op::drop_first() noexcept {
  if (borrowed_.empty()) {
    messages_ = messages_.subspan(1);
  } else {
    borrowed_ = borrowed_.subspan(1);
  }
}

// Of one that has started the wire has a copy already; what is kept of it stands for it in line.
bool channel::send_batch_op::keep_bytes() noexcept {
  if (borrowed_.empty()) return true;
  try {
    kept_.reserve(borrowed_.size());
    if (started_) kept_.emplace_back();
    for (const auto& bytes : borrowed_.subspan(kept_.size())) {
      kept_.emplace_back(shared_buffer(buffer::copy_of(bytes)));
    }
  } catch (const std::bad_alloc&) {
    return false;
  }
  borrowed_ = {};
  messages_ = kept_;
  return true;
}

failure channel::send_batch_op::why() const {
  const failure plain = acknowledged_operation::why();
  return {plain.code(), plain.detail() + ": " + std::to_string(count_ - left()) + " of " +
                            std::to_string(count_) + " messages were accepted"};
}

// ---- flush and finish -----------------------------------------------------------------------

bool channel::flush_op::attempt() noexcept {
  wire::machine& wire = owner_->wire();
  bool done = true;
  for (std::size_t i = 0; i < 2; ++i) {
    const std::size_t index = wire::lane_of(owner_->index(), i == 1);
    if (!aimed_) target_[i] = wire.accepted(index);
    done = done && wire.sent(index) >= target_[i];
  }
  aimed_ = true;
  if (done) return true;
  if (!wire.ended()) return false;
  fail(errc::link_lost);
  return true;
}

void channel::flush_op::enqueue() noexcept {
  owner_->wait_for_flush(*this);
}

void channel::flush_op::on_cancel() noexcept {
  fail(errc::cancelled);
  owner_->stop_waiting_for_flush(*this);
}

bool channel::finish_op::attempt() noexcept {
  wire::machine& wire = owner_->wire();
  if (!wire.finished(owner_->index())) {
    wire.finish(owner_->index());
    owner_->owner().touch();
  }
  bool done = true;
  for (const bool is_urgent : {false, true}) {
    const std::size_t index = wire::lane_of(owner_->index(), is_urgent);
    done = done && !wire.growing(index) && wire.sent(index) >= wire.accepted(index);
  }
  if (done) return true;
  if (!wire.ended()) return false;
  fail(errc::link_lost);
  return true;
}

void channel::finish_op::enqueue() noexcept {
  owner_->wait_for_flush(*this);
}

void channel::finish_op::on_cancel() noexcept {
  fail(errc::cancelled);
  owner_->stop_waiting_for_flush(*this);
}

// ---- loan -----------------------------------------------------------------------------------

bool channel::loan_op::attempt() noexcept {
  link_core& link = owner_->owner();
  if (link.wire().ended()) {
    fail(owner_->ended_code());
    return true;
  }
  try {
    if (shm::arena* const arena = link.arena_of(owner_->index(), bytes_)) {
      if (link.borrowers.contains_others_before(*this)) return false;
      if (auto lent = arena->loan(bytes_)) {
        buffer_ = std::move(*lent);
        return true;
      }
      if (arena->may_lend(bytes_)) return false;
    }
    buffer_ = buffer(bytes_);
  } catch (const std::bad_alloc&) {
    fail(errc::resource_exhausted);
  }
  return true;
}

void channel::loan_op::enqueue() noexcept {
  owner_->owner().borrowers.push(*this);
}

void channel::loan_op::on_cancel() noexcept {
  fail(errc::cancelled);
  owner_->leave(owner_->owner().borrowers, *this);
}

// ---- recv -----------------------------------------------------------------------------------

// Nothing can come between this and await_resume(), which follows at once.
bool channel::recv_op::await_ready() noexcept {
  if (!owner_->owner().at_home()) return false;
  waits_in_queue_ = owner_->has_message();
  return waits_in_queue_ || owner_->nothing_left(*this);
}

std::optional<message> channel::recv_op::take() noexcept {
  return owner_->take_next();
}

bool channel::recv_op::attempt() noexcept {
  message_ = owner_->take();
  if (message_.has_value()) return true;
  return owner_->nothing_left(*this);
}

void channel::recv_op::enqueue() noexcept {
  owner_->wait_to_receive(*this);
}

void channel::recv_op::on_cancel() noexcept {
  fail(errc::cancelled);
  owner_->leave(owner_->receivers, *this);
}

// A message is taken once there is room for it: without, it stays where it is.
bool channel::recv_batch_op::attempt() noexcept {
  try {
    while (messages_.size() < most_ && owner_->has_message()) {
      if (messages_.size() == messages_.capacity()) {
        messages_.reserve(std::min(most_, messages_.size() + owner_->ready_messages()));
      }
      owner_->take_into(messages_);
    }
  } catch (const std::bad_alloc&) {
    if (messages_.empty()) fail(errc::resource_exhausted);
    return true;
  }
  if (!messages_.empty() || most_ == 0) return true;
  return owner_->nothing_left(*this);
}

void channel::recv_batch_op::enqueue() noexcept {
  owner_->wait_to_receive(*this);
}

void channel::recv_batch_op::on_cancel() noexcept {
  fail(errc::cancelled);
  owner_->leave(owner_->receivers, *this);
}

// ---- the handle -----------------------------------------------------------------------------

channel::send_op channel::send(std::string_view text, lane via) {
  return {*core_, std::as_bytes(std::span(text)), message_header{}, via};
}

channel::send_op channel::send(std::span<const std::byte> bytes, message_header header, lane via) {
  return {*core_, bytes, header, via};
}

channel::send_op channel::send(buffer&& bytes, lane via) {
  return {*core_, message(shared_buffer(std::move(bytes))), via};
}

channel::send_op channel::send(shared_buffer bytes, lane via) {
  return {*core_, message(std::move(bytes)), via};
}

channel::send_batch_op channel::send_batch(std::span<message> messages, lane via) {
  return {*core_, messages, via};
}

channel::send_batch_op channel::send_batch(std::span<const std::span<const std::byte>> messages,
                                           lane via) {
  return {*core_, messages, via};
}

channel::loan_op channel::loan(std::size_t bytes) {
  return {*core_, bytes};
}

channel::flush_op channel::flush() {
  return flush_op(*core_);
}

channel::recv_batch_op channel::recv_batch(std::size_t most) {
  return {*core_, most};
}

channel::finish_op channel::finish() {
  return finish_op(*core_);
}

bool channel::try_send(std::span<const std::byte> bytes, lane via) {
  HAWSER_ASSERT(core_->owner().at_home());
  if (!core_->senders(via).empty()) return false;
  switch (core_->wire().send_at_once(core_->lane_index(via), bytes, message_header{})) {
    case wire::verdict::accepted:
      core_->sent();
      return true;
    case wire::verdict::started:
    case wire::verdict::blocked:
      return false;
    case wire::verdict::too_large:
      failure(errc::too_large, "try_send").raise();
    case wire::verdict::ended:
      failure(core_->ended_code(), "try_send").raise();
  }
  return false;
}

std::optional<message> channel::try_recv() {
  HAWSER_ASSERT(core_->owner().at_home());
  return core_->take();
}

channel_counts channel::counts() const noexcept {
  channel_counts sum;
  for (const bool is_urgent : {false, true}) {
    const auto one = core_->wire().counts(wire::lane_of(core_->index(), is_urgent));
    sum.accepted += one.accepted;
    sum.sent += one.sent;
    sum.consumed += one.consumed;
    sum.received += one.received;
    sum.taken += one.taken;
    sum.lost += one.lost;
    sum.missed += one.missed;
  }
  return sum;
}

priority channel::kind() const noexcept {
  return static_cast<priority>(core_->index());
}

}  // namespace hawser
