// SPDX-License-Identifier: Apache-2.0
#include "os/reactor.hpp"

#include <algorithm>
#include <array>
#include <asio.hpp>
#include <atomic>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "core/assert.hpp"
#include "hawser/errc.hpp"
#include "os/asio/poll_handle.hpp"
#include "os/hot_streams.hpp"
#include "os/read_blocks.hpp"

// Asio tells when a socket is ready; the bytes are moved by platform::read_some() and write_some().
// Nothing else of Asio is used, because its own operations cost a queue and a handler per transfer.

namespace hawser {
namespace {

using asio::generic::stream_protocol;

// Behind a run of direct bytes comes mostly the header of the next; what follows it belongs into
// the owner's memory again, so little is read of it into a block.
constexpr std::size_t tail_bytes = 512;
constexpr std::size_t bytes_an_event = 256 << 10;  // then others get their turn
constexpr unsigned reads_an_event = 4;
constexpr unsigned writes_an_event = 4;
constexpr unsigned accepts_an_event = 16;
constexpr unsigned handlers_a_turn = 64;

class portable_reactor;
class portable_stream;

// Asio's category does not compare with std::errc; its numbers are the system's.
std::error_code plain(const std::error_code& error) noexcept {
  if (error.category() != asio::system_category()) return error;
  return {error.value(), std::system_category()};
}

/// Something with an event to report from turn(), outside of any handler.
class reporter {
 public:
  reporter(const reporter&) = delete;
  reporter& operator=(const reporter&) = delete;

  virtual void report() noexcept = 0;  // may destroy the object

 protected:
  explicit reporter(portable_reactor& home) noexcept : home_(home) {}
  ~reporter() { HAWSER_ASSERT(!queued_); }
  void report_later() noexcept;
  [[nodiscard]] bool is_queued() const noexcept { return queued_; }

  portable_reactor& home_;

 private:
  friend class portable_reactor;

  reporter* next_ = nullptr;
  bool queued_ = false;
};

/// Room for a handler of which one at a time is under way: it is given to Asio without an
/// allocation, which may come where nobody could be told that it has failed.
class handler_memory {
 public:
  template <class T>
  class allocator {
   public:
    using value_type = T;
    explicit allocator(handler_memory& from) noexcept : from_(&from) {}
    template <class U>
    allocator(const allocator<U>& other) noexcept : from_(other.from_) {}

    T* allocate(std::size_t count) const {
      static_assert(alignof(T) <= alignof(std::max_align_t));
      if (count * sizeof(T) > sizeof(from_->room_)) throw std::bad_alloc();
      return reinterpret_cast<T*>(from_->room_.data());
    }
    void deallocate(T* /*used*/, std::size_t /*count*/) const noexcept {}
    bool operator==(const allocator& other) const noexcept { return from_ == other.from_; }

    handler_memory* from_;
  };

 private:
  alignas(std::max_align_t) std::array<std::byte, 256> room_;
};

/// A handler of an asynchronous wait in such room.
template <class F>
class placed_handler {
 public:
  using allocator_type = handler_memory::allocator<void*>;

  placed_handler(handler_memory& room, F function) noexcept
      : room_(&room), function_(std::move(function)) {}
  [[nodiscard]] allocator_type get_allocator() const noexcept { return allocator_type(*room_); }
  void operator()(const std::error_code& error) noexcept { function_(error); }

 private:
  handler_memory* room_;
  F function_;
};

class portable_reactor final : public reactor {
 public:
  portable_reactor() : keep_(io_.get_executor()) {}

  std::unique_ptr<stream> open(platform::native_handle socket, stream_events& owner) override;
  std::unique_ptr<acceptor> listen(platform::native_handle socket, accept_events& owner) override;
  void wait(platform::native_handle handle, readiness::kind what, readiness& entry) override;
  void cancel_wait(readiness& entry) noexcept override;
  void turn(clock::duration limit) noexcept override;
  void poll() noexcept override;
  void wake() noexcept override;
  platform::native_handle make_pollable() override;
  [[nodiscard]] bool has_more() const noexcept override { return more_ || first_ != nullptr; }

  [[nodiscard]] stream_protocol::socket adopt(platform::native_handle socket);
  [[nodiscard]] stream_protocol::socket adopt_or_close(platform::native_handle socket);

  void queue(reporter& ready) noexcept {
    if (std::exchange(ready.queued_, true)) return;
    ready.next_ = nullptr;
    (last_ == nullptr ? first_ : last_->next_) = &ready;
    last_ = &ready;
  }

