// SPDX-License-Identifier: Apache-2.0
#include "sim/reactor.hpp"

#include <algorithm>
#include <utility>

#include "hawser/buffer.hpp"

namespace sim {

/// A socket that a reactor has taken over, until it is closed or destroyed.
class reactor::owned_socket : public reactor::source {
 public:
  owned_socket(const owned_socket&) = delete;
  owned_socket& operator=(const owned_socket&) = delete;

 protected:
  owned_socket(reactor& home, native_handle socket) : home_(home), socket_(socket) {
    home_.add(*this);
  }
  ~owned_socket() override {
    if (socket_ != hawser::platform::no_handle) close_now();
  }
  void close_now() {
    home_.around().close(std::exchange(socket_, hawser::platform::no_handle));
    home_.remove(*this);
  }

  reactor& home_;
  native_handle socket_;
};

// ---- streams ----------------------------------------------------------------------------------

/// A socket in a reactor: reads and writes come up short, and are told late.
class stream final : public hawser::stream, private reactor::owned_socket {
 public:
  stream(reactor& home, native_handle socket, hawser::stream_events& owner)
      : owned_socket(home, socket), owner_(owner) {}

  void start_reading() noexcept override { reading_ = true; }
  [[nodiscard]] bool write(std::span<const io_slice> slices, notice /*when*/) noexcept override {
    if (closing_) return false;
    unwritten_.assign(slices.begin(), slices.end());
    const bool at_once = !home_.around().dice().one_in(3);
    if (at_once && move_bytes()) return !write_error_;
    writing_ = true;
    return false;
  }
  void close() noexcept override { closing_ = true; }

 private:
  // Small enough that direct reads happen often.
  static constexpr std::size_t direct_bytes_min = 256;

  bool is_due() override {
    if (closing_) return true;
    if (writing_ && home_.around().is_writable(socket_)) return true;
    return reading_ && !ended_ && home_.around().is_readable(socket_);
  }

  void tell() override {
    if (closing_) {
      close_now();
      owner_.on_closed();
      return;
    }
    if (writing_ && home_.around().is_writable(socket_) && home_.around().dice().one_in(2)) {
      if (!move_bytes()) return;
      writing_ = false;
      owner_.on_written(std::exchange(write_error_, {}));
      return;
    }
    if (reading_ && !ended_) read();
  }

  // True: all is written, or it has failed.
  bool move_bytes() {
    while (!unwritten_.empty()) {
      const std::size_t moved = home_.around().write(socket_, unwritten_, write_error_);
      if (hawser::platform::would_block(write_error_)) write_error_.clear();
      if (write_error_) return true;
      if (moved == 0) return false;
      std::size_t left = moved;
      while (left != 0) {
        io_slice& first = unwritten_.front();
        const std::size_t now = std::min(left, first.size);
        first.data += now;
        first.size -= now;
        left -= now;
        if (first.size == 0) unwritten_.erase(unwritten_.begin());
      }
    }
    return true;
  }

  void read() {
    const auto space = owner_.direct_space();
    std::error_code error;
    std::size_t got = 0;
    if (space.size() >= direct_bytes_min) {
      got = home_.around().read(socket_, space, error);
      if (got != 0) return owner_.on_direct(got);
    } else {
      hawser::detail::block* const room = hawser::detail::allocate_block(8 << 10);
      got = home_.around().read(socket_, {room->data(), room->capacity}, error);
      if (got != 0) return owner_.on_block(room, got);
      hawser::detail::release(room);
    }
    if (hawser::platform::would_block(error)) return;
    ended_ = true;
    owner_.on_end(error);
  }

  hawser::stream_events& owner_;
  bool reading_ = false;
  bool ended_ = false;
  bool writing_ = false;
  bool closing_ = false;
  std::error_code write_error_;
  std::vector<io_slice> unwritten_;
};

// ---- acceptors --------------------------------------------------------------------------------

class acceptor final : public hawser::acceptor, private reactor::owned_socket {
 public:
  acceptor(reactor& home, native_handle socket, hawser::accept_events& owner)
      : owned_socket(home, socket), owner_(owner) {}

