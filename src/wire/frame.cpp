// SPDX-License-Identifier: Apache-2.0
#include "wire/frame.hpp"

#include <algorithm>
#include <cstring>

#include "core/msgpack.hpp"

namespace hawser::wire {
namespace {

using detail::header_reader;
using detail::header_writer;

void store_length(std::byte* to, std::size_t length) noexcept {
  store_little_endian(to, static_cast<std::uint32_t>(length));
}

template <class Write>
frame_bytes frame(kind what, std::size_t elements, Write write) {
  std::array<std::byte, header_bytes_max> bytes;
  header_writer out(std::span<std::byte>(bytes).subspan(length_bytes));
  out.array(elements);
  out.number(static_cast<std::uint64_t>(what));
  write(out);
  store_length(bytes.data(), out.size());
  const std::size_t end = length_bytes + out.size();
  frame_bytes whole(align8(end));
  std::memcpy(whole.data(), bytes.data(), end);
  return whole;
}

// At most close_text_max bytes, never half a UTF-8 character.
std::string_view cut(std::string_view text) noexcept {
  if (text.size() <= close_text_max) return text;
  std::size_t end = close_text_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0U) == 0x80) --end;
  return text.substr(0, end);
}

template <std::size_t Count>
void write_numbers(header_writer& out, const std::array<std::uint64_t, Count>& numbers) {
  out.array(Count);
  for (const auto number : numbers) out.number(number);
}

// A peer of a later version may send more numbers; what we do not know is passed over.
template <std::size_t Count>
void read_numbers(header_reader& in, std::array<std::uint64_t, Count>& numbers) noexcept {
  const std::size_t there = in.array();
  if (there < Count) return in.reject();
  for (auto& number : numbers) number = in.number();
  for (std::size_t i = Count; i < there && !in.failed(); ++i) in.skip();
}

void write_limits(header_writer& out, const limits& from) {
  out.array(5);
  out.number(from.frame_bytes);
  write_numbers(out, from.message_bytes);
  write_numbers(out, from.window);
  out.number(from.keepalive_ms);
  out.number(from.pipes);
}

bool read_limits(header_reader& in, limits& to) noexcept {
  const std::size_t there = in.array();
  if (there < 5) return false;
  to.frame_bytes = in.number();
  read_numbers(in, to.message_bytes);
  read_numbers(in, to.window);
  to.keepalive_ms = in.number();
  to.pipes = in.number();
  for (std::size_t i = 5; i < there && !in.failed(); ++i) in.skip();
  for (const auto window : to.window) {
    if (window > credit_max) return false;
  }
  return !in.failed() && to.frame_bytes >= frame_bytes_min && to.pipes >= 1;
}

bool read_secret(header_reader& in, secret& to) noexcept {
  const auto bytes = in.binary();
  if (bytes.size() != to.size()) return false;
  std::copy(bytes.begin(), bytes.end(), to.begin());
  return true;
}

// Positions a reader behind the kind of a frame that must be of kind `what`, with `needed`
// elements or more beside it.
std::optional<header_reader> open(std::span<const std::byte> header, kind what,
                                  std::size_t needed) noexcept {
  header_reader in(header);
  const std::size_t elements = in.array();
  if (in.number() != static_cast<std::uint64_t>(what)) return std::nullopt;
  if (in.failed() || elements < needed + 1) return std::nullopt;
  return in;
}

}  // namespace

frame_bytes encode(const hello& from) {
  return frame(kind::hello, 9, [&](header_writer& out) {
    out.text(magic);
    out.number(from.lowest);
    out.number(from.highest);
    out.number(from.features);
    out.binary(from.link_id);
    out.number(from.incarnation);
    write_limits(out, from.limits);
    if (from.resume_secret.has_value()) {
      out.array(2);
      out.binary(*from.resume_secret);
      write_numbers(out, from.received);
    } else {
      out.nil();
    }
  });
}

std::optional<hello> decode_hello(std::span<const std::byte> header) noexcept {
  auto in = open(header, kind::hello, 8);
  if (!in.has_value() || in->text() != magic) return std::nullopt;
  hello to;
  to.lowest = in->number();
  to.highest = in->number();
  to.features = in->number();
  if (!read_secret(*in, to.link_id)) return std::nullopt;
  to.incarnation = in->number();
  if (!read_limits(*in, to.limits)) return std::nullopt;
  if (!in->nil()) {
    if (in->array() < 2 || !read_secret(*in, to.resume_secret.emplace())) return std::nullopt;
    read_numbers(*in, to.received);
  }
  if (in->failed() || to.lowest > to.highest) return std::nullopt;
  return to;
}