  [[nodiscard]] read_blocks& blocks() noexcept { return blocks_; }
  [[nodiscard]] hot_streams<portable_stream>& hot() noexcept { return hot_; }
  /// The worker looks for work, and finds what is found now by it.
  [[nodiscard]] bool looking() const noexcept { return looking_; }
  [[nodiscard]] reactor_counters& count() noexcept { return counters_; }

 private:
  class wake_handler;
  class waiter;
  // Wakes also who waits in another loop, which Asio's own way does not.
  struct bell {
    explicit bell(portable_reactor& home);
    bell(const bell&) = delete;
    bell& operator=(const bell&) = delete;
    ~bell();
    void arm() noexcept;
    void rung() noexcept;
    void ring() noexcept;

    portable_reactor& home;
    stream_protocol::socket reading;
    platform::native_handle writing = platform::no_handle;
    std::atomic<bool> ringing{false};
  };

  bool report_all() noexcept;
  void turn_for_another_loop() noexcept;
  void run_more() noexcept;

  std::atomic<bool> waking_{false};
  // Both outlive the handlers in them, which io_ may still have at its end.
  handler_memory wake_memory_;
  handler_memory bell_memory_;
  asio::io_context io_{1};   // a concurrency hint: one thread runs it, others post
  asio::executor_work_guard<asio::io_context::executor_type> keep_;
  read_blocks blocks_;
  hot_streams<portable_stream> hot_;
  bool looking_ = false;
  reporter* first_ = nullptr;
  reporter* last_ = nullptr;
  unsigned patience_ = 0;
  unsigned turns_ = 0;
  unsigned looks_ = 0;
  bool more_ = false;  // handlers may be left, though nothing is readable
  std::unique_ptr<bell> bell_;  // only if another loop waits for us
};

void reporter::report_later() noexcept {
  home_.queue(*this);
}

// ---- streams ----------------------------------------------------------------------------------

/// What a write could not move at once.
class unwritten {
 public:
  /// Errors: throws std::bad_alloc.
  void assign(std::span<const platform::io_slice> slices) {
    slices_.assign(slices.begin(), slices.end());
    first_ = 0;
  }
  [[nodiscard]] std::span<const platform::io_slice> slices() const noexcept {
    return std::span(slices_).subspan(first_);
  }
  /// `bytes` from the start are written. True: that was all.
  bool advance(std::size_t bytes) noexcept {
    while (first_ < slices_.size() && bytes >= slices_[first_].size) {
      bytes -= slices_[first_++].size;
    }
    if (first_ == slices_.size()) return true;
    slices_[first_].data += bytes;
    slices_[first_].size -= bytes;
    return false;
  }

 private:
  std::vector<platform::io_slice> slices_;
  std::size_t first_ = 0;
};

class portable_stream final : public stream, private reporter {
 public:
  portable_stream(portable_reactor& home, stream_protocol::socket socket, stream_events& owner)
      : reporter(home), socket_(std::move(socket)), owner_(owner), native_(native()) {}

  void start_reading() noexcept override { wait_readable(); }
  [[nodiscard]] bool write(std::span<const platform::io_slice> slices,
                           notice when) noexcept override;
  void close() noexcept override;

  // For hot_streams.
  [[nodiscard]] bool read_inline() noexcept;
  void cool() noexcept;

 private:
  [[nodiscard]] platform::native_handle native() {
    return static_cast<platform::native_handle>(socket_.native_handle());
  }
  void report() noexcept override;

  void wait_readable() noexcept;
  /// True: something came.
  bool read_some() noexcept;
  void on_readable(const std::error_code& error) noexcept;
  /// Both: true if more may be there now.
  [[nodiscard]] bool read_direct(std::span<std::byte> space, std::size_t& moved) noexcept;
  [[nodiscard]] bool read_block(std::size_t& moved) noexcept;
  [[nodiscard]] bool read_tail(std::size_t& moved) noexcept;
  void end(std::error_code why) noexcept;
  [[nodiscard]] std::size_t read(std::span<std::byte> into, std::error_code& error) noexcept;

  void wait_writable() noexcept;
  void on_writable(const std::error_code& error) noexcept;
  [[nodiscard]] std::size_t send(std::span<const platform::io_slice> slices,
                                 std::error_code& error) noexcept;
  void finish_write(std::error_code error) noexcept;
  [[nodiscard]] bool under_way() const noexcept { return wait_read_ || wait_write_; }

