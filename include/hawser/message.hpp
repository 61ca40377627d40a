// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "hawser/buffer.hpp"
#include "hawser/errc.hpp"

namespace hawser {

/// The two ordered lanes of a channel. Urgent frames may pass between the slices of a normal
/// message; each lane keeps its own order.
enum class lane : std::uint8_t { normal, urgent };

inline constexpr lane urgent = lane::urgent;

/// How the payload bytes are to be read. Hawser carries the number; values from 128 are the
/// application's own.
enum class codec : std::uint8_t { raw = 0, msgpack = 1, json = 2 };

/// Header fields that travel with a payload.
struct message_header {
  std::uint64_t id = 0;  ///< the application's, for example to match an answer with its question
  codec encoding = codec::raw;
};

class channel;

namespace detail {

class link_core;

/// Gives credit back to the peer when a received message is released.
class lease {
 public:
  lease() noexcept = default;
  lease(link_core& owner, std::uint32_t lane_index, std::uint64_t cost) noexcept
      : owner_(&owner), cost_(cost), lane_index_(lane_index) {}
  lease(lease&& other) noexcept
      : owner_(std::exchange(other.owner_, nullptr)),
        cost_(other.cost_),
        lane_index_(other.lane_index_) {}
  lease& operator=(lease&& other) noexcept {
    lease taken(std::move(other));  // what was held goes back now, not with `other`
    std::swap(owner_, taken.owner_);
    std::swap(cost_, taken.cost_);
    std::swap(lane_index_, taken.lane_index_);
    return *this;
  }
  ~lease() {
    if (owner_ != nullptr) end(nullptr);
  }
  [[nodiscard]] bool is_held() const noexcept { return owner_ != nullptr; }
  /// Before the end of the lease, with a reference to what it was held for.
  ///
  /// Shape: is_held().
  void give_back(block* used) noexcept {
    end(used);
    owner_ = nullptr;
  }

 private:
  void end(block* used) noexcept;

  link_core* owner_ = nullptr;
  std::uint64_t cost_ = 0;
  std::uint32_t lane_index_ = 0;
};

}  // namespace detail

/// What an application sends and receives: header fields and a payload that keeps its bytes alive.
///
/// A received message holds credit of the channel it came from until it is destroyed or forwarded:
/// who keeps messages slows down only the one who sent them.
///
/// Shape:   move-only; the payload of a received message starts 8-aligned. May outlive its link and
///          its runtime.
/// Threads: may be handed to, and destroyed on, any thread.
/// Cost:    small messages share the block they arrived in; from 64 KiB the payload is one
///          contiguous buffer of its own.
class message {
 public:
  message() noexcept = default;
  explicit message(shared_buffer payload, message_header header = {}) noexcept
      : payload_(std::move(payload)), header_(header) {}
  message(shared_buffer&& payload, message_header header, lane via, detail::lease&& credit) noexcept
      : lease_(std::move(credit)), payload_(std::move(payload)), header_(header), lane_(via) {}
  message(message&&) noexcept = default;
  message& operator=(message&&) noexcept = default;
  ~message() { let_go(); }

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return payload_.bytes(); }
  [[nodiscard]] std::size_t size() const noexcept { return payload_.size(); }
  [[nodiscard]] std::string_view text() const noexcept {
    return {reinterpret_cast<const char*>(payload_.data()), payload_.size()};
  }
  /// The payload as numbers, where it lies.
  ///
  /// Shape:  T is trivially copyable, at most 8-aligned; host byte order.
  /// Errors: throws std::system_error: errc::protocol_violation unless size() is a multiple of
  ///         sizeof(T); errc::unsupported where the payload is not aligned for T, as a slice that
  ///         was made here may be.
  template <class T>
  [[nodiscard]] std::span<const T> as() const;

  [[nodiscard]] const message_header& header() const noexcept { return header_; }
  [[nodiscard]] std::uint64_t id() const noexcept { return header_.id; }
  [[nodiscard]] codec encoding() const noexcept { return header_.encoding; }
  [[nodiscard]] lane via() const noexcept { return lane_; }
  /// The payload, shared: keeps the bytes but not the credit.
  [[nodiscard]] const shared_buffer& payload() const noexcept { return payload_; }
  /// The payload lies in memory that it came to us in and that the peer can still write to: who
  /// checks something there, and then believes it, reads it twice. See to_owned().
  [[nodiscard]] bool is_borrowed() const noexcept {
    return payload_.block() != nullptr && payload_.block()->owner != nullptr;
  }
  /// The payload in memory that nobody else writes to: itself, or a copy.
  ///
  /// Errors: throws std::bad_alloc.
  [[nodiscard]] shared_buffer to_owned() const {
    return is_borrowed() ? shared_buffer(buffer::copy_of(bytes())) : payload_;
  }

 private:
  friend class channel;

  /// Gives bytes and credit back before the end.
  void let_go() noexcept {
    if (lease_.is_held()) return lease_.give_back(payload_.detach());
    payload_ = {};
  }

  detail::lease lease_;
  shared_buffer payload_;
  message_header header_;
  lane lane_ = lane::normal;
};

template <class T>
std::span<const T> message::as() const {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 8);
  if (size() % sizeof(T) != 0) {
    failure(errc::protocol_violation, "payload is no whole number of elements").raise();
  }
  if (reinterpret_cast<std::uintptr_t>(payload_.data()) % alignof(T) != 0) {
    failure(errc::unsupported, "payload is not aligned for its elements").raise();
  }
  return {reinterpret_cast<const T*>(payload_.data()), size() / sizeof(T)};
}

}  // namespace hawser