frame_bytes encode(const welcome& from) {
  return frame(kind::welcome, 9, [&](header_writer& out) {
    out.number(from.version);
    out.number(from.features);
    out.binary(from.link_id);
    out.number(from.incarnation);
    out.binary(from.attach_secret);
    out.binary(from.resume_secret);
    write_limits(out, from.limits);
    if (from.received.has_value()) {
      write_numbers(out, *from.received);
    } else {
      out.nil();
    }
  });
}

std::optional<welcome> decode_welcome(std::span<const std::byte> header) noexcept {
  auto in = open(header, kind::welcome, 8);
  if (!in.has_value()) return std::nullopt;
  welcome to;
  to.version = in->number();
  to.features = in->number();
  if (!read_secret(*in, to.link_id)) return std::nullopt;
  to.incarnation = in->number();
  if (!read_secret(*in, to.attach_secret)) return std::nullopt;
  if (!read_secret(*in, to.resume_secret)) return std::nullopt;
  if (!read_limits(*in, to.limits)) return std::nullopt;
  if (!in->nil()) read_numbers(*in, to.received.emplace());
  if (in->failed()) return std::nullopt;
  return to;
}

frame_bytes encode(const refusal& from) {
  return frame(kind::refuse, 3, [&](header_writer& out) {
    out.number(static_cast<std::uint64_t>(from.code));
    out.text(cut(from.text));
  });
}

errc known_code(std::uint64_t number) noexcept {
  const bool known = number >= static_cast<std::uint64_t>(errc::closed) &&
                     number <= static_cast<std::uint64_t>(errc::resource_exhausted);
  return known ? static_cast<errc>(number) : errc::refused;
}

std::optional<refusal> decode_refusal(std::span<const std::byte> header) {
  auto in = open(header, kind::refuse, 2);
  if (!in.has_value()) return std::nullopt;
  refusal to;
  to.code = static_cast<errc>(in->number());
  to.text = std::string(cut(in->text()));
  if (in->failed()) return std::nullopt;
  return to;
}

frame_bytes encode(const attach& from) {
  return frame(kind::attach, 5, [&](header_writer& out) {
    out.text(magic);
    out.binary(from.link_id);
    out.binary(from.secret);
    out.number(from.channel);
  });
}

std::optional<attach> decode_attach(std::span<const std::byte> header) noexcept {
  auto in = open(header, kind::attach, 4);
  if (!in.has_value() || in->text() != magic) return std::nullopt;
  attach to;
  if (!read_secret(*in, to.link_id) || !read_secret(*in, to.secret)) return std::nullopt;
  to.channel = in->number();
  if (in->failed()) return std::nullopt;
  return to;
}

frame_bytes encode(const share& from) {
  return frame(kind::share, 7, [&](header_writer& out) {
    out.text(magic);
    out.binary(from.link_id);
    out.binary(from.secret);
    out.number(from.layout);
    write_numbers(out, from.ring_bytes);
    out.number(from.arena_bytes);
  });
}

std::optional<share> decode_share(std::span<const std::byte> header) noexcept {
  auto in = open(header, kind::share, 6);
  if (!in.has_value() || in->text() != magic) return std::nullopt;
  share to;
  if (!read_secret(*in, to.link_id) || !read_secret(*in, to.secret)) return std::nullopt;
  to.layout = in->number();
  read_numbers(*in, to.ring_bytes);
  to.arena_bytes = in->number();
  if (in->failed()) return std::nullopt;
  return to;
}

frame_bytes encode_attached() {
  return frame(kind::attached, 1, [](header_writer&) {});
}

frame_bytes encode(std::span<const grant> grants) {
  return frame(kind::credit, 1 + grants.size(), [&](header_writer& out) {
    for (const grant& each : grants) {
      out.array(4);
      out.number(each.lane);
      out.number(each.granted);
      out.number(each.consumed);
      out.number(each.received);
    }
  });
}