  handler_memory read_memory_;
  handler_memory write_memory_;
  stream_protocol::socket socket_;
  stream_events& owner_;
  const platform::native_handle native_;
  bool wait_read_ = false;  // a handler is with Asio
  bool wait_write_ = false;
  bool closing_ = false;
  bool ended_ = false;
  bool tail_ = false;     // the last read was direct
  bool written_ = false;  // to be reported
  std::error_code write_error_;
  bool writing_ = false;
  bool hot_ = false;      // read inline; no handler for reading is with Asio
  unsigned finds_ = 0;    // by a worker that looked, since it slept
  unwritten rest_;
};

void portable_stream::wait_readable() noexcept {
  if (closing_ || ended_ || wait_read_) return;
  wait_read_ = true;
  ++home_.count().system_calls;
  socket_.async_wait(
      asio::socket_base::wait_read,
      placed_handler(read_memory_, [this](const std::error_code& error) { on_readable(error); }));
}

// Bounded, so that one busy peer does not keep the others waiting; a read that does not fill its
// space has emptied the socket and saves the one that would say so.
void portable_stream::on_readable(const std::error_code& error) noexcept {
  wait_read_ = false;
  if (closing_) {
    if (!under_way()) report_later();
    return;
  }
  ++home_.count().completions;
  if (error) {
    end(plain(error));
    return;
  }
  if (home_.looking() && !home_.hot().full()) {
    hot_ = ++finds_ >= hot_streams<portable_stream>::finds_to_heat;
  }
  if (hot_) home_.hot().add(*this);
  static_cast<void>(read_some());
  if (!hot_) wait_readable();
}

bool portable_stream::read_some() noexcept {
  std::size_t moved = 0;
  for (unsigned i = 0; i < reads_an_event && moved < bytes_an_event; ++i) {
    const auto space = owner_.direct_space();
    bool more = false;
    if (!space.empty()) {
      more = read_direct(space, moved);
    } else if (std::exchange(tail_, false)) {
      more = read_tail(moved);
    } else {
      more = read_block(moved);
    }
    if (closing_ || ended_ || !more) break;
  }
  return moved != 0;
}

bool portable_stream::read_inline() noexcept {
  if (closing_ || ended_) return false;
  ++home_.count().inline_reads;
  return read_some();
}

void portable_stream::cool() noexcept {
  hot_ = false;
  finds_ = 0;
  wait_readable();
}

std::size_t portable_stream::read(std::span<std::byte> into, std::error_code& error) noexcept {
  const auto bytes = platform::read_some(native_, into, error);
  ++home_.count().system_calls;
  home_.count().bytes_read += bytes;
  return bytes;
}

bool portable_stream::read_direct(std::span<std::byte> space, std::size_t& moved) noexcept {
  std::error_code error;
  const auto bytes = read(space, error);
  if (bytes == 0) {
    if (!platform::would_block(error)) end(error);
    return false;
  }
  moved += bytes;
  tail_ = true;
  owner_.on_direct(bytes);
  return bytes == space.size();
}

bool portable_stream::read_tail(std::size_t& moved) noexcept {
  detail::block* tail = nullptr;
  try {
    tail = detail::allocate_block(tail_bytes);
  } catch (const std::bad_alloc&) {
    end(make_error_code(errc::resource_exhausted));
    return false;
  }
  std::error_code error;
  const auto bytes = read({tail->data(), tail_bytes}, error);
  if (bytes == 0) {
    detail::release(tail);
    if (!platform::would_block(error)) end(error);
    return false;
  }
  moved += bytes;
  owner_.on_block(tail, bytes);
  return bytes == tail_bytes;
}

bool portable_stream::read_block(std::size_t& moved) noexcept {
  try {
    std::error_code error;
    ++home_.count().system_calls;
    const std::size_t most = hot_ ? read_blocks::inline_bytes : read_blocks::bytes_each;
    const auto came = home_.blocks().read(native_, most, error);
    home_.count().bytes_read += came.bytes;
    moved += came.bytes;
    if (came.bytes != 0) {
      owner_.on_block(came.block, came.bytes);
    } else if (!platform::would_block(error)) {
      end(error);
    }
    return !hot_ && came.bytes == most;
  } catch (const std::bad_alloc&) {
    end(make_error_code(errc::resource_exhausted));
    return false;
  }
}

void portable_stream::end(std::error_code why) noexcept {
  ended_ = true;
  owner_.on_end(why);
}

std::size_t total(std::span<const platform::io_slice> slices) noexcept {
  std::size_t bytes = 0;
  for (const auto& slice : slices) bytes += slice.size;
  return bytes;
}

// Tried at once: a socket is nearly always writable. A failure is reported by the next turn.
bool portable_stream::write(std::span<const platform::io_slice> slices,
                            notice /*when*/) noexcept {
  HAWSER_ASSERT(!writing_ && !slices.empty() && slices.size() <= max_slices);
  if (closing_) return false;
  std::error_code error;
  const auto bytes = send(slices, error);
  if (bytes == total(slices)) return true;
  writing_ = true;
  if (error) {
    finish_write(error);
    return false;
  }
  try {
    rest_.assign(slices);
    rest_.advance(bytes);
    wait_writable();
  } catch (const std::bad_alloc&) {
    finish_write(make_error_code(errc::resource_exhausted));
  }
  return false;
}

// Nothing now is no error here, and zero bytes.
std::size_t portable_stream::send(std::span<const platform::io_slice> slices,
                                  std::error_code& error) noexcept {
  const auto bytes = platform::write_some(native_, slices, error);
  if (error && platform::would_block(error)) error.clear();
  ++home_.count().system_calls;
  home_.count().bytes_written += bytes;
  return bytes;
}

void portable_stream::wait_writable() noexcept {
  wait_write_ = true;
  ++home_.count().system_calls;
  socket_.async_wait(
      asio::socket_base::wait_write,
      placed_handler(write_memory_, [this](const std::error_code& error) { on_writable(error); }));
}

void portable_stream::on_writable(const std::error_code& error) noexcept {
  wait_write_ = false;
  if (closing_) {
    if (!under_way()) report_later();
    return;
  }
  ++home_.count().completions;
  auto failed = plain(error);
  for (unsigned i = 0; i < writes_an_event && !failed; ++i) {
    const auto bytes = send(rest_.slices(), failed);
    if (rest_.advance(bytes)) {
      finish_write(failed);
      return;
    }
    if (bytes == 0) break;
  }
  if (failed) {
    finish_write(failed);
  } else {
    wait_writable();
  }
}

void portable_stream::finish_write(std::error_code error) noexcept {
  write_error_ = error;
  written_ = true;
  report_later();
}

void portable_stream::close() noexcept {
  if (std::exchange(closing_, true)) return;
  if (hot_) home_.hot().remove(*this);
  platform::shut_down(native_);
  std::error_code ignored;
  socket_.close(ignored);  // what is with Asio comes back as cancelled
  home_.count().system_calls += 3;
  if (!under_way()) report_later();
}

void portable_stream::report() noexcept {
  if (std::exchange(written_, false) && !closing_) {
    writing_ = false;
    owner_.on_written(write_error_);
  }
  if (closing_ && !under_way() && !is_queued()) owner_.on_closed();
}

// ---- acceptors --------------------------------------------------------------------------------

class portable_acceptor final : public acceptor, private reporter {
 public:
  portable_acceptor(portable_reactor& home, stream_protocol::socket socket, accept_events& owner)
      : reporter(home), socket_(std::move(socket)), owner_(owner) {}