  void start() noexcept override { started_ = true; }
  void close() noexcept override { closing_ = true; }

 private:
  bool is_due() override {
    if (closing_) return true;
    const listening* const own = home_.around().find_listener(socket_);
    return started_ && own != nullptr && !own->waiting.empty() &&
           own->waiting.front().due <= home_.now();
  }
  void tell() override {
    if (closing_) {
      close_now();
      owner_.on_closed();
      return;
    }
    if (home_.around().is_exhausted(home_.host())) {
      started_ = false;
      return owner_.on_accept_failed(make_error_code(std::errc::too_many_files_open));
    }
    const native_handle accepted = home_.around().accept(socket_);
    if (accepted != hawser::platform::no_handle) owner_.on_accept(accepted);
  }

  hawser::accept_events& owner_;
  bool started_ = false;
  bool closing_ = false;
};

// ---- waits ------------------------------------------------------------------------------------

struct reactor::waiter final : source {
  waiter(reactor& of, native_handle waited, hawser::readiness::kind for_what,
         hawser::readiness& to) noexcept
      : home(of), handle(waited), what(for_what), entry(&to) {
    home.wait_begins();
  }

  bool is_due() override {
    if (cancelled) return true;
    if (what == hawser::readiness::kind::writable) return home.world_.is_writable(handle);
    return home.world_.is_readable(handle);
  }
  void tell() override {
    hawser::readiness& done = *entry;
    const auto error = cancelled ? make_error_code(std::errc::operation_canceled)
                                 : std::error_code();
    done.backend = nullptr;
    home.wait_ends();
    home.remove(*this);
    std::erase_if(home.waiters_, [this](const auto& each) { return each.get() == this; });
    done.done(done, error);
  }

  reactor& home;
  const native_handle handle;
  const hawser::readiness::kind what;
  hawser::readiness* entry;
  bool cancelled = false;
};

// ---- the reactor ------------------------------------------------------------------------------

reactor::reactor(world& around) : world_(around), host_(around.running_host()) {
  world_.attach(*this);
}

reactor::~reactor() {
  world_.detach(*this);
}

std::unique_ptr<hawser::stream> reactor::open(native_handle socket,
                                              hawser::stream_events& owner) {
  return std::make_unique<stream>(*this, socket, owner);
}

std::unique_ptr<hawser::acceptor> reactor::listen(native_handle socket,
                                                  hawser::accept_events& owner) {
  return std::make_unique<acceptor>(*this, socket, owner);
}

void reactor::wait(native_handle handle, hawser::readiness::kind what,
                   hawser::readiness& entry) {
  waiters_.push_back(std::make_unique<waiter>(*this, handle, what, entry));
  entry.backend = waiters_.back().get();
  add(*waiters_.back());
}

void reactor::cancel_wait(hawser::readiness& entry) noexcept {
  if (entry.backend != nullptr) static_cast<waiter*>(entry.backend)->cancelled = true;
}

void reactor::remove(source& gone) noexcept {
  std::erase(sources_, &gone);
}

bool reactor::is_due() {
  return woken_ || std::ranges::any_of(sources_, [](source* each) { return each->is_due(); });
}

// Some of what is due, in any order; what is passed over comes in a later turn.
bool reactor::tell_some() {
  bool any = false;
  test::dice& dice = world_.dice();
  for (unsigned left = 16; left != 0; --left) {
    std::vector<source*> due;
    for (source* each : sources_) {
      if (each->is_due()) due.push_back(each);
    }
    if (due.empty()) break;
    due[dice.below(due.size())]->tell();
    any = true;
    if (dice.one_in(world_.network().late_event_one_in)) break;
  }
  return any;
}

void reactor::turn(hawser::clock::duration limit) noexcept {
  world_.pass_turn();
  const time until = now() + limit;
  bool any = std::exchange(woken_, false);
  any = tell_some() || any;
  while (!any && now() < until && world_.advance(until)) {
    any = tell_some() || std::exchange(woken_, false);
  }
}

}  // namespace sim
