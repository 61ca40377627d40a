// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "hawser/buffer.hpp"

namespace hawser::detail {

/// Memory in which payloads lie where a peer can read them, so that only their place is sent; and
/// the peer's, which can be read here.
///
/// Shape:   places are offsets, and what a peer says of them need not be true.
/// Threads: one, its home's.
class lender {
 public:
  /// So much can be lent, if not now.
  [[nodiscard]] virtual bool may_lend(std::size_t bytes) const noexcept = 0;
  /// Writable memory that the peer can read; nothing if there is no room now.
  ///
  /// Shape:  may_lend().
  /// Errors: throws std::bad_alloc. If the system has no memory for it, may_lend() says no from
  ///         then on.
  [[nodiscard]] virtual std::optional<buffer> loan(std::size_t bytes) = 0;
  /// Whether the payload lies in memory that was lent here, in a place that can be told.
  [[nodiscard]] virtual bool has_lent(const shared_buffer& payload) const noexcept = 0;
  /// Shape: has_lent(), prepare() was true.
  [[nodiscard]] virtual std::uint64_t place_of(const shared_buffer& payload) const noexcept = 0;
  /// What is lent will be handed over: whatever the peer needs for that goes ahead. False: it
  /// cannot be after all, and is a payload like any other.
  ///
  /// Shape: has_lent().
  [[nodiscard]] virtual bool prepare(const shared_buffer& payload) noexcept = 0;
  /// The peer holds the payload from now on.
  ///
  /// Shape: has_lent(), prepare() was true.
  virtual void hand_over(const shared_buffer& payload) noexcept = 0;
  /// The peer gives back what it had there. False: it had nothing there.
  [[nodiscard]] virtual bool take_return(std::uint64_t at) noexcept = 0;
  /// What the peer says it has written there; empty: that cannot be.
  ///
  /// Errors: throws std::bad_alloc.
  [[nodiscard]] virtual shared_buffer borrow(std::uint64_t at, std::uint64_t bytes) = 0;
  /// Nothing was said for long: memory that is not lent may go back to the system.
  virtual void shed() noexcept = 0;

 protected:
  ~lender() = default;
};

}  // namespace hawser::detail