  void start() noexcept override;
  void close() noexcept override;

 private:
  void report() noexcept override { owner_.on_closed(); }
  void on_ready(const std::error_code& error) noexcept;
  /// False: accepting has stopped.
  [[nodiscard]] bool accept_some() noexcept;

  handler_memory accept_memory_;
  stream_protocol::socket socket_;
  accept_events& owner_;
  bool waiting_ = false;
  bool closing_ = false;
};

void portable_acceptor::start() noexcept {
  if (closing_ || waiting_) return;
  waiting_ = true;
  ++home_.count().system_calls;
  socket_.async_wait(
      asio::socket_base::wait_read,
      placed_handler(accept_memory_, [this](const std::error_code& error) { on_ready(error); }));
}

void portable_acceptor::on_ready(const std::error_code& error) noexcept {
  waiting_ = false;
  if (closing_) {
    report_later();
    return;
  }
  ++home_.count().completions;
  if (error) {
    owner_.on_accept_failed(plain(error));
  } else if (accept_some()) {
    start();
  }
}

bool portable_acceptor::accept_some() noexcept {
  for (unsigned i = 0; i < accepts_an_event; ++i) {
    std::error_code error;
    const auto accepted =
        platform::accept(static_cast<platform::native_handle>(socket_.native_handle()), error);
    ++home_.count().system_calls;
    if (error) {
      owner_.on_accept_failed(error);
      return false;
    }
    if (accepted == platform::no_handle) return true;
    owner_.on_accept(accepted);
    if (closing_) return false;
  }
  return true;
}

void portable_acceptor::close() noexcept {
  if (std::exchange(closing_, true)) return;
  platform::shut_down(static_cast<platform::native_handle>(socket_.native_handle()));
  std::error_code ignored;
  socket_.close(ignored);
  home_.count().system_calls += 3;
  if (!waiting_) report_later();
}

}  // namespace

// ---- the reactor ------------------------------------------------------------------------------

namespace {

/// One wait of a handle that stays the caller's.
class portable_reactor::waiter {
 public:
  waiter(portable_reactor& home, readiness& entry)
      : home_(home), socket_(home.io_), entry_(&entry) {}

