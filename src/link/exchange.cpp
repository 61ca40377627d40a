// SPDX-License-Identifier: Apache-2.0
#include "link/exchange.hpp"

#include <array>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>

namespace hawser::detail {

// The reactor may hold a readiness for a while after it was cancelled, so it has a life of its own.
class exchange::wait : public readiness {
 public:
  explicit wait(exchange& by) noexcept : readiness(&wait::on_ready), owner(&by) {}
  exchange* owner;  // null: given up

 private:
  static void on_ready(readiness& entry, std::error_code error) noexcept {
    auto& self = static_cast<wait&>(entry);
    exchange* const owner = self.owner;
    if (owner != nullptr) owner->wait_ = nullptr;
    delete &self;
    if (owner == nullptr) return;
    if (error) return owner->fail(errc::link_lost, "waiting for a socket");
    owner->step();
  }
};

exchange::exchange(worker& home, plan what, function done)
    : home_(home), plan_(std::move(what)), done_(std::move(done)), timer_(*this) {
  if (plan_.connecting || !plan_.words.empty()) wanted_ = readiness::kind::writable;
}

exchange::~exchange() {
  if (timer_.armed()) home_.disarm(timer_);
  if (wait_ != nullptr) {
    wait_->owner = nullptr;
    home_.reactor().cancel_wait(*wait_);
  }
  if (plan_.socket != platform::no_handle) platform::close(plan_.socket);
}

void exchange::start() noexcept {
  home_.arm(timer_, home_.now() + plan_.limit);
  if (!plan_.connecting) return step();
  try {
    begin_wait();
  } catch (const std::exception& error) {
    fail(errc::resource_exhausted, error.what());
  }
}

void exchange::begin_wait() {
  auto begun = std::make_unique<wait>(*this);
  home_.reactor().wait(plan_.socket, wanted_, *begun);
  wait_ = begun.release();
}

void exchange::on_limit(timer& entry) noexcept {
  static_cast<limit_timer&>(entry).owner.fail(errc::timed_out, "no first frame in time");
}

void exchange::step() noexcept {
  try {
    if (std::exchange(plan_.connecting, false)) {
      const std::error_code error = platform::finish_connect(plan_.socket);
      if (error) return fail(errc::unreachable, error.message());
    }
    if (!advance()) begin_wait();
  } catch (const std::exception& error) {
    fail(errc::resource_exhausted, error.what());
  }
}

bool exchange::advance() {
  std::error_code error;
  while (written_ < plan_.words.size()) {
    const platform::io_slice rest{plan_.words.data() + written_, plan_.words.size() - written_};
    written_ += written_ == 0 && !plan_.handles.empty()
                    ? platform::write_with_handles(plan_.socket, rest, plan_.handles, error)
                    : platform::write_some(plan_.socket, {&rest, 1}, error);
    if (!error) continue;
    wanted_ = readiness::kind::writable;
    if (platform::would_block(error)) return false;
    return fail(errc::link_lost, error.message()), true;
  }
  wanted_ = readiness::kind::readable;
  return read_frame();
}

// As much as there is: a question that came with its hello is answered together with it.
bool exchange::read_frame() {
  std::array<std::byte, wire::header_bytes_max> room;
  while (true) {
    std::error_code error;
    const std::size_t got = plan_.over_unix ? platform::read_with_handles(
                                                  plan_.socket, room, came_.handles.all(), error)
                                            : platform::read_some(plan_.socket, room, error);
    if (error && platform::would_block(error)) return false;
    if (error) return fail(errc::link_lost, error.message()), true;
    if (got == 0) return fail(errc::link_lost, "hung up before the first frame"), true;
    read_.insert(read_.end(), room.begin(), room.begin() + static_cast<std::ptrdiff_t>(got));
    if (read_.size() < wire::length_bytes) continue;
    const auto whole = wire::opening_bytes(std::span(read_).first<wire::length_bytes>());
    if (!whole.has_value()) {
      return fail(errc::protocol_violation, "the first frame is no handshake"), true;
    }
    if (read_.size() < *whole) continue;
    const auto header = read_.begin() + wire::length_bytes;
    came_.header.assign(header, header + wire::load_length(read_.data()));
    came_.rest.assign(read_.begin() + static_cast<std::ptrdiff_t>(*whole), read_.end());
    return finish(std::nullopt), true;
  }
}

void exchange::fail(errc code, std::string_view detail) noexcept {
  outcome why;
  try {
    why.emplace(code, std::string(detail));
  } catch (const std::bad_alloc&) {
    why.emplace(code);
  }
  finish(std::move(why));
}

void exchange::finish(outcome why) noexcept {
  if (timer_.armed()) home_.disarm(timer_);
  if (why.has_value()) platform::close(std::exchange(plan_.socket, platform::no_handle));
  const function done = std::move(done_);
  done(std::move(why), std::exchange(plan_.socket, platform::no_handle), std::move(came_));
}

}  // namespace hawser::detail
