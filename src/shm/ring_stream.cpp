// SPDX-License-Identifier: Apache-2.0
#include "shm/ring_stream.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "core/assert.hpp"
#include "hawser/buffer.hpp"
#include "hawser/errc.hpp"
#include "shm/port.hpp"

namespace hawser::shm {

ring_stream::ring_stream(port& at, std::size_t channel, ring_writer<> to, ring_reader<> from,
                         stream_events& owner) noexcept
    : work(&ring_stream::run_closed),
      port_(at),
      channel_(channel),
      to_(to),
      from_(from),
      owner_(owner) {}

ring_stream::~ring_stream() {
  port_.forget(*this);
}

void ring_stream::start_reading() noexcept {
  reading_ = true;
  port_.stir();
}

bool ring_stream::look() noexcept {
  if (closing_ || ended_) return false;
  bool found = false;
  if (to_.broken()) {
    break_down();
    return true;
  }
  if (blocked_) {
    const std::size_t before = left_;
    blocked_ = !put();
    found = left_ != before;
    if (!blocked_) owner_.on_written({});
    if (closing_ || ended_) return true;
  }
  return (reading_ && take()) || found;
}

bool ring_stream::has_stirred() noexcept {
  if (closing_ || ended_) return false;
  if (blocked_ && to_.has_room(std::min({left_, record_least, to_.largest()}))) return true;
  if (to_.broken()) return true;
  return reading_ && from_.look() != ring_reader<>::found::nothing;
}

bool ring_stream::push_on() noexcept {
  if (!blocked_ || closing_ || ended_) return false;
  if (!to_.has_room(std::min(record_most, to_.largest()))) return false;
  blocked_ = !put();
  return !blocked_;
}

void ring_stream::wait_for_room() noexcept {
  if (blocked_) to_.wait_for_room();
}

void ring_stream::stop_waiting() noexcept {
  if (blocked_) to_.stop_waiting();
}

// A ring that is broken is the end of its stream, whatever it still holds.
void ring_stream::break_down() noexcept {
  if (std::exchange(ended_, true)) return;
  owner_.on_end(make_error_code(errc::protocol_violation));
}

// ---- writing ----------------------------------------------------------------------------------

bool ring_stream::write(std::span<const platform::io_slice> slices, notice /*when*/) noexcept {
  HAWSER_ASSERT(!blocked_ && !slices.empty() && slices.size() <= max_slices);
  if (closing_ || ended_) return false;
  port_.stir();
  std::copy(slices.begin(), slices.end(), slices_.begin());
  first_ = 0;
  count_ = slices.size();
  left_ = 0;
  for (const platform::io_slice& each : slices) left_ += each.size;
  blocked_ = !put();
  if (blocked_) ++port_.counted_.full_stalls;
  return !blocked_;
}

std::byte* ring_stream::place(std::size_t bytes) noexcept {
  if (blocked_ || closing_ || ended_) return nullptr;
  const std::size_t at = to_.claim(bytes);
  return at == ring_writer<>::no_room ? nullptr : to_.memory().at(at);
}

void ring_stream::commit(std::size_t bytes) noexcept {
  to_.commit(bytes);
  to_.publish();
  port_.wake_peer();
  port_.stir();
}

// True: all is in the ring.
bool ring_stream::put() noexcept {
  bool any = false;
  while (left_ != 0) {
    const std::size_t at = claim(left_);
    if (at == ring_writer<>::no_room) break;
    const std::size_t bytes = claimed_;
    copy_to(to_.memory().at(at), bytes);
    to_.commit(bytes);
    to_.publish();
    any = true;
  }
  if (any) port_.wake_peer();
  return left_ == 0;
}

std::size_t ring_stream::claim(std::size_t left) noexcept {
  claimed_ = std::min({left, record_most, to_.largest()});
  while (true) {
    const std::size_t at = to_.claim(claimed_);
    if (at != ring_writer<>::no_room || claimed_ <= record_least) return at;
    claimed_ = std::max(claimed_ / 2, record_least) / 8 * 8;
  }
}

void ring_stream::copy_to(std::byte* to, std::size_t bytes) noexcept {
  left_ -= bytes;
  while (bytes != 0) {
    platform::io_slice& from = slices_[first_];
    const std::size_t some = std::min(bytes, from.size);
    std::memcpy(to, from.data, some);
    to += some;
    bytes -= some;
    from.data += some;
    from.size -= some;
    if (from.size == 0) ++first_;
  }
}

// ---- reading ----------------------------------------------------------------------------------

// No writer of ours makes a record of nothing: a ring full of them would never come to an end.
ring_reader<>::found ring_stream::look_ahead() noexcept {
  using found = ring_reader<>::found;
  const found now = from_.look();
  return now == found::record && from_.bytes() == 0 ? found::broken : now;
}

bool ring_stream::take() noexcept {
  using found = ring_reader<>::found;
  found now = look_ahead();
  if (now == found::nothing) return false;
  std::size_t used = 0;
  while (now == found::record && !closing_ && !ended_ && used < look_bytes) {
    used += deliver();
    now = look_ahead();
  }
  if (closing_) return true;
  static_cast<void>(from_.give_back());
  port_.fence();
  if (from_.take_waiting()) port_.wake_peer();
  if (now == found::broken) break_down();
  return true;
}

// Into the place where it belongs, if the owner has one; otherwise into a block, with the records
// behind it that fit as well.
std::size_t ring_stream::deliver() noexcept {
  const std::byte* const from = from_.memory().at(from_.offset());
  const std::size_t bytes = from_.bytes();
  const auto space = owner_.direct_space();
  const std::size_t direct = std::min(space.size(), bytes);
  if (direct != 0) {
    std::memcpy(space.data(), from, direct);
    if (direct == bytes) from_.pop();
    owner_.on_direct(direct);
    if (direct == bytes || closing_ || ended_) {
      return direct / (look_bytes_direct / look_bytes) + 1;
    }
  }
  try {
    const std::size_t rest = bytes - direct;
    detail::block* const filled = detail::allocate_block(rest);
    std::memcpy(filled->data(), from + direct, rest);
    from_.pop();
    std::size_t all = rest;
    while (look_ahead() == ring_reader<>::found::record &&
           from_.bytes() <= filled->capacity - all) {
      std::memcpy(filled->data() + all, from_.memory().at(from_.offset()), from_.bytes());
      all += from_.bytes();
      from_.pop();
    }
    owner_.on_block(filled, all);
  } catch (const std::bad_alloc&) {
    if (!std::exchange(ended_, true)) owner_.on_end(make_error_code(errc::resource_exhausted));
  }
  return bytes;
}

// ---- closing ----------------------------------------------------------------------------------

void ring_stream::close() noexcept {
  if (std::exchange(closing_, true)) return;
  port_.home_.post(*this, priority::control);
}

void ring_stream::run_closed(detail::work& self) noexcept {
  static_cast<ring_stream&>(self).owner_.on_closed();
}

}  // namespace hawser::shm