  /// Errors: throws std::bad_alloc or std::system_error; nothing has begun then.
  static void start(std::unique_ptr<waiter> self, platform::native_handle handle,
                    readiness::kind what) {
    self->socket_ = self->home_.adopt(handle);
    self->home_.wait_begins();
    self->entry_->backend = self.get();
    const auto how = what == readiness::kind::readable ? asio::socket_base::wait_read
                                                       : asio::socket_base::wait_write;
    auto& socket = self->socket_;
    auto& memory = self->memory_;
    socket.async_wait(how, placed_handler(memory, [self = std::move(self)](
                                                      const std::error_code& error) {
                        self->finish(plain(error));
                      }));
  }
  // Lets go of the handle at once: its owner may close it, and what has its number next is not to
  // be forgotten by epoll in its place.
  void cancel() noexcept { let_go(); }

 private:
  void let_go() noexcept {
    std::error_code ignored;
    socket_.release(ignored);
  }
  void finish(std::error_code error) noexcept {
    let_go();
    home_.wait_ends();
    entry_->backend = nullptr;
    entry_->done(*entry_, error);
  }

  portable_reactor& home_;
  handler_memory memory_;
  stream_protocol::socket socket_;
  readiness* entry_;
};

class portable_reactor::wake_handler {
 public:
  using allocator_type = handler_memory::allocator<void*>;

  explicit wake_handler(portable_reactor& home) noexcept : home_(&home) {}

  [[nodiscard]] allocator_type get_allocator() const noexcept {
    return allocator_type(home_->wake_memory_);
  }
  // Asio has given the memory back by now; release pairs with the exchange of the next wake().
  void operator()() const noexcept { home_->waking_.store(false, std::memory_order_release); }