std::optional<grants> decode_credit(std::span<const std::byte> header) noexcept {
  header_reader in(header);
  const std::size_t elements = in.array();
  static_cast<void>(in.number());
  grants to;
  if (in.failed() || elements < 2 || elements > 1 + lane_count) return std::nullopt;
  for (; to.count + 1 < elements; ++to.count) {
    grant& each = to.entries[to.count];
    const std::size_t there = in.array();
    if (there < 4) return std::nullopt;
    each.lane = in.number();
    each.granted = in.number();
    each.consumed = in.number();
    each.received = in.number();
    for (std::size_t i = 4; i < there && !in.failed(); ++i) in.skip();
    if (in.failed() || each.lane >= lane_count || each.granted > credit_max) return std::nullopt;
  }
  return to;
}

frame_bytes encode_returned(std::span<const std::uint64_t> places) {
  return frame(kind::returned, 2, [&](header_writer& out) {
    out.array(places.size());
    for (const auto place : places) out.number(place);
  });
}

std::optional<returned> decode_returned(std::span<const std::byte> header) noexcept {
  auto in = open(header, kind::returned, 1);
  if (!in.has_value()) return std::nullopt;
  const std::size_t count = in->array();
  if (in->failed() || count > returns_max) return std::nullopt;
  returned to;
  for (; to.count < count; ++to.count) to.places[to.count] = in->number();
  if (in->failed()) return std::nullopt;
  return to;
}

frame_bytes encode_token(kind what, std::uint64_t token) {
  return frame(what, 2, [&](header_writer& out) { out.number(token); });
}

std::optional<std::uint64_t> decode_token(std::span<const std::byte> header) noexcept {
  header_reader in(header);
  const std::size_t elements = in.array();
  static_cast<void>(in.number());
  const std::uint64_t token = in.number();
  if (in.failed() || elements < 2) return std::nullopt;
  return token;
}

frame_bytes encode_end(std::uint64_t channel, std::uint64_t normal, std::uint64_t urgent) {
  return frame(kind::end, 4, [&](header_writer& out) {
    out.number(channel);
    out.number(normal);
    out.number(urgent);
  });
}

std::optional<channel_end> decode_end(std::span<const std::byte> header) noexcept {
  auto in = open(header, kind::end, 3);
  if (!in.has_value()) return std::nullopt;
  channel_end to;
  to.channel = in->number();
  to.normal = in->number();
  to.urgent = in->number();
  if (in->failed() || to.channel >= channel_count) return std::nullopt;
  return to;
}

frame_bytes encode_close(errc code, std::string_view text, const lane_numbers& final_sequences) {
  return frame(kind::close, 4, [&](header_writer& out) {
    out.number(static_cast<std::uint64_t>(code));
    out.text(cut(text));
    write_numbers(out, final_sequences);
  });
}

std::optional<closing> decode_close(std::span<const std::byte> header) {
  auto in = open(header, kind::close, 3);
  if (!in.has_value()) return std::nullopt;
  closing to;
  to.code = in->number();
  to.text = std::string(cut(in->text()));
  read_numbers(*in, to.final_sequences);
  if (in->failed()) return std::nullopt;
  return to;
}

frame_bytes encode_closed(const lane_numbers& received, const lane_numbers& consumed) {
  return frame(kind::closed, 3, [&](header_writer& out) {
    write_numbers(out, received);
    write_numbers(out, consumed);
  });
}

std::optional<closed> decode_closed(std::span<const std::byte> header) noexcept {
  auto in = open(header, kind::closed, 2);
  if (!in.has_value()) return std::nullopt;
  closed to;
  read_numbers(*in, to.received);
  read_numbers(*in, to.consumed);
  if (in->failed()) return std::nullopt;
  return to;
}

frame_bytes encode_moved(std::uint64_t channel, std::uint64_t pipe, std::uint64_t next_normal,
                         std::uint64_t next_urgent) {
  return frame(kind::moved, 5, [&](header_writer& out) {
    out.number(channel);
    out.number(pipe);
    out.number(next_normal);
    out.number(next_urgent);
  });
}

std::optional<moved> decode_moved(std::span<const std::byte> header) noexcept {
  auto in = open(header, kind::moved, 4);
  if (!in.has_value()) return std::nullopt;
  moved to;
  to.channel = in->number();
  to.pipe = in->number();
  to.next_normal = in->number();
  to.next_urgent = in->number();
  if (in->failed() || to.channel >= channel_count || to.pipe >= pipe_count) return std::nullopt;
  return to;
}

frame_bytes encode(const resumption& from) {
  return frame(kind::resumed, 5, [&](header_writer& out) {
    write_numbers(out, from.lost);
    write_numbers(out, from.granted);
    write_numbers(out, from.received);
    write_numbers(out, from.consumed);
  });
}

