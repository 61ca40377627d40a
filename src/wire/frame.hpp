// SPDX-License-Identifier: Apache-2.0
#pragma once

// What crosses a pipe, byte by byte. The words, fields and reactions are in README.md beside this
// file, which is normative; golden bytes there are checked by tests/wire_frame_test.cpp.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/errc.hpp"

namespace hawser::wire {

inline constexpr std::uint64_t version_lowest = 1;
inline constexpr std::uint64_t version_highest = 1;
inline constexpr std::string_view magic = "hawser";

inline constexpr std::size_t channel_count = 4;
inline constexpr std::size_t lane_count = 8;  // lane = 2 * channel + (urgent ? 1 : 0)
inline constexpr std::size_t socket_count = 4;  // pipe 0 is the control socket
inline constexpr std::size_t shared_main = 4;   // of a link that shares memory: in its place
inline constexpr std::size_t pipe_count = 5;

enum class kind : std::uint64_t {
  hello = 1,
  welcome = 2,
  refuse = 3,
  attach = 4,
  attached = 5,
  share = 6,
  returned = 7,
  data = 8,
  credit = 9,
  ping = 10,
  pong = 11,
  end = 12,
  close = 13,
  closed = 14,
  moved = 15,
  unknown = 16,
  resumed = 17,
};

namespace feature {
inline constexpr std::uint64_t resume = 1;  // the link outlives its connection
inline constexpr std::uint64_t share = 2;   // pipes may be rings in shared memory
inline constexpr std::uint64_t lend = 4;    // and payloads may lie in an arena
inline constexpr std::uint64_t pass_sealed = 8;  // or in memory of the application's, if sealed
inline constexpr std::uint64_t pass_any = 16;    // or in any file
}  // namespace feature

namespace flag {
inline constexpr std::uint64_t continued = 1;  // another slice of this message follows in the lane
inline constexpr std::uint64_t urgent = 2;
inline constexpr std::uint64_t lent = 4;  // the payload lies in the arena of who sends this
}  // namespace flag

inline constexpr std::size_t length_bytes = 4;
inline constexpr std::size_t header_bytes_max = 4096;  // length and header; all of what is not data
inline constexpr std::size_t frame_bytes_max = 1 << 20;   // payload of one slice, as we announce it
inline constexpr std::size_t frame_bytes_min = 64 << 10;  // what everybody must take
inline constexpr std::size_t slice_bytes_min = 16 << 10;  // of a slice that is not the last
inline constexpr std::size_t message_overhead = 64;  // credit a message costs beside its frames
inline constexpr std::size_t slice_bytes_shared = 64 << 10;  // what we send on a shared pipe
inline constexpr std::size_t slice_bytes_own = 1 << 20;      // ... and on a pipe of its own
inline constexpr std::size_t shared_bulk_slices = 3;         // unreceived bulk slices on pipe 0
inline constexpr std::size_t close_text_max = 512;
inline constexpr std::uint64_t window_max = std::uint64_t{1} << 61;  // more counts as this much
inline constexpr std::uint64_t credit_max = std::uint64_t{1} << 62;  // of a window or a grant

/// The credit that version 1 grants before the handshake is done, by lane.
inline constexpr std::array<std::uint64_t, lane_count> first_credit{
    16 << 10, 4 << 10, 64 << 10, 4 << 10, 0, 0, 0, 0};

[[nodiscard]] constexpr std::size_t align8(std::size_t bytes) noexcept {
  return (bytes + 7) & ~std::size_t{7};
}
[[nodiscard]] constexpr std::size_t lane_of(std::size_t channel, bool urgent) noexcept {
  return 2 * channel + (urgent ? 1 : 0);
}

using secret = std::array<std::byte, 16>;
using lane_numbers = std::array<std::uint64_t, lane_count>;

/// What each side says it will take. The sender keeps to it; the receiver closes on a breach.
struct limits {
  std::uint64_t frame_bytes = frame_bytes_max;
  std::array<std::uint64_t, channel_count> message_bytes{64 << 10, 16 << 20, 16 << 20, 16 << 20};
  lane_numbers window{};
  std::uint64_t keepalive_ms = 20'000;
  std::uint64_t pipes = 4;
};

struct hello {
  std::uint64_t lowest = version_lowest;
  std::uint64_t highest = version_highest;
  std::uint64_t features = 0;
  secret link_id{};
  std::uint64_t incarnation = 0;
  wire::limits limits;
  std::optional<secret> resume_secret;  // absent: a new link
  lane_numbers received{};
};

struct welcome {
  std::uint64_t version = version_highest;
  std::uint64_t features = 0;
  secret link_id{};
  std::uint64_t incarnation = 0;
  secret attach_secret{};
  secret resume_secret{};
  wire::limits limits;
  std::optional<lane_numbers> received;  // present: resumed
};

struct refusal {
  errc code = errc::refused;
  std::string text;
};

/// An errc that a peer has sent; refused if there is none of that number.
[[nodiscard]] errc known_code(std::uint64_t number) noexcept;

struct attach {
  wire::secret link_id{};
  wire::secret secret{};
  std::uint64_t channel = 0;
};

/// The client hands over a segment, see shm/segment.hpp: it comes with this frame.
struct share {
  wire::secret link_id{};
  wire::secret secret{};  // as in an attach
  std::uint64_t layout = 0;
  std::array<std::uint64_t, channel_count> ring_bytes{};
  std::uint64_t arena_bytes = 0;  // of each side; it comes behind the segment. Zero: none
};

/// One lane of a credit frame. All numbers are totals since the link began.
struct grant {
  std::uint64_t lane = 0;
  std::uint64_t granted = 0;   // bytes the sender may have spent
  std::uint64_t consumed = 0;  // messages handed to the application
  std::uint64_t received = 0;  // bytes of credit that have arrived
};

/// Where each lane stands when a link goes on over another connection. Totals, as in a grant.
struct resumption {
  lane_numbers lost{};      // messages that this side had sent and will not send again
  lane_numbers granted{};   // what the other may spend,
  lane_numbers received{};  // and has spent, as far as it counts
  lane_numbers consumed{};  // messages of the other that were handed to the application
};

/// The header of a data frame.
struct data_header {
  std::uint64_t channel = 0;
  std::uint64_t flags = 0;
  std::uint64_t id = 0;
  std::uint64_t codec = 0;
  std::uint64_t total = 0;  // payload bytes of the whole message; on its first of several slices,
                            // and where it is lent
  std::uint64_t at = 0;     // where, then
};
[[nodiscard]] constexpr std::size_t lane_of(const data_header& header) noexcept {
  return lane_of(header.channel, (header.flags & flag::urgent) != 0);
}

/// The most that a single frame may cost a lane with this window.
///
/// A receiver may keep back less than a quarter of the window, so a message that needs more could
/// wait for ever: it goes in slices, whose first one calls for the rest.
[[nodiscard]] constexpr std::uint64_t single_cost_max(std::uint64_t window) noexcept {
  return window - window / 4;
}

/// The smallest window whose single_cost_max() is not below `single_cost`, which is not zero.
[[nodiscard]] constexpr std::uint64_t window_for(std::uint64_t single_cost) noexcept {
  return (single_cost - 1) * 4 / 3 + 1;
}

/// A whole frame on its way out: header frames only, never data.
using frame_bytes = std::vector<std::byte>;

[[nodiscard]] frame_bytes encode(const hello& from);
[[nodiscard]] frame_bytes encode(const welcome& from);
[[nodiscard]] frame_bytes encode(const refusal& from);
[[nodiscard]] frame_bytes encode(const attach& from);
[[nodiscard]] frame_bytes encode_attached();
[[nodiscard]] frame_bytes encode(const share& from);
[[nodiscard]] frame_bytes encode(std::span<const grant> grants);
[[nodiscard]] frame_bytes encode_token(kind what, std::uint64_t token);  // ping, pong, unknown
[[nodiscard]] frame_bytes encode_end(std::uint64_t channel, std::uint64_t normal,
                                     std::uint64_t urgent);
[[nodiscard]] frame_bytes encode_close(errc code, std::string_view text,
                                       const lane_numbers& final_sequences);
[[nodiscard]] frame_bytes encode_closed(const lane_numbers& received, const lane_numbers& consumed);
[[nodiscard]] frame_bytes encode_moved(std::uint64_t channel, std::uint64_t pipe,
                                       std::uint64_t next_normal, std::uint64_t next_urgent);
[[nodiscard]] frame_bytes encode(const resumption& from);
inline constexpr std::size_t returns_max = 400;  // in one frame
/// Shape: at most returns_max.
[[nodiscard]] frame_bytes encode_returned(std::span<const std::uint64_t> places);

/// Writes length and header of a data frame.
///
/// Shape:   `room` has at least data_prefix_max bytes. Returns the offset of the payload.
inline constexpr std::size_t data_prefix_max = 48;
[[nodiscard]] std::size_t encode_data_prefix(std::span<std::byte> room, const data_header& header,
                                             std::size_t payload_bytes) noexcept;
/// What encode_data_prefix() would return.
[[nodiscard]] std::size_t data_prefix_bytes(const data_header& header) noexcept;

/// The credit that one frame of this payload and prefix costs.
[[nodiscard]] constexpr std::uint64_t frame_cost(std::size_t prefix, std::size_t payload) noexcept {
  return align8(prefix + payload);
}
/// More than a message of `total` bytes can cost in slices of slice_bytes_min or more.
[[nodiscard]] constexpr std::uint64_t message_cost_bound(std::uint64_t total) noexcept {
  return total + message_overhead + (total / slice_bytes_min + 2) * 64;
}

/// A frame that is wholly there: the header with its kind read, then the payload.
struct frame_view {
  std::span<const std::byte> header;   // from after the length; may be followed by payload
  std::span<const std::byte> payload;  // empty unless data
};

/// The kind of a frame, and how many elements its header has. Empty: not a header.
struct header_start {
  wire::kind kind{};
  std::size_t elements = 0;
};
[[nodiscard]] std::optional<header_start> peek_kind(std::span<const std::byte> header) noexcept;

// Decoders take the bytes of a header, without the length. Empty: malformed. Elements that they do
// not know are skipped.
[[nodiscard]] std::optional<hello> decode_hello(std::span<const std::byte> header) noexcept;
[[nodiscard]] std::optional<welcome> decode_welcome(std::span<const std::byte> header) noexcept;
[[nodiscard]] std::optional<refusal> decode_refusal(std::span<const std::byte> header);
[[nodiscard]] std::optional<attach> decode_attach(std::span<const std::byte> header) noexcept;
[[nodiscard]] std::optional<share> decode_share(std::span<const std::byte> header) noexcept;
/// At most lane_count grants.
struct grants {
  std::array<grant, lane_count> entries;
  std::size_t count = 0;
};
[[nodiscard]] std::optional<grants> decode_credit(std::span<const std::byte> header) noexcept;
[[nodiscard]] std::optional<std::uint64_t> decode_token(std::span<const std::byte> header) noexcept;
struct channel_end {
  std::uint64_t channel = 0;
  std::uint64_t normal = 0;
  std::uint64_t urgent = 0;
};
[[nodiscard]] std::optional<channel_end> decode_end(std::span<const std::byte> header) noexcept;
struct closing {
  std::uint64_t code = 0;
  std::string text;
  lane_numbers final_sequences{};
};
[[nodiscard]] std::optional<closing> decode_close(std::span<const std::byte> header);
struct closed {
  lane_numbers received{};
  lane_numbers consumed{};
};
[[nodiscard]] std::optional<closed> decode_closed(std::span<const std::byte> header) noexcept;
struct moved {
  std::uint64_t channel = 0;
  std::uint64_t pipe = 0;
  std::uint64_t next_normal = 0;
  std::uint64_t next_urgent = 0;
};
[[nodiscard]] std::optional<moved> decode_moved(std::span<const std::byte> header) noexcept;
[[nodiscard]] std::optional<resumption> decode_resumed(
    std::span<const std::byte> header) noexcept;

/// Where lent payloads begin that are given back.
struct returned {
  std::array<std::uint64_t, returns_max> places;
  std::size_t count = 0;
};
[[nodiscard]] std::optional<returned> decode_returned(std::span<const std::byte> header) noexcept;

/// The header of a data frame; `header_bytes` is where it ends, counted from after the length.
struct decoded_data {
  data_header header;
  std::size_t header_bytes = 0;
};
[[nodiscard]] std::optional<decoded_data> decode_data(std::span<const std::byte> header) noexcept;

/// The first frame of a connection, on the side that was connected to.
struct opening {
  std::optional<wire::hello> hello;
  std::optional<wire::attach> attach;
  std::optional<wire::share> share;
};
/// Empty: none of them.
[[nodiscard]] std::optional<opening> decode_opening(std::span<const std::byte> header) noexcept;

/// Padded size of the frame whose first four bytes these are; empty: above header_bytes_max.
[[nodiscard]] std::optional<std::size_t> opening_bytes(
    std::span<const std::byte, length_bytes> length) noexcept;

template <class Number>
[[nodiscard]] inline Number load_little_endian(const std::byte* from) noexcept {
  Number value = 0;
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(&value, from, sizeof value);
  } else {
    for (std::size_t i = sizeof value; i > 0; --i) {
      value = static_cast<Number>(value << 8 | static_cast<Number>(from[i - 1]));
    }
  }
  return value;
}
template <class Number>
inline void store_little_endian(std::byte* to, Number value) noexcept {
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(to, &value, sizeof value);
  } else {
    for (std::size_t i = 0; i < sizeof value; ++i) to[i] = static_cast<std::byte>(value >> (8 * i));
  }
}
[[nodiscard]] inline std::uint32_t load_length(const std::byte* from) noexcept {
  return load_little_endian<std::uint32_t>(from);
}

