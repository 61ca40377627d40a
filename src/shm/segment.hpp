// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "os/platform.hpp"
#include "shm/bell.hpp"
#include "shm/ring.hpp"

namespace hawser::shm {

inline constexpr std::uint32_t layout_version = 1;
inline constexpr std::size_t ring_count = 4;  // pairs of them, one for each channel of a link

/// The two ends of a segment.
enum class side : std::uint8_t { client, server };
[[nodiscard]] constexpr side other(side of) noexcept {
  return of == side::client ? side::server : side::client;
}

/// How the sleeper of a side is woken. Each side writes its own before it sleeps first.
struct alignas(128) side_state {
  /// 1: by its word, as a futex. Anything else: by a byte on the socket that came with the segment.
  std::atomic<std::uint32_t> woken_by_word{0};
  /// 1: its process has joined the barriers of the system, see bell.hpp.
  std::atomic<std::uint32_t> has_barriers{0};
  /// 1: what it publishes it fences by itself, see own_fences. Changes at any time.
  std::atomic<std::uint32_t> fences{0};
};

/// The first page of a segment. The rings follow from `rings_at` on, in the order of the channels,
/// for each first the one that the client writes.
///
/// Shape: native byte order; zero is a valid state of all but the first four members.
struct segment_header {
  std::array<char, 8> magic{'h', 'a', 'w', 's', 'e', 'r', 's', 'm'};
  std::uint32_t layout = layout_version;
  std::uint32_t reserved = 0;
  std::uint64_t bytes = 0;  // of the whole segment
  std::array<std::uint64_t, ring_count> ring_bytes{};
  std::array<bell_state<>, 2> bells;  // by side: it sleeps there
  std::array<side_state, 2> sides;
  std::array<std::array<ring_state<>, 2>, ring_count> rings;  // by channel and writing side
};
inline constexpr std::size_t rings_at = 4096;
static_assert(sizeof(segment_header) <= rings_at);
static_assert(offsetof(segment_header, layout) == 8);
static_assert(offsetof(segment_header, bytes) == 16);
static_assert(offsetof(segment_header, ring_bytes) == 24);
static_assert(offsetof(segment_header, bells) == 128);
static_assert(offsetof(segment_header, sides) == 384);
static_assert(offsetof(segment_header, rings) == 640);
static_assert(sizeof(segment_header) == 640 + 8 * 256);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

using ring_sizes = std::array<std::size_t, ring_count>;

inline constexpr std::size_t ring_size_min = 4096;
inline constexpr std::size_t ring_size_max = std::size_t{16} << 20;
[[nodiscard]] constexpr bool is_ring_size(std::uint64_t bytes) noexcept {
  return bytes >= ring_size_min && bytes <= ring_size_max && std::has_single_bit(bytes);
}
/// Shape: each is_ring_size().
[[nodiscard]] constexpr std::size_t segment_bytes(const ring_sizes& sizes) noexcept {
  std::size_t bytes = rings_at;
  for (const std::size_t each : sizes) bytes += 2 * each;
  return bytes;
}

/// The memory in which two processes have the rings of one link.
///
/// The client makes it and hands it over; both map all of it. A pair of rings is reserved before
/// its channel uses it, so that nothing is touched that the system does not have.
///
/// Threads: one, but what header() and rings refer to is the peer's, too, and not to be believed.
class segment {
 public:
  /// Errors: throws std::system_error.
  [[nodiscard]] static segment create(const ring_sizes& sizes, bool huge_pages);
  /// Takes over what a peer has created. The handle is the caller's still.
  ///
  /// Errors: throws std::system_error: errc::unsupported if it is no such memory, or not of the
  ///         size and the layout that follow from what was said.
  [[nodiscard]] static segment adopt(platform::native_handle memory, const ring_sizes& sizes);

  segment(segment&& gone) noexcept
      : handle_(std::exchange(gone.handle_, platform::no_handle)),
        first_(std::exchange(gone.first_, nullptr)),
        sizes_(gone.sizes_) {}
  segment& operator=(segment&&) = delete;
  ~segment();

  [[nodiscard]] segment_header& header() const noexcept {
    return *reinterpret_cast<segment_header*>(first_);
  }
  [[nodiscard]] const ring_sizes& sizes() const noexcept { return sizes_; }
  /// To hand over; no_handle if it was adopted.
  [[nodiscard]] platform::native_handle handle() const noexcept { return handle_; }
  /// Of one that was created: has the system set aside the pair of a channel.
  [[nodiscard]] std::error_code reserve(std::size_t channel) noexcept;

  [[nodiscard]] ring_writer<> writer(std::size_t channel, side writing) const noexcept {
    return {header().rings[channel][index_of(writing)], bytes_of(channel, writing)};
  }
  [[nodiscard]] ring_reader<> reader(std::size_t channel, side writing) const noexcept {
    return {header().rings[channel][index_of(writing)], bytes_of(channel, writing)};
  }
  [[nodiscard]] bell_state<>& bell_of(side sleeping) const noexcept {
    return header().bells[index_of(sleeping)];
  }
  [[nodiscard]] side_state& state_of(side which) const noexcept {
    return header().sides[index_of(which)];
  }

 private:
  segment(platform::native_handle handle, std::byte* first, const ring_sizes& sizes) noexcept
      : handle_(handle), first_(first), sizes_(sizes) {}

  [[nodiscard]] static constexpr std::size_t index_of(side which) noexcept {
    return static_cast<std::size_t>(which);
  }
  [[nodiscard]] std::size_t offset_of(std::size_t channel) const noexcept {
    std::size_t offset = rings_at;
    for (std::size_t i = 0; i < channel; ++i) offset += 2 * sizes_[i];
    return offset;
  }
  [[nodiscard]] ring_bytes bytes_of(std::size_t channel, side writing) const noexcept {
    const std::size_t at = offset_of(channel) + index_of(writing) * sizes_[channel];
    return ring_bytes({first_ + at, sizes_[channel]});
  }

  platform::native_handle handle_;
  std::byte* first_;
  ring_sizes sizes_;
};

}  // namespace hawser::shm
