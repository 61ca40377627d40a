// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace hawser::shm {

// A ring of records in memory that two processes share: one writes, one reads.
//
// A record is a header of 8 bytes, its payload, and padding up to a multiple of 8; it never wraps:
// what would not fit before the end is preceded by a record of padding. The header is zero until
// the record is committed, so that a reader that has come to the end looks at the very line that
// the next record will begin in: no index travels from the writer to the reader.
//
//   header   low 32 bits: bytes of header and payload, at least 8; high 32 bits: record_kind
//
// Before a writer commits a record it makes the header behind it zero; so one that dies leaves
// either a whole record or none. What the reader has let go of it says in `consumed`, a count of
// bytes since the beginning, in steps; the writer looks there only when it has run out of room.
//
// Neither side believes the other: what it reads from shared memory it reads once, and checks. A
// peer that breaks the rules can make a ring broken, or hand over records of its own invention.
//
// Source: the record headers of Aeron's ring buffers; the cached index of MengRao's SPSC queues.

inline constexpr std::size_t record_header_bytes = 8;

enum class record_kind : std::uint32_t { data = 1, padding = 2 };

[[nodiscard]] constexpr std::size_t align_record(std::size_t bytes) noexcept {
  return (bytes + 7) & ~std::size_t{7};
}
[[nodiscard]] constexpr std::uint64_t record_header(std::size_t bytes, record_kind kind) noexcept {
  return static_cast<std::uint64_t>(kind) << 32 | bytes;
}

inline constexpr std::size_t ring_bytes_min = 256;
inline constexpr std::size_t ring_bytes_max = std::size_t{1} << 30;
/// The largest payload that a ring of `capacity` bytes takes in one record: with the padding that
/// may come before it, it still fits.
[[nodiscard]] constexpr std::size_t record_bytes_max(std::size_t capacity) noexcept {
  return capacity / 2 - 2 * record_header_bytes;
}

/// What the two sides of a ring tell each other beside its records; each on a line of its own, and
/// away from the line that comes along with it.
template <template <class> class Atomic = std::atomic>
struct alignas(128) ring_state {
  /// The reader's: bytes it has let go of, since the beginning.
  Atomic<std::uint64_t> consumed{0};
  /// The writer's: it waits for room. The reader takes that back when it wakes it.
  alignas(128) Atomic<std::uint32_t> writer_waits{0};
};
static_assert(sizeof(ring_state<>) == 256);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

/// The records of a ring as bytes. Another memory than this one is for a checker of interleavings.
class ring_bytes {
 public:
  /// Shape: 8-aligned, a power of two of them, ring_bytes_min to ring_bytes_max.
  explicit ring_bytes(std::span<std::byte> all) noexcept : first_(all.data()), size_(all.size()) {}

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::byte* at(std::size_t offset) const noexcept { return first_ + offset; }
  [[nodiscard]] std::uint64_t load(std::size_t offset, std::memory_order order) const noexcept {
    return header(offset).load(order);
  }
  void store(std::size_t offset, std::uint64_t value, std::memory_order order) const noexcept {
    header(offset).store(value, order);
  }

 private:
  [[nodiscard]] std::atomic_ref<std::uint64_t> header(std::size_t offset) const noexcept {
    return std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(first_ + offset));
  }

  std::byte* first_;
  std::size_t size_;
};

/// Puts records into a ring: claim, fill, commit, as many as one likes, then publish them at once.
///
/// Threads: one.
/// Cost:    no locked instruction, no fence; `consumed` is read when the room that was known is
///          used up.
template <template <class> class Atomic = std::atomic, class Memory = ring_bytes>
class ring_writer {
 public:
  static constexpr std::size_t no_room = ~std::size_t{0};

  ring_writer(ring_state<Atomic>& state, Memory memory) noexcept
      : state_(&state), memory_(memory) {}

  [[nodiscard]] const Memory& memory() const noexcept { return memory_; }
  [[nodiscard]] std::size_t largest() const noexcept { return record_bytes_max(memory_.size()); }

  /// Where the payload of the next record goes, or no_room. A claim that is not committed is
  /// forgotten by the next.
  ///
  /// Shape: bytes <= largest().
  [[nodiscard]] std::size_t claim(std::size_t bytes) noexcept {
    const std::size_t record = align_record(record_header_bytes + bytes);
    const std::size_t capacity = memory_.size();
    const std::size_t offset = offset_of(end_);
    const std::size_t padding = record > capacity - offset ? capacity - offset : 0;
    const std::size_t needed = padding + record + record_header_bytes;
    if (needed > capacity - static_cast<std::size_t>(end_ - known_consumed_) && !look(needed)) {
      return no_room;
    }
    padding_ = padding;
    return offset_of(end_ + padding) + record_header_bytes;
  }

  /// The last claim becomes a record, with `bytes` of payload, of which it has room for as many or
  /// more.
  void commit(std::size_t bytes) noexcept {
    if (padding_ != 0) {
      memory_.store(0, 0, std::memory_order_relaxed);
      append(padding_, record_kind::padding);
      padding_ = 0;
    }
    const std::size_t whole = record_header_bytes + bytes;
    // Before our own header, for a reader that follows it.
    memory_.store(offset_of(end_ + align_record(whole)), 0, std::memory_order_relaxed);
    append(whole, record_kind::data);
  }

