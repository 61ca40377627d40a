// SPDX-License-Identifier: Apache-2.0
#include "shm/stream_core.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/spin_pause.hpp"

namespace hawser::shm {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;

constexpr unsigned timed_one_in = 1000;
constexpr unsigned looks_between_clocks = 32;
// What write_all() makes of bytes: the reader copies one record while the next is written.
constexpr std::size_t piece_bytes = 16 << 10;
constexpr auto longest_sleep = 1h;  // of calls without a limit; they go on

bool is_open(const std::atomic<std::uint32_t>& which) noexcept {
  // acquire pairs with the release in shut(): what was published before is seen by who looks now.
  return which.load(std::memory_order_acquire) == static_cast<std::uint32_t>(half::open);
}

std::error_code code(errc of) noexcept {
  return make_error_code(of);
}

}  // namespace

// ---- deadlines ------------------------------------------------------------------------------

deadline::deadline(shm_stream::timeout limit) noexcept {
  if (!limit.has_value()) return;
  how_ = *limit <= nanoseconds::zero() ? kind::now : kind::later;
  if (how_ == kind::now) return;
  const auto now = clock::now();
  const auto most = clock::time_point::max() - now;
  at_ = now + std::min<clock::duration>(*limit, most);
}

nanoseconds deadline::left(clock::time_point now) const noexcept {
  switch (how_) {
    case kind::now:
      return nanoseconds::zero();
    case kind::later:
      return at_ - now;
    case kind::never:
      break;
  }
  return longest_sleep;
}

// ---- metrics --------------------------------------------------------------------------------

void stream_core::timing::begin(stream_core& of, call which) noexcept {
  const bool writes = which == call::write || which == call::write_many;
  stream_counters& counts = writes ? of.out_.counts : of.in_.counts;
  if (which == call::write || which == call::read) {
    counts.moved.carry();
  } else {
    unsigned& left = writes ? of.out_.batches_until_timed : of.in_.batches_until_timed;
    if (!of.options_.metrics || --left != 0) return;
    left = timed_one_in;
  }
  counts_ = &counts;
  begin_ = clock::now();
}

void stream_core::timing::end() noexcept {
  const nanoseconds taken = clock::now() - begin_;
  ++counts_->times[wait_histogram::bucket_of(static_cast<std::uint64_t>(taken.count()))];
}

std::error_code stream_core::count(stream_counters& by, std::error_code error) const noexcept {
  if (options_.metrics && error && error != errc::timed_out) ++by.errors;
  return error;
}

shm_stream_stats stream_core::stats() const noexcept {
  shm_stream_stats all;
  const stream_counters& out = out_.counts;
  const stream_counters& in = in_.counts;
  const tally::sums written = out.moved.get();
  const tally::sums read = in.moved.get();
  all.writes = written.records;
  all.reads = read.records;
  all.bytes_written = written.bytes;
  all.bytes_read = read.bytes;
  all.full_stalls = out.full_stalls;
  all.errors = out.errors + in.errors;
  all.wakeups_sent = out.wakeups_sent + in.wakeups_sent;
  all.wakeups_spared = written.alone + out.wakeups_spared;
  all.spins = out.spins + in.spins;
  all.spins_paid = out.spins_paid + in.spins_paid;
  all.sleeps = out.sleeps + in.sleeps;
  for (std::size_t i = 0; i < wait_histogram::buckets; ++i) {
    all.write_time.counts[i] = out.times[i];
    all.read_time.counts[i] = in.times[i];
  }
  return all;
}

// ---- the ends -------------------------------------------------------------------------------

stream_core::stream_core(stream_segment mapped, const shm_stream_options& options)
    : segment_(std::move(mapped)),
      options_(options),
      peer_(other(segment_.end())),
      out_(segment_.writer(), segment_.way(segment_.end()), options.spin),
      in_(segment_.reader(), segment_.way(peer_), options.spin) {}

stream_core::~stream_core() {
  close();
  platform::release_handle(watched_.load(std::memory_order_relaxed));
}