 private:
  portable_reactor* home_;
};

stream_protocol::socket portable_reactor::adopt(platform::native_handle socket) {
  stream_protocol::socket adopted(io_);
  std::error_code error;
  // The family is not looked at for an open socket; any will do.
  adopted.assign(stream_protocol(asio::ip::tcp::v4()),
                 static_cast<stream_protocol::socket::native_handle_type>(socket), error);
  ++counters_.system_calls;
  if (error) throw std::system_error(plain(error), "cannot watch a socket");
  return adopted;
}

std::unique_ptr<stream> portable_reactor::open(platform::native_handle socket,
                                               stream_events& owner) {
  return std::make_unique<portable_stream>(*this, adopt_or_close(socket), owner);
}

std::unique_ptr<acceptor> portable_reactor::listen(platform::native_handle socket,
                                                   accept_events& owner) {
  return std::make_unique<portable_acceptor>(*this, adopt_or_close(socket), owner);
}

stream_protocol::socket portable_reactor::adopt_or_close(platform::native_handle socket) {
  try {
    return adopt(socket);
  } catch (...) {
    platform::close(socket);
    throw;
  }
}

void portable_reactor::wait(platform::native_handle handle, readiness::kind what,
                            readiness& entry) {
  waiter::start(std::make_unique<waiter>(*this, entry), handle, what);
  ++counters_.system_calls;
}

void portable_reactor::cancel_wait(readiness& entry) noexcept {
  if (entry.backend != nullptr) static_cast<waiter*>(entry.backend)->cancel();
}

bool portable_reactor::report_all() noexcept {
  if (first_ == nullptr) return false;
  reporter* next = std::exchange(first_, nullptr);
  last_ = nullptr;
  while (next != nullptr) {
    reporter& ready = *next;
    next = ready.next_;
    ready.queued_ = false;
    ready.report();
  }
  return true;
}

// What is to be reported is something that happened: then there is no waiting, and no system call
// before the worker has seen it.
void portable_reactor::turn(clock::duration limit) noexcept {
  const bool waits = limit > clock::duration::zero();
  if (report_all() && waits) return;
  if (bell_ != nullptr && !waits) return turn_for_another_loop();
  if (waits) {
    hot_.cool_all();
  } else {
    hot_.read();
  }
  ++counters_.system_calls;
  const auto ran = waits ? io_.run_one_for(limit) : io_.poll_one();
  if (ran > 0) run_more();
}

// To the end, as far as that is bounded: what Asio has queued for itself makes nothing readable.
void portable_reactor::turn_for_another_loop() noexcept {
  unsigned ran = 0;
  while (ran < handlers_a_turn && io_.poll_one() > 0) ++ran;
  counters_.system_calls += ran + 1;
  more_ = ran == handlers_a_turn;
}

// Where there are hot streams, the others are looked at now and then.
void portable_reactor::poll() noexcept {
  constexpr unsigned looks_at_hot = 8;
  report_all();
  hot_.read();
  if (!hot_.empty() && ++looks_ % looks_at_hot != 0) return;
  ++counters_.system_calls;
  looking_ = true;
  if (io_.poll_one() > 0) run_more();
  looking_ = false;
}

// One look of Asio may have queued many handlers, but it does not say so, and asking costs a
// system call when there are none. So it asks while that pays, and otherwise every eighth time; a
// handler that was not asked for runs in the next turn, which does not wait then.
void portable_reactor::run_more() noexcept {
  constexpr unsigned patience_max = 8;
  if (patience_ == 0 && ++turns_ % patience_max != 0) return;
  unsigned more = 0;
  while (more < handlers_a_turn && io_.poll_one() > 0) ++more;
  ++counters_.system_calls;
  if (more > 0) {
    patience_ = patience_max;
  } else if (patience_ > 0) {
    --patience_;
  }
}

platform::native_handle portable_reactor::make_pollable() {
  bell_ = std::make_unique<bell>(*this);
  return platform::poll_handle_of(io_);
}

portable_reactor::bell::bell(portable_reactor& home_reactor)
    : home(home_reactor), reading(home.io_) {
  const auto [read_end, write_end] = platform::socket_pair();
  writing = write_end;
  try {
    reading = home.adopt_or_close(read_end);
  } catch (...) {
    platform::close(writing);
    throw;
  }
  arm();
}

portable_reactor::bell::~bell() {
  platform::close(writing);
}

void portable_reactor::bell::arm() noexcept {
  reading.async_wait(asio::socket_base::wait_read,
                     placed_handler(home.bell_memory_, [this](const std::error_code& error) {
                       if (!error) rung();
                     }));
}

// Emptied before it is released, or the byte of who rings in between would be taken and the bell
// stay silent. Who finds it ringing until then has queued what the worker looks at next.
void portable_reactor::bell::rung() noexcept {
  const auto handle = static_cast<platform::native_handle>(reading.native_handle());
  std::array<std::byte, 64> bytes;
  std::error_code error;
  while (platform::read_some(handle, bytes, error) != 0) {
  }
  ringing.exchange(false, std::memory_order_acq_rel);  // pairs with ring()
  arm();
}

// One byte at a time is under way, so that a write fails only for want of memory. It is made again,
// because nobody else would wake the worker.
void portable_reactor::bell::ring() noexcept {
  if (ringing.exchange(true, std::memory_order_acq_rel)) return;  // pairs with rung()
  const std::byte once{1};
  const platform::io_slice slice{&once, 1};
  std::error_code error;
  while (platform::write_some(writing, {&slice, 1}, error) == 0) {
  }
}

void portable_reactor::wake() noexcept {
  if (bell_ != nullptr) return bell_->ring();
  // acquire pairs with the release in wake_handler: its memory is free.
  if (waking_.exchange(true, std::memory_order_acq_rel)) return;
  asio::post(io_, wake_handler(*this));
}

}  // namespace

std::unique_ptr<reactor> make_portable_reactor() {
  try {
    return std::make_unique<portable_reactor>();
  } catch (const std::system_error&) {
    throw;
  } catch (const std::bad_alloc&) {
    failure(errc::resource_exhausted, "no memory for a reactor").raise();
  }
}

}  // namespace hawser