  /// Lets the reader see what was committed. False: nothing new was.
  bool publish() noexcept {
    if (held_back_ == 0) return false;
    // release pairs with the acquire in ring_reader::look(): all records behind this one, and
    // their payloads, come with it.
    memory_.store(held_back_at_, held_back_, std::memory_order_release);
    held_back_ = 0;
    return true;
  }

  /// The writer is about to wait for room. It looks again, after the barrier that goes with a
  /// bell, by has_room().
  void wait_for_room() noexcept { state_->writer_waits.store(1, std::memory_order_relaxed); }
  void stop_waiting() noexcept { state_->writer_waits.store(0, std::memory_order_relaxed); }
  /// A claim of so many bytes would succeed now.
  [[nodiscard]] bool has_room(std::size_t bytes) noexcept { return claim(bytes) != no_room; }

  /// The reader has counted what cannot be.
  [[nodiscard]] bool broken() const noexcept { return broken_; }
  /// Bytes that were committed since the beginning, with headers and padding.
  [[nodiscard]] std::uint64_t position() const noexcept { return end_; }

 private:
  [[nodiscard]] std::size_t offset_of(std::uint64_t position) const noexcept {
    return static_cast<std::size_t>(position) & (memory_.size() - 1);
  }

  bool look(std::size_t needed) noexcept {
    // acquire pairs with the release in ring_reader::give_back(): the reader has read what we
    // write over.
    const std::uint64_t consumed = state_->consumed.load(std::memory_order_acquire);
    if (consumed - known_consumed_ > end_ - known_consumed_) {
      broken_ = true;
      return false;
    }
    known_consumed_ = consumed;
    return needed <= memory_.size() - static_cast<std::size_t>(end_ - consumed);
  }

  void append(std::size_t bytes, record_kind kind) noexcept {
    const std::uint64_t header = record_header(bytes, kind);
    const std::size_t offset = offset_of(end_);
    if (held_back_ == 0) {
      held_back_ = header;
      held_back_at_ = offset;
    } else {
      memory_.store(offset, header, std::memory_order_relaxed);
    }
    end_ += align_record(bytes);
  }

  ring_state<Atomic>* state_;
  Memory memory_;
  std::uint64_t end_ = 0;
  std::uint64_t known_consumed_ = 0;
  std::size_t padding_ = 0;      // before the last claim
  std::uint64_t held_back_ = 0;  // the first header that is not published
  std::size_t held_back_at_ = 0;
  bool broken_ = false;
};

/// Takes records from a ring, where they lie.
///
/// Threads: one.
/// Cost:    as ring_writer; `consumed` is written once for an eighth of the ring, or when the
///          reader says so.
template <template <class> class Atomic = std::atomic, class Memory = ring_bytes>
class ring_reader {
 public:
  enum class found : std::uint8_t { nothing, record, broken };

  ring_reader(ring_state<Atomic>& state, Memory memory) noexcept
      : state_(&state), memory_(memory) {}

  [[nodiscard]] const Memory& memory() const noexcept { return memory_; }

  /// Whether a record is there; then offset() and bytes() say where. They were read once: what
  /// the peer writes later does not change them. Broken: no header that a writer of ours makes.
  [[nodiscard]] found look() noexcept {
    for (;;) {
      const std::size_t offset = static_cast<std::size_t>(next_) & (memory_.size() - 1);
      // acquire pairs with the release in ring_writer::publish()
      const std::uint64_t header = memory_.load(offset, std::memory_order_acquire);
      if (header == 0) return found::nothing;
      const std::size_t bytes = static_cast<std::uint32_t>(header);
      const auto kind = static_cast<record_kind>(header >> 32);
      if (bytes < record_header_bytes || bytes > memory_.size() - offset ||
          next_ - given_back_ + align_record(bytes) > memory_.size() - record_header_bytes) {
        return found::broken;
      }
      whole_ = align_record(bytes);
      if (kind == record_kind::data) {
        offset_ = offset + record_header_bytes;
        bytes_ = bytes - record_header_bytes;
        return found::record;
      }
      if (kind != record_kind::padding) return found::broken;
      next_ += whole_;
    }
  }

  /// Shape: the last look() has found a record.
  [[nodiscard]] std::size_t offset() const noexcept { return offset_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

  /// The record is done with. True: the writer has been told, ask whether it waits for that.
  ///
  /// Shape: the last look() has found a record, and it was not popped yet.
  bool pop() noexcept {
    next_ += whole_;
    return next_ - given_back_ >= memory_.size() / steps && give_back();
  }
  /// Tells the writer what was popped. False: there is nothing to tell.
  bool give_back() noexcept {
    if (next_ == given_back_) return false;
    given_back_ = next_;
    // release pairs with the acquire in ring_writer::look()
    state_->consumed.store(next_, std::memory_order_release);
    return true;
  }
  /// After give_back() and the barrier that goes with a bell: the writer waits, and is not to be
  /// woken for it twice.
  [[nodiscard]] bool take_waiting() noexcept {
    return state_->writer_waits.load(std::memory_order_relaxed) != 0 &&
           state_->writer_waits.exchange(0, std::memory_order_relaxed) != 0;
  }

  /// Bytes that were popped since the beginning, with headers and padding.
  [[nodiscard]] std::uint64_t position() const noexcept { return next_; }

 private:
  static constexpr std::size_t steps = 8;

  ring_state<Atomic>* state_;
  Memory memory_;
  std::uint64_t next_ = 0;
  std::uint64_t given_back_ = 0;
  std::size_t offset_ = 0;
  std::size_t bytes_ = 0;
  std::size_t whole_ = 0;
};

}  // namespace hawser::shm
