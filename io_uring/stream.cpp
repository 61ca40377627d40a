// SPDX-License-Identifier: Apache-2.0
#include "stream.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "calls.hpp"
#include "core/assert.hpp"
#include "hawser/errc.hpp"
#include "native.hpp"

namespace hawser {
namespace {

// One that is silent does not wait for room either.
constexpr int flags_of(bool silent) noexcept {
  return MSG_NOSIGNAL | MSG_WAITALL | (silent ? MSG_DONTWAIT : 0);
}

}  // namespace

uring_stream::uring_stream(uring_reactor& home, platform::native_handle socket,
                           stream_events& owner) noexcept
    : uring_reporter(home), socket_(socket), owner_(owner), read_(*this), write_(*this) {}

uring_stream::~uring_stream() {
  platform::close(socket_);
  if (tail_ != nullptr) detail::release(tail_);
}

// ---- reading ----------------------------------------------------------------------------------

void uring_stream::start_reading() noexcept {
  arm_read();
}

// Which way the next bytes come:
//
//   on_block --> multishot --(the owner has direct space: cancel, last completion)--> direct
//                    ^                                                                  |
//                    +--- a few single reads found no direct space <--- single <--------+
//
//   any --(a worker that looks for work finds its bytes here: cancel)--> inline --cool()--> armed
//
// Two at once would deliver bytes out of order, so the next way is chosen only when the last
// completion of the one before is here.
void uring_stream::arm_read() noexcept {
  if (closing_ || ended_ || read_.active) return;
  const auto space = owner_.direct_space();
  if (space.size() >= direct_bytes_min) {
    arm_direct(space);
  } else {
    arm_block(singles_left_ == 0);
    if (singles_left_ != 0) --singles_left_;
  }
}

void uring_stream::arm_block(bool many) noexcept {
  io_uring_sqe& entry = home_.ring().submission(read_);
  const int socket = platform::descriptor(socket_);
  if (many) {
    calls::submit_receive_many(entry, socket, receive_buffers::group);
  } else {
    calls::submit_receive_once(entry, socket, receive_buffers::bytes_each, receive_buffers::group);
  }
  read_.active = true;
  mode_ = many ? mode::multishot : mode::single;
}

// Behind the owner's memory comes a little room for what follows it, mostly the next header: one
// system call less for each run of direct bytes.
void uring_stream::arm_direct(std::span<std::byte> space) noexcept {
  if (!prepare_direct(space)) return;
  calls::submit_receive_direct(home_.ring().submission(read_), platform::descriptor(socket_),
                               direct_message_);
  read_.active = true;
  mode_ = mode::direct;
}

bool uring_stream::prepare_direct(std::span<std::byte> space) noexcept {
  try {
    if (tail_ == nullptr) tail_ = detail::allocate_block(tail_bytes);
  } catch (const std::bad_alloc&) {
    end(make_error_code(errc::resource_exhausted));
    return false;
  }
  direct_ = space.size();
  pieces_[0] = {space.data(), space.size()};
  pieces_[1] = {tail_->data(), tail_bytes};
  direct_message_ = {};
  direct_message_.msg_iov = pieces_.data();
  direct_message_.msg_iovlen = pieces_.size();
  return true;
}

void uring_stream::on_read(int result, unsigned flags) noexcept {
  const bool last = (flags & IORING_CQE_F_MORE) == 0;
  if (last) read_.active = false;
  const bool has_buffer = (flags & IORING_CQE_F_BUFFER) != 0;
  if (result > 0 && !closing_) {
    home_.count().bytes_read += static_cast<std::size_t>(result);
    has_buffer ? deliver_block(flags, static_cast<std::size_t>(result))
               : deliver_direct(static_cast<std::size_t>(result));
  } else if (has_buffer) {
    home_.buffers().give_back(flags);
  }
  if (closing_) {
    close_when_idle();
    return;
  }
  if (result == 0) {
    end({});
  } else if (result < 0 && !is_passing(-result)) {
    end(platform::system_error_code(-result));
  }
  if (closing_ || ended_) return;
  heating_ = heating_ || (result > 0 && home_.looking() && is_found_often());
  if (last) {
    cancelling_ = false;
    arm_or_heat();
  } else if (!cancelling_ && (heating_ || owner_.direct_space().size() >= direct_bytes_min)) {
    cancelling_ = true;
    home_.ring().cancel(read_);
  }
}

bool uring_stream::is_found_often() noexcept {
  return ++finds_ >= hot_streams<uring_stream>::finds_to_heat && !home_.hot().full();
}

void uring_stream::arm_or_heat() noexcept {
  if (std::exchange(heating_, false) && !home_.hot().full()) {
    hot_ = true;
    home_.hot().add(*this);
  } else {
    arm_read();
  }
}

// ---- reading inline ---------------------------------------------------------------------------

bool uring_stream::read_inline() noexcept {
  if (closing_ || ended_) return false;
  ++home_.count().inline_reads;
  ++home_.count().system_calls;
  const auto space = owner_.direct_space();
  return space.size() >= direct_bytes_min ? read_direct_inline(space) : read_block_inline();
}

bool uring_stream::read_direct_inline(std::span<std::byte> space) noexcept {
  if (!prepare_direct(space)) return true;
  const auto got = calls::recvmsg(platform::descriptor(socket_), direct_message_, MSG_DONTWAIT);
  if (got > 0) {
    home_.count().bytes_read += static_cast<std::size_t>(got);
    deliver_direct(static_cast<std::size_t>(got));
    return true;
  }
  return ended_inline(got < 0 ? errno : 0);
}

bool uring_stream::read_block_inline() noexcept {
  try {
    std::error_code error;
    const auto came = home_.blocks().read(socket_, read_blocks::inline_bytes, error);
    if (came.bytes == 0) return ended_inline(error.value());
    home_.count().bytes_read += came.bytes;
    owner_.on_block(came.block, came.bytes);
  } catch (const std::bad_alloc&) {
    end(make_error_code(errc::resource_exhausted));
  }
  return true;
}

// Zero is the end of the stream. True: it has ended.
bool uring_stream::ended_inline(int number) noexcept {
  if (number != 0 && is_passing(number)) return false;
  end(number == 0 ? std::error_code() : platform::system_error_code(number));
  return true;
}

void uring_stream::cool() noexcept {
  hot_ = false;
  finds_ = 0;
  arm_read();
}

// Not an end of the stream: we cancelled it, or no buffer was left and there are new ones now.
bool uring_stream::is_passing(int number) noexcept {
  return number == ECANCELED || number == ENOBUFS || number == EINTR || number == EAGAIN;
}

void uring_stream::deliver_block(unsigned flags, std::size_t bytes) noexcept {
  detail::block* filled = nullptr;
  try {
    filled = home_.buffers().take(flags, bytes);
  } catch (const std::bad_alloc&) {
    if (!ended_) end(make_error_code(errc::resource_exhausted));
    return;
  }
  if (ended_) {
    detail::release(filled);
  } else {
    owner_.on_block(filled, bytes);
  }
}

void uring_stream::deliver_direct(std::size_t bytes) noexcept {
  singles_left_ = singles_after_direct;
  const auto direct = std::min(bytes, direct_);
  owner_.on_direct(direct);
  if (bytes > direct && !closing_) {
    owner_.on_block(std::exchange(tail_, nullptr), bytes - direct);
  }
}

// After a failure a multishot may still have completions under way; they are dropped.
void uring_stream::end(std::error_code why) noexcept {
  if (std::exchange(ended_, true)) return;
  owner_.on_end(why);
}

// ---- writing ----------------------------------------------------------------------------------

bool uring_stream::write(std::span<const platform::io_slice> slices, notice when) noexcept {
  HAWSER_ASSERT(!write_.active && !write_error_ && !slices.empty() &&
                slices.size() <= max_slices);
  if (closing_) return false;
  std::transform(slices.begin(), slices.end(), unwritten_.begin(), platform::to_iovec);
  first_unwritten_ = 0;
  unwritten_count_ = slices.size();
  // The first words of a stream are what its peer waits for.
  const bool at_once = std::exchange(fresh_, false) || hot_;
  const bool silent = when == notice::late && home_.has_silent_sends();
  const bool first = home_.is_first_write() && !(silent && unwritten_bytes() >= silent_bytes_min);
  if ((at_once || first) && write_inline()) return !write_error_;
  submit_write(silent && !at_once && !first);
  return false;
}

// True: done, or failed, which is reported later; otherwise the ring takes over the rest.
bool uring_stream::write_inline() noexcept {
  constexpr int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
  const int socket = platform::descriptor(socket_);
  ++home_.count().system_calls;
  ssize_t sent = 0;
  if (unwritten_count_ == 1) {  // as in submit_write()
    sent = calls::send(socket, unwritten_[0].iov_base, unwritten_[0].iov_len, flags);
  } else {
    msghdr message{};
    message.msg_iov = unwritten_.data();
    message.msg_iovlen = unwritten_count_;
    sent = calls::sendmsg(socket, message, flags);
  }
  if (sent < 0) {
    if (is_passing(errno)) return false;
    write_error_ = platform::last_error();
    report_later();
    return true;
  }
  home_.count().bytes_written += static_cast<std::size_t>(sent);
  return advance(static_cast<std::size_t>(sent));
}

void uring_stream::prepare_silent_send(io_uring_sqe& entry, platform::native_handle socket,
                                       const void* bytes, std::size_t count) noexcept {
  calls::submit_send(entry, platform::descriptor(socket), bytes, count, flags_of(true), true);
}

void uring_stream::submit_write(bool silent) noexcept {
  const int flags = flags_of(silent);
  const int socket = platform::descriptor(socket_);
  const iovec& first = unwritten_[first_unwritten_];
  io_uring_sqe& entry = home_.ring().submission(write_);
  if (unwritten_count_ - first_unwritten_ == 1) {  // the kernel has less to look at
    calls::submit_send(entry, socket, first.iov_base, first.iov_len, flags, silent);
  } else {
    write_message_ = {};
    write_message_.msg_iov = unwritten_.data() + first_unwritten_;
    write_message_.msg_iovlen = unwritten_count_ - first_unwritten_;
    calls::submit_send(entry, socket, write_message_, flags, silent);
  }
  write_.active = true;
  silent_ = silent;
  if (silent) home_.expect_silence(*this);
}

std::size_t uring_stream::unwritten_bytes() const noexcept {
  std::size_t bytes = 0;
  for (std::size_t i = first_unwritten_; i < unwritten_count_; ++i) bytes += unwritten_[i].iov_len;
  return bytes;
}

void uring_stream::settle_write() noexcept {
  silent_ = write_.active = false;
  home_.ring().will_not_complete();
  home_.count().bytes_written += unwritten_bytes();
  if (closing_) {
    close_when_idle();
  } else {
    owner_.on_written({});
  }
}

void uring_stream::on_write(int result, unsigned /*flags*/) noexcept {
  write_.active = false;
  if (std::exchange(silent_, false)) home_.forget(*this);
  if (result > 0) home_.count().bytes_written += static_cast<std::size_t>(result);
  if (closing_) {
    close_when_idle();
    return;
  }
  const bool passing = result == -EINTR || result == -EAGAIN;
  if (result < 0 && !passing) {
    owner_.on_written(platform::system_error_code(-result));
  } else if (advance(static_cast<std::size_t>(std::max(result, 0)))) {
    owner_.on_written({});
  } else {
    submit_write(false);
  }
}

bool uring_stream::advance(std::size_t bytes) noexcept {
  while (first_unwritten_ < unwritten_count_ && bytes >= unwritten_[first_unwritten_].iov_len) {
    bytes -= unwritten_[first_unwritten_++].iov_len;
  }
  if (first_unwritten_ == unwritten_count_) return true;
  iovec& cut = unwritten_[first_unwritten_];
  cut.iov_base = static_cast<std::byte*>(cut.iov_base) + bytes;
  cut.iov_len -= bytes;
  return false;
}

// ---- closing ----------------------------------------------------------------------------------

// The descriptor stays open until the last completion: a submission that waits in the queue names
// it by number, and the number must not become another file's.
void uring_stream::close() noexcept {
  if (std::exchange(closing_, true)) return;
  if (hot_) home_.hot().remove(*this);
  if (read_.active && !cancelling_) home_.ring().cancel(read_);
  if (write_.active && silent_) {
    home_.hurry();
  } else if (write_.active) {
    home_.ring().cancel(write_);
  }
  close_when_idle();
}

void uring_stream::close_when_idle() noexcept {
  if (!read_.active && !write_.active) report_later();
}

// It may have been queued for a write that failed, before the stream was closed: then its last
// completion is still to come, and queues it again.
void uring_stream::report() noexcept {
  if (!closing_) return owner_.on_written(std::exchange(write_error_, {}));
  if (read_.active || write_.active) return;
  platform::close(std::exchange(socket_, platform::no_handle));
  home_.count().system_calls += 2;
  owner_.on_closed();
}

std::unique_ptr<stream> uring_reactor::open(platform::native_handle socket, stream_events& owner) {
  try {
    return std::make_unique<uring_stream>(*this, socket, owner);
  } catch (const std::bad_alloc&) {
    platform::close(socket);
    throw;
  }
}

}  // namespace hawser
