// SPDX-License-Identifier: Apache-2.0
#include "shm/port.hpp"

#include <new>

#include "hawser/errc.hpp"
#include "shm/ring_stream.hpp"

namespace hawser::shm {

port::port(detail::worker& home, segment mapped, side own, platform::native_handle socket,
           port_events& owner)
    : home_(home),
      segment_(std::move(mapped)),
      own_(own),
      socket_(socket),
      watched_(platform::watch_socket(socket)),
      owner_(owner),
      bell_(segment_.bell_of(own)),
      peers_bell_(segment_.bell_of(other(own))),
      fences_(segment_.state_of(own).fences),
      word_wait_(*this, &port::on_word),
      socket_wait_(*this, &port::on_socket) {
  introduce(home_, segment_, own);
  arm_socket();
}

void port::introduce(detail::worker& home, const segment& shared, side own) noexcept {
  side_state& ours = shared.state_of(own);
  const bool by_word = home.reactor().waits_for_words();
  const bool has_barriers = platform::join_barriers();
  ours.woken_by_word.store(by_word ? 1 : 0, std::memory_order_relaxed);
  ours.has_barriers.store(has_barriers ? 1 : 0, std::memory_order_relaxed);
}

port::~port() {
  platform::close(socket_);
}

void port::abandon(port* gone) noexcept {
  gone->home_.unwatch(*gone);
  gone->abandoned_ = true;
  for (wait* const each : {&gone->word_wait_, &gone->socket_wait_}) {
    if (each->armed) gone->home_.reactor().cancel_wait(*each);
  }
  static_cast<void>(gone->is_over());
}

// True: it was abandoned, and is gone now, or will be.
bool port::is_over() noexcept {
  if (!abandoned_) return false;
  if (!word_wait_.armed && !socket_wait_.armed) delete this;
  return true;
}

// What the peer says of its barriers was written before it handed over the segment, or took it.
std::unique_ptr<ring_stream> port::open(std::size_t channel, stream_events& owner) {
  barriers_.full = segment_.state_of(own_).has_barriers.load(std::memory_order_relaxed) == 0 ||
                   segment_.state_of(other(own_)).has_barriers.load(std::memory_order_relaxed) == 0;
  auto made = std::make_unique<ring_stream>(*this, channel, segment_.writer(channel, own_),
                                            segment_.reader(channel, other(own_)), owner);
  streams_[channel] = made.get();
  return made;
}

void port::forget(const ring_stream& gone) noexcept {
  streams_[gone.channel()] = nullptr;
}

// ---- awake ----------------------------------------------------------------------------------

bool port::look() noexcept {
  bool found = false;
  for (std::size_t i = 0; i < ring_count; ++i) {
    if (streams_[i] != nullptr) found |= streams_[i]->look();
  }
  return found;
}

// A peer that is dead has committed at most what its rings hold, of which a look takes a step or
// all there is. One that is not, and goes on writing, is not waited for.
void port::drain() noexcept {
  constexpr std::size_t looks_most = ring_count * ring_size_max / ring_stream::look_bytes;
  for (std::size_t i = 0; i < looks_most && look(); ++i) {
  }
}

void port::stir() noexcept {
  if (asleep_) stay_awake();
  home_.watch(*this);
}

void port::wake_peer() noexcept {
  fence();
  bool is_asleep = peers_bell_.ring();
  if (is_asleep) {
    if (!barriers_.full) fences_.found_asleep();
  } else if (fences_.found_awake()) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    is_asleep = peers_bell_.ring();
  }
  if (!is_asleep) {
    ++counted_.wakeups_spared;
    return;
  }
  ++counted_.wakeups_sent;
  if (segment_.state_of(other(own_)).woken_by_word.load(std::memory_order_relaxed) == 1) {
    platform::wake_one(peers_bell_.word());
    return;
  }
  // If the socket is full, the peer has not heard of earlier ones yet; if it is gone, so is the
  // peer.
  const std::byte once{1};
  const platform::io_slice word{&once, 1};
  std::error_code ignored;
  static_cast<void>(platform::write_some(socket_, {&word, 1}, ignored));
}

// ---- asleep ---------------------------------------------------------------------------------

bool port::doze() noexcept {
  bell_.announce();
  asleep_ = true;
  for (ring_stream* const each : streams_) {
    if (each != nullptr) each->wait_for_room();
  }
  return arm_word();
}

bool port::arm_word() noexcept {
  if (word_wait_.armed || !home_.reactor().waits_for_words()) return true;
  try {
    home_.reactor().wait_while(bell_.word(), 1, word_wait_);
    word_wait_.armed = true;
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

void port::arm_socket() {
  home_.reactor().wait(watched_.get(), readiness::kind::readable, socket_wait_);
  socket_wait_.armed = true;
}

bool port::has_stirred() noexcept {
  if (bell_.was_rung()) return true;
  for (ring_stream* const each : streams_) {
    if (each != nullptr && each->has_stirred()) return true;
  }
  return false;
}

void port::stay_awake() noexcept {
  asleep_ = false;
  bell_.answer();
  for (ring_stream* const each : streams_) {
    if (each != nullptr) each->stop_waiting();
  }
}

void port::on_word(readiness& entry, std::error_code /*error*/) noexcept {
  port& self = static_cast<wait&>(entry).owner;
  self.word_wait_.armed = false;
  if (self.is_over()) return;
  self.stir();
  self.look();
}

void port::on_socket(readiness& entry, std::error_code /*error*/) noexcept {
  port& self = static_cast<wait&>(entry).owner;
  self.socket_wait_.armed = false;
  if (self.is_over()) return;
  self.stir();
  self.take_rings();
}

// What was rung for is there when the ring is read. More than there is room for is no peer's of
// ours: it gets its turn, and no more, as often as it likes.
void port::take_rings() noexcept {
  std::array<std::byte, 64> rings;
  std::error_code error;
  const std::size_t got = platform::read_some(socket_, rings, error);
  if (got != 0 || (error && platform::would_block(error))) {
    try {
      arm_socket();
      look();
      return;
    } catch (const std::exception&) {
      error = make_error_code(errc::resource_exhausted);
    }
  }
  drain();
  owner_.on_port_lost(error);
}

}  // namespace hawser::shm
