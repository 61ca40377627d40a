// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "os/platform.hpp"
#include "shm/bell.hpp"
#include "shm/ring.hpp"

namespace hawser::shm {

inline constexpr std::uint32_t stream_layout = 1;

/// The two ends of a stream.
enum class stream_end : std::uint8_t { creator, opener };
[[nodiscard]] constexpr stream_end other(stream_end of) noexcept {
  return of == stream_end::creator ? stream_end::opener : stream_end::creator;
}

/// What a side has made of its half of a direction. Anything else that a peer writes is `broken`.
enum class half : std::uint32_t { open = 0, closed = 1, broken = 2 };

/// Who is at an end. Written by it before `attached`.
struct alignas(128) stream_side {
  std::atomic<std::int64_t> process{0};
  std::atomic<std::uint64_t> started{0};
  /// 1: its process has joined the barriers of the system, see bell.hpp.
  std::atomic<std::uint32_t> has_barriers{0};
  /// 1: what stands above holds. The creator's is from the beginning.
  std::atomic<std::uint32_t> attached{0};
};
static_assert(sizeof(stream_side) == 128);

/// One direction. Its reader sleeps on the bell, its writer on `ring.writer_waits`.
struct stream_way {
  ring_state<> ring;
  bell_state<> reader;
  alignas(128) std::atomic<std::uint32_t> writer_half{0};
  alignas(128) std::atomic<std::uint32_t> reader_half{0};
};
static_assert(sizeof(stream_way) == 640);

/// The first page. The rings follow, first that which the creator writes.
///
/// Shape: native byte order; zero is a valid state of all but the first four members.
struct stream_header {
  std::array<char, 8> magic{'h', 'a', 'w', 's', 'e', 'r', 's', 't'};
  std::uint32_t layout = stream_layout;
  std::uint32_t reserved = 0;
  std::uint64_t ring_bytes = 0;
  std::array<stream_side, 2> sides;  // by end
  std::array<stream_way, 2> ways;    // by the end that writes
};
inline constexpr std::size_t stream_rings_at = 4096;
static_assert(sizeof(stream_header) <= stream_rings_at);
static_assert(offsetof(stream_header, layout) == 8);
static_assert(offsetof(stream_header, ring_bytes) == 16);
static_assert(offsetof(stream_header, sides) == 128);
static_assert(offsetof(stream_header, ways) == 384);

inline constexpr std::size_t stream_ring_min = 4096;
[[nodiscard]] constexpr bool is_stream_ring(std::uint64_t bytes) noexcept {
  return bytes >= stream_ring_min && bytes <= ring_bytes_max && std::has_single_bit(bytes);
}

/// The memory of a stream, and the name that leads to it as long as nobody has come.
///
/// Threads: one; but what header() and rings refer to is the peer's, too.
class stream_segment {
 public:
  struct wishes {
    std::size_t ring_bytes;
    bool huge_pages;
    bool touch;
  };

  /// Errors: throws std::system_error, see shm_stream::create().
  [[nodiscard]] static stream_segment create(std::string_view name, const wishes& how);
  /// Becomes the peer, and takes the name away.
  ///
  /// Errors: throws std::system_error, see shm_stream::open().
  [[nodiscard]] static stream_segment open(std::string_view name, const wishes& how);

  stream_segment(stream_segment&& gone) noexcept;
  stream_segment& operator=(stream_segment&&) = delete;
  /// The name goes, too.
  ~stream_segment();

  [[nodiscard]] stream_end end() const noexcept { return end_; }
  [[nodiscard]] stream_header& header() const noexcept {
    return *reinterpret_cast<stream_header*>(first_);
  }
  [[nodiscard]] stream_side& side(stream_end of) const noexcept {
    return header().sides[static_cast<std::size_t>(of)];
  }
  [[nodiscard]] stream_way& way(stream_end writing) const noexcept {
    return header().ways[static_cast<std::size_t>(writing)];
  }
  [[nodiscard]] ring_writer<> writer() const noexcept { return {way(end_).ring, bytes_of(end_)}; }
  [[nodiscard]] ring_reader<> reader() const noexcept {
    return {way(other(end_)).ring, bytes_of(other(end_))};
  }

 private:
  stream_segment(stream_end end, std::string name, std::size_t ring_bytes) noexcept;

  void map(const wishes& how);
  /// Says who is at this end.
  void attach();
  [[nodiscard]] std::size_t bytes() const noexcept { return stream_rings_at + 2 * ring_bytes_; }
  [[nodiscard]] ring_bytes bytes_of(stream_end writing) const noexcept {
    const std::size_t at = stream_rings_at + static_cast<std::size_t>(writing) * ring_bytes_;
    return ring_bytes({first_ + at, ring_bytes_});
  }

  stream_end end_;
  std::string name_;
  std::size_t ring_bytes_;
  platform::native_handle memory_ = platform::no_handle;
  platform::native_handle note_ = platform::no_handle;
  std::byte* first_ = nullptr;
};

}  // namespace hawser::shm