std::error_code stream_core::why_shut() const noexcept {
  switch (state_.load(std::memory_order_relaxed)) {
    case state::open:
      return {};
    case state::closed:
      return code(errc::closed);
    case state::violated:
      break;
  }
  return code(errc::protocol_violation);
}

// A peer that has broken off says so in its half; who reads no more has closed in order.
std::error_code stream_core::why_not_writable() const noexcept {
  if (const auto why = why_shut()) return why;
  if (out_.shut.load(std::memory_order_relaxed) != 0) return code(errc::closed);
  if (is_open(out_.way.reader_half)) [[likely]]
    return {};
  const auto told = static_cast<half>(out_.way.reader_half.load(std::memory_order_relaxed));
  return code(told == half::closed ? errc::closed : errc::link_lost);
}

std::error_code stream_core::violated() noexcept {
  state expected = state::open;
  state_.compare_exchange_strong(expected, state::violated, std::memory_order_relaxed);
  shut(half::broken);
  return why_shut();
}

void stream_core::close_writing() noexcept {
  out_.shut.store(1, std::memory_order_relaxed);
  auto& half_now = out_.way.writer_half;
  // release: what was published before is seen by who sees this
  if (is_open(half_now)) {
    half_now.store(static_cast<std::uint32_t>(half::closed), std::memory_order_release);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (out_.bell.ring()) platform::wake_all(out_.bell.word());
  // Also a call of this end that waits for room.
  if (out_.way.ring.writer_waits.exchange(0, std::memory_order_relaxed) != 0) {
    platform::wake_all(out_.way.ring.writer_waits);
  }
}

void stream_core::close() noexcept {
  state expected = state::open;
  state_.compare_exchange_strong(expected, state::closed, std::memory_order_relaxed);
  shut(half::closed);
}

// Both halves, then everybody who sleeps on either side. A sleeper that announces itself after the
// fence sees what was written before it.
void stream_core::shut(half how) noexcept {
  for (auto* each : {&out_.way.writer_half, &in_.way.reader_half}) {
    if (!is_open(*each)) continue;
    each->store(static_cast<std::uint32_t>(how), std::memory_order_release);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (stream_way* way : {&out_.way, &in_.way}) {
    for (auto* word : {&way->reader.asleep, &way->ring.writer_waits}) {
      word->store(0, std::memory_order_relaxed);
      platform::wake_all(*word);
    }
  }
  platform::wake_all(segment_.side(peer_).attached);
}

// ---- the peer -------------------------------------------------------------------------------

// Its own fences a publisher may leave out when the peer's sleepers fence for it, and they do so
// from the beginning: a sleeper that has joined always passes the barrier of the system.
void stream_core::meet_peer(barriers& fences) noexcept {
  if (!fences.full) return;
  const stream_side& there = segment_.side(peer_);
  // acquire pairs with the release in stream_segment::attach()
  if (there.attached.load(std::memory_order_acquire) == 0) return;
  fences.full =
      !platform::join_barriers() || there.has_barriers.load(std::memory_order_relaxed) != 1;
}

std::error_code stream_core::wait_for_peer(shm_stream::timeout limit) noexcept {
  const deadline until(limit);
  const auto& there = segment_.side(peer_).attached;
  for (;;) {
    if (const auto why = why_shut()) return why;
    if (there.load(std::memory_order_acquire) != 0) return {};
    const auto left = until.left(clock::now());
    if (left <= nanoseconds::zero()) return code(errc::timed_out);
    // A close() between the look and the sleep is not seen before the slice ends.
    platform::sleep_on(there, 0, std::min<nanoseconds>(left, options_.peer_check));
  }
}

bool stream_core::peer_is_gone() noexcept {
  if (gone_.load(std::memory_order_relaxed)) return true;
  auto watched = watched_.load(std::memory_order_acquire);
  if (watched == platform::no_handle) {
    const stream_side& there = segment_.side(peer_);
    if (there.attached.load(std::memory_order_acquire) == 0) return false;
    const std::lock_guard guard(watching_);
    watched = watched_.load(std::memory_order_relaxed);
    if (watched == platform::no_handle) {
      const platform::process_mark mark{there.process.load(std::memory_order_relaxed),
                                        there.started.load(std::memory_order_relaxed)};
      std::error_code error;
      watched = platform::watch_process(mark, error);
      if (error) return false;  // no descriptor now: the next look asks again
      if (watched == platform::no_handle) {
        gone_.store(true, std::memory_order_relaxed);
        return true;
      }
      // release pairs with the acquire above
      watched_.store(watched, std::memory_order_release);
    }
  }
  if (!platform::has_exited(watched)) return false;
  gone_.store(true, std::memory_order_relaxed);
  return true;
}

template <class Half>
bool stream_core::peer_is_gone_now(Half& of) noexcept {
  const auto now = clock::now();
  if (now - of.checked < options_.peer_check) return gone_.load(std::memory_order_relaxed);
  of.checked = now;
  return peer_is_gone();
}

bool stream_core::has_lost_peer() noexcept {
  return peer_is_gone_now(in_);
}

// ---- waiting --------------------------------------------------------------------------------

// The sleeper's barrier makes up for those that publishers leave out, see bell.hpp.
void stream_core::pass_barrier() noexcept {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (platform::join_barriers()) platform::pass_barrier();
}

template <class Half, class Ready>
bool stream_core::spin(Half& of, nanoseconds most, clock::time_point begin, Ready ready) noexcept {
  const nanoseconds budget = std::min(of.spin.next(), most);
  if (budget <= nanoseconds::zero()) return false;
  if (options_.metrics) ++of.counts.spins;
  nanoseconds spent{};
  while (spent < budget) {
    for (unsigned i = 0; i < looks_between_clocks; ++i) {
      if (ready()) {
        of.spin.found(clock::now() - begin);
        if (options_.metrics) ++of.counts.spins_paid;
        return true;
      }
      detail::spin_pause();
    }
    spent = clock::now() - begin;
  }
  of.spin.missed(spent);
  return false;
}

template <class Ready>
bool stream_core::sleep(std::atomic<std::uint32_t>& word, nanoseconds most, Ready ready) noexcept {
  const auto begin = clock::now();
  for (nanoseconds left = most; left > nanoseconds::zero(); left = most - (clock::now() - begin)) {
    platform::sleep_on(word, 1, std::min<nanoseconds>(left, options_.peer_check));
    if (ready()) return true;
    if (word.load(std::memory_order_relaxed) != 1) return false;  // woken for nothing
    if (peer_is_gone()) return false;
  }
  return false;
}

// `ready` also sees what ends the wait for good: that a half was closed. The caller looks again.
template <class Half, class Ready>
std::error_code stream_core::wait(Half& of, std::atomic<std::uint32_t>& word, const deadline& until,
                                  Ready ready) noexcept {
  if (until.is_now()) {
    if (!peer_is_gone_now(of)) return code(errc::timed_out);
    return ready() ? std::error_code() : code(errc::link_lost);
  }
  const auto begin = clock::now();
  if (spin(of, until.left(begin), begin, ready)) return {};
  for (;;) {
    // The look that follows comes after the announcement also for who publishes without a fence.
    word.store(1, std::memory_order_relaxed);
    pass_barrier();
    const auto left = until.left(clock::now());
    if (!ready() && left > nanoseconds::zero()) {
      if (options_.metrics) ++of.counts.sleeps;
      static_cast<void>(sleep(word, left, ready));
    }
    word.store(0, std::memory_order_relaxed);
    const auto now = clock::now();
    const bool gone = peer_is_gone_now(of);
    // Last of all, so that what a peer has left behind is found.
    if (ready()) {
      of.spin.slept(now - begin);
      return {};
    }
    if (gone) return code(errc::link_lost);
    if (until.left(now) <= nanoseconds::zero()) return code(errc::timed_out);
  }
}

// ---- writing --------------------------------------------------------------------------------

bool stream_core::reader_sleeps() noexcept {
  meet_peer(out_.fences);
  out_.fences.between_publish_and_look();
  return out_.bell.ring();
}

void stream_core::wake_reader() noexcept {
  platform::wake_one(out_.bell.word());
  if (options_.metrics) ++out_.counts.wakeups_sent;
}

void stream_core::publish() noexcept {
  if (!out_.ring.publish()) return;
  if (reader_sleeps()) return wake_reader();
  if (options_.metrics) ++out_.counts.wakeups_spared;
}

// What was committed must be seen before we wait: it may be all that the reader can take.
std::error_code stream_core::make_room(std::size_t bytes, const deadline& until) noexcept {
  if (out_.ring.broken()) return violated();
  publish();
  if (options_.metrics) ++out_.counts.full_stalls;
  const auto ready = [this, bytes] {
    return out_.ring.has_room(bytes) || out_.ring.broken() || why_not_writable();
  };
  for (;;) {
    const auto why = wait(out_, out_.way.ring.writer_waits, until, ready);
    if (out_.ring.broken()) return violated();
    if (const auto shut = why_not_writable()) return shut;
    if (why) return why;
    if (out_.ring.has_room(bytes)) return {};
  }
}

bool stream_core::append(std::span<const std::byte> record) noexcept {
  const std::size_t at = out_.ring.claim(record.size());
  if (at == ring_writer<>::no_room) [[unlikely]]
    return false;
  if (!record.empty()) std::memcpy(out_.ring.memory().at(at), record.data(), record.size());
  out_.ring.commit(record.size());
  return true;
}

std::error_code stream_core::write(std::span<const std::byte> record,
                                   shm_stream::timeout limit) noexcept {
  const timing timed(*this, timing::call::write);
  if (record.size() > largest()) return count(out_.counts, code(errc::too_large));
  if (const auto why = why_not_writable()) return count(out_.counts, why);
  if (!append(record)) [[unlikely]] {
    const auto why = make_room(record.size(), deadline(limit));
    if (why) return count(out_.counts, why);
    static_cast<void>(append(record));
  }
  static_cast<void>(out_.ring.publish());
  if (reader_sleeps()) [[unlikely]] {
    wake_reader();
    if (options_.metrics) out_.counts.moved.add(1, record.size());  // not one that woke nobody
  } else if (options_.metrics) [[likely]] {
    out_.counts.moved.add(record.size());
  }
  return {};
}

std::error_code stream_core::write_batch(std::span<const std::span<const std::byte>> records,
                                         shm_stream::timeout limit, std::size_t& written) noexcept {
  const timing timed(*this, timing::call::write_many);
  written = 0;
  const auto is_too_large = [this](const auto& each) { return each.size() > largest(); };
  if (std::any_of(records.begin(), records.end(), is_too_large)) {
    return count(out_.counts, code(errc::too_large));
  }
  std::error_code why = why_not_writable();
  const deadline until(limit);
  std::size_t counted = 0;
  std::size_t bytes = 0;
  const auto count_them = [&] {
    if (options_.metrics) out_.counts.moved.add(written - counted, bytes);
    counted = written;
    bytes = 0;
  };
  while (!why && written < records.size()) {
    const auto record = records[written];
    if (append(record)) {
      ++written;
      bytes += record.size();
    } else {
      count_them();
      why = make_room(record.size(), until);
    }
  }
  publish();
  count_them();
  return count(out_.counts, why);
}

std::error_code stream_core::write_all(std::span<const std::byte> bytes, shm_stream::timeout limit,
                                       std::size_t& written) noexcept {
  const timing timed(*this, timing::call::write_many);
  written = 0;
  std::error_code why = why_not_writable();
  const deadline until(limit);
  const std::size_t most = std::min(piece_bytes, largest());
  while (!why && written < bytes.size()) {
    const auto piece = bytes.subspan(written, std::min(most, bytes.size() - written));
    if (append(piece)) {
      written += piece.size();
      if (options_.metrics) out_.counts.moved.add(1, piece.size());
      publish();
    } else {
      why = make_room(piece.size(), until);
    }
  }
  return count(out_.counts, why);
}

// ---- reading --------------------------------------------------------------------------------

// Whether a record is there, which stays until it is let go of: its header is not read again.
bool stream_core::look() noexcept {
  if (has_record_) return true;
  switch (in_.ring.look()) {
    case ring_reader<>::found::nothing:
      return false;
    case ring_reader<>::found::broken:
      static_cast<void>(violated());
      return false;
    case ring_reader<>::found::record:
      break;
  }
  has_record_ = true;
  at_ = in_.ring.offset();
  left_ = in_.ring.bytes();
  return true;
}

bool stream_core::is_at_end() const noexcept {
  return ended_ || !is_open(in_.way.writer_half);
}

bool stream_core::has_stirred() noexcept {
  return look() || is_at_end() || why_shut();
}

void stream_core::wake_writer() noexcept {
  meet_peer(in_.fences);
  in_.fences.between_publish_and_look();
  if (!in_.ring.take_waiting()) return;
  platform::wake_one(in_.way.ring.writer_waits);
  if (options_.metrics) ++in_.counts.wakeups_sent;
}

void stream_core::give_back() noexcept {
  if (in_.ring.give_back()) wake_writer();
}

// The writer may need all that was read; so when the ring is empty nothing is held back.
void stream_core::let_go() noexcept {
  has_record_ = false;
  if (in_.ring.pop()) wake_writer();
  if (!look()) give_back();
}

// The order matters: what the peer wrote before it closed, or died, comes first.
bool stream_core::await_record(shm_stream::timeout limit, std::error_code& error) noexcept {
  error = why_shut();
  if (!error && look()) [[likely]]
    return true;
  const deadline until(limit);
  const auto ready = [this] { return has_stirred(); };
  while (!error) {
    const bool at_end = is_at_end();
    if (look()) return true;
    if ((error = why_shut())) break;
    if (at_end) {
      ended_ = true;
      const auto told = static_cast<half>(in_.way.writer_half.load(std::memory_order_relaxed));
      if (told == half::closed) return false;
      error = code(errc::link_lost);
      break;
    }
    give_back();
    error = wait(in_, in_.bell.word(), until, ready);
    if (error == errc::link_lost && why_shut()) error = why_shut();
  }
  static_cast<void>(count(in_.counts, error));
  return false;
}

void stream_core::copy_out(std::byte* into) noexcept {
  if (left_ != 0) std::memcpy(into, in_.ring.memory().at(at_), left_);
  let_go();
}

void stream_core::take(std::byte* into) noexcept {
  if (options_.metrics) [[likely]]
    in_.counts.moved.add(left_);
  copy_out(into);
}

bool stream_core::read_batch(shm_batch& into, std::size_t most, shm_stream::timeout limit,
                             std::error_code& error) {
  const timing timed(*this, timing::call::read_many);
  into.records_.clear();
  into.used_ = 0;
  if (!await_record(limit, error)) return false;
  if (left_ > into.capacity_) {
    into.bytes_ = std::make_unique_for_overwrite<std::byte[]>(left_);
    into.capacity_ = left_;
  }
  into.records_.reserve(most);
  while (into.records_.size() < most && look() && left_ <= into.capacity_ - into.used_) {
    const std::size_t bytes = left_;
    into.records_.push_back({into.used_, bytes});
    copy_out(into.bytes_.get() + into.used_);
    into.used_ += bytes;
  }
  if (options_.metrics) in_.counts.moved.add(into.size(), into.used_);
  return true;
}

bool stream_core::read_exact(std::span<std::byte> into, shm_stream::timeout limit,
                             std::size_t& read, std::error_code& error) noexcept {
  const timing timed(*this, timing::call::read_many);
  read = 0;
  const auto begin = clock::now();
  auto left = limit;
  while (read < into.size()) {
    if (!await_record(left, error)) return false;
    const std::size_t bytes = std::min(left_, into.size() - read);
    const bool is_whole = bytes == left_;
    if (options_.metrics) in_.counts.moved.add(is_whole ? 1 : 0, bytes);
    if (is_whole) {
      copy_out(into.data() + read);
    } else {
      std::memcpy(into.data() + read, in_.ring.memory().at(at_), bytes);
      at_ += bytes;
      left_ -= bytes;
    }
    read += bytes;
    if (limit.has_value()) left = *limit - (clock::now() - begin);
  }
  return true;
}

}  // namespace hawser::shm