std::optional<resumption> decode_resumed(std::span<const std::byte> header) noexcept {
  auto in = open(header, kind::resumed, 4);
  if (!in.has_value()) return std::nullopt;
  resumption to;
  read_numbers(*in, to.lost);
  read_numbers(*in, to.granted);
  read_numbers(*in, to.received);
  read_numbers(*in, to.consumed);
  if (in->failed()) return std::nullopt;
  for (std::size_t lane = 0; lane < lane_count; ++lane) {
    if (to.granted[lane] > credit_max || to.received[lane] > to.granted[lane]) return std::nullopt;
  }
  return to;
}

namespace {

std::size_t data_elements(const data_header& header) noexcept {
  if ((header.flags & flag::lent) != 0) return 7;
  if (header.total != 0) return 6;
  if (header.codec != 0) return 5;
  return header.id != 0 ? 4 : 3;
}

constexpr std::size_t number_bytes(std::uint64_t value) noexcept {
  if (value < 0x80) return 1;
  if (value <= 0xff) return 2;
  if (value <= 0xffff) return 3;
  return value <= 0xffff'ffff ? 5 : 9;
}

}  // namespace

std::size_t data_prefix_bytes(const data_header& header) noexcept {
  const std::size_t elements = data_elements(header);
  std::size_t bytes = 1 + 1 + 1 + 1;  // array, kind, channel, flags: all small
  if (elements > 3) bytes += number_bytes(header.id);
  if (elements > 4) bytes += number_bytes(header.codec);
  if (elements > 5) bytes += number_bytes(header.total);
  if (elements > 6) bytes += number_bytes(header.at);
  return align8(length_bytes + bytes);
}

std::size_t encode_data_prefix(std::span<std::byte> room, const data_header& header,
                               std::size_t payload_bytes) noexcept {
  const std::size_t elements = data_elements(header);
  header_writer out(room.subspan(length_bytes));
  out.array(elements);
  out.number(static_cast<std::uint64_t>(kind::data));
  out.number(header.channel);
  out.number(header.flags);
  if (elements > 3) out.number(header.id);
  if (elements > 4) out.number(header.codec);
  if (elements > 5) out.number(header.total);
  if (elements > 6) out.number(header.at);
  const std::size_t end = length_bytes + out.size();
  const std::size_t prefix = align8(end);
  std::memset(room.data() + end, 0, prefix - end);
  store_length(room.data(), prefix - length_bytes + payload_bytes);
  return prefix;
}

std::optional<decoded_data> decode_data(std::span<const std::byte> header) noexcept {
  header_reader in(header);
  decoded_data to;
  const std::size_t elements = in.array();
  static_cast<void>(in.number());
  to.header.channel = in.number();
  to.header.flags = in.number();
  if (elements > 3) to.header.id = in.nil() ? 0 : in.number();
  if (elements > 4) to.header.codec = in.nil() ? 0 : in.number();
  if (elements > 5) to.header.total = in.nil() ? 0 : in.number();
  std::size_t next = 6;
  if (elements > next && (to.header.flags & flag::lent) != 0) {
    to.header.at = in.nil() ? 0 : in.number();
    ++next;
  }
  for (; next < elements && !in.failed(); ++next) in.skip();
  if (in.failed() || elements < 3 || to.header.channel >= channel_count) return std::nullopt;
  if (to.header.codec > 0xff) return std::nullopt;
  to.header_bytes = in.position();
  return to;
}

std::optional<header_start> peek_kind(std::span<const std::byte> header) noexcept {
  header_reader in(header);
  header_start to;
  to.elements = in.array();
  to.kind = static_cast<kind>(in.number());
  if (in.failed() || to.elements == 0) return std::nullopt;
  return to;
}

std::optional<opening> decode_opening(std::span<const std::byte> header) noexcept {
  opening to;
  to.hello = decode_hello(header);
  if (!to.hello.has_value()) to.attach = decode_attach(header);
  if (!to.hello.has_value() && !to.attach.has_value()) to.share = decode_share(header);
  if (!to.hello.has_value() && !to.attach.has_value() && !to.share.has_value()) return std::nullopt;
  return to;
}

std::optional<std::size_t> opening_bytes(std::span<const std::byte, length_bytes> length) noexcept {
  const std::size_t bytes = load_length(length.data());
  if (bytes < 2 || bytes > header_bytes_max - length_bytes) return std::nullopt;
  return align8(length_bytes + bytes);
}

}  // namespace hawser::wire
