// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "core/ring.hpp"
#include "hawser/buffer.hpp"
#include "hawser/message.hpp"
#include "wire/frame.hpp"

namespace hawser::wire {

/// A message that has arrived whole.
struct inbound {
  inbound(std::size_t from, std::uint64_t credit) noexcept
      : cost(credit), lane(static_cast<std::uint32_t>(from)) {}
  /// Adopts a reference to `block`, in which `bytes` lie.
  inbound(std::size_t from, std::uint64_t credit, detail::block* block,
          std::span<const std::byte> bytes) noexcept
      : payload(block, bytes), cost(credit), lane(static_cast<std::uint32_t>(from)) {}

  shared_buffer payload;
  message_header header;
  std::uint64_t cost;  ///< give it back with release()
  std::uint32_t lane;
  bool reassembled = false;  ///< it came in slices: its cost is in the link's budget
};

/// Plain frames that lie behind each other in a block and were checked; one reference to the block
/// for each of them.
struct plain_run {
  detail::block* block = nullptr;
  const std::byte* next = nullptr;
  std::uint32_t left = 0;
};

/// The messages of one lane that have arrived whole and were not taken, in order. Runs stay as they
/// lie until somebody takes a message, so that a message is looked at twice but never stored.
///
/// Errors: the two that add throw std::bad_alloc; nothing has changed then.
class arrivals {
 public:
  arrivals() noexcept = default;
  arrivals(const arrivals&) = delete;
  arrivals& operator=(const arrivals&) = delete;
  ~arrivals() {
    for (; !entries_.empty(); entries_.pop()) {
      const plain_run& rest = entries_.front().run;
      if (rest.left != 0) detail::release(rest.block, rest.left);
    }
  }

  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }

  /// A message of its own, whose payload the caller sets.
  inbound& add(std::size_t lane, std::uint64_t cost) {
    inbound& added = entries_.emplace(inbound(lane, cost)).whole;
    ++count_;
    return added;
  }
  /// Shape: not empty.
  void add(const plain_run& run) {
    entries_.emplace(run);
    count_ += run.left;
  }
  /// Shape: not empty; `lane` is the one whose messages these are.
  [[nodiscard]] inbound take(std::size_t lane) noexcept {
    entry& first = entries_.front();
    --count_;
    if (first.run.left != 0) return cut(first.run, lane);
    inbound whole(std::move(first.whole));
    entries_.pop();
    return whole;
  }

 private:
  struct entry {
    explicit entry(inbound&& message) noexcept : whole(std::move(message)) {}
    explicit entry(const plain_run& frames) noexcept : whole(0, 0), run(frames) {}

    inbound whole;  // unless there is a run
    plain_run run;
  };

  inbound cut(plain_run& from, std::size_t lane) noexcept {
    const auto start = load_little_endian<std::uint64_t>(from.next);
    const std::size_t padded = plain::frame_bytes(start);
    inbound message(lane, padded + message_overhead, from.block,
                    {from.next + plain::prefix_bytes, plain::payload_bytes(start)});
    from.next += padded;
    if (--from.left == 0) entries_.pop();
    return message;
  }

  detail::ring<entry> entries_;
  std::size_t count_ = 0;
};

/// The messages of both lanes of a channel, the urgent first.
class channel_arrivals {
 public:
  [[nodiscard]] bool empty() const noexcept { return lanes_[0].empty() && lanes_[1].empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return lanes_[0].size() + lanes_[1].size(); }
  [[nodiscard]] arrivals& of(std::size_t lane) noexcept { return lanes_[lane % 2]; }
  [[nodiscard]] const arrivals& of(std::size_t lane) const noexcept { return lanes_[lane % 2]; }
  /// Shape: not empty; `channel` is the one whose messages these are.
  [[nodiscard]] inbound take(std::size_t channel) noexcept {
    const std::size_t lane = lane_of(channel, !lanes_[1].empty());
    return of(lane).take(lane);
  }

 private:
  std::array<arrivals, 2> lanes_;
};

}  // namespace hawser::wire