/// Length and header of a whole message without id and codec, seen as one little-endian number:
/// nearly all small messages start like this, and are recognised and written without a codec.
namespace plain {
inline constexpr std::size_t prefix_bytes = 8;
inline constexpr std::uint64_t fixed_bits = 0x0000'0893'0000'0000;  // [8, channel, flags]
inline constexpr std::uint64_t fixed_mask = 0xfdfc'ffff'0000'0000;  // but two bits, and urgent
[[nodiscard]] constexpr std::uint64_t start(std::size_t lane, std::size_t payload_bytes) noexcept {
  return fixed_bits | static_cast<std::uint64_t>(lane / 2) << 48 |
         static_cast<std::uint64_t>(lane % 2) << 57 | (prefix_bytes - length_bytes + payload_bytes);
}
[[nodiscard]] constexpr bool matches(std::uint64_t start) noexcept {
  return (start & fixed_mask) == fixed_bits;
}
/// Shape: matches().
[[nodiscard]] constexpr std::size_t lane(std::uint64_t start) noexcept {
  return (start >> 47 & 6U) | (start >> 57 & 1U);
}
/// Of the frame, padding included.
[[nodiscard]] constexpr std::size_t frame_bytes(std::uint64_t start) noexcept {
  return align8(length_bytes + static_cast<std::uint32_t>(start));
}
/// Huge for a length that is too short.
[[nodiscard]] constexpr std::size_t payload_bytes(std::uint64_t start) noexcept {
  return static_cast<std::size_t>(static_cast<std::uint32_t>(start)) -
         (prefix_bytes - length_bytes);
}
}  // namespace plain

}  // namespace hawser::wire
