// SPDX-License-Identifier: Apache-2.0
#include "courier/protocol.hpp"

#include <array>
#include <concepts>
#include <type_traits>

namespace courier {
namespace {

constexpr std::size_t text_bytes_max = 8192;

class writer {
 public:
  explicit writer(tag first) { put(static_cast<std::uint8_t>(first)); }

  template <std::unsigned_integral T>
  void put(T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i)
      out_.push_back(static_cast<std::byte>(value >> 8 * i));
  }
  void put(const timestamp& value) {
    put(static_cast<std::uint64_t>(value.seconds));
    put(value.nanoseconds);
  }
  void put(const digest& value) {
    put(value.low);
    put(value.high);
  }
  void put(std::string_view text) {
    text = text.substr(0, text_bytes_max);
    put(static_cast<std::uint32_t>(text.size()));
    const auto raw = std::as_bytes(std::span(text));
    out_.insert(out_.end(), raw.begin(), raw.end());
  }
  [[nodiscard]] bytes done() { return std::move(out_); }

 private:
  bytes out_;
};

class reader {
 public:
  explicit reader(std::span<const std::byte> message) : rest_(message) {}
  reader(std::span<const std::byte> message, tag expected) : rest_(message) {
    if (tag_of(message) != expected) throw bad_message("not the kind that is due");
    rest_ = rest_.subspan(1);
  }

  template <std::unsigned_integral T>
  [[nodiscard]] T take() {
    const auto raw = take_bytes(sizeof(T));
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      value |= static_cast<T>(std::to_integer<T>(raw[i]) << 8 * i);
    }
    return value;
  }
  template <class Enum>
  requires std::is_enum_v<Enum>
  [[nodiscard]] Enum take(Enum last) {
    const auto value = take<std::uint8_t>();
    if (value > static_cast<std::uint8_t>(last)) throw bad_message("an unknown choice");
    return static_cast<Enum>(value);
  }
  [[nodiscard]] timestamp take_time() {
    timestamp value;
    value.seconds = static_cast<std::int64_t>(take<std::uint64_t>());
    value.nanoseconds = take<std::uint32_t>();
    if (value.nanoseconds >= 1'000'000'000) throw bad_message("a time out of range");
    return value;
  }
  [[nodiscard]] digest take_digest() {
    digest value;
    value.low = take<std::uint64_t>();
    value.high = take<std::uint64_t>();
    return value;
  }
  [[nodiscard]] std::string take_text() {
    const auto size = take<std::uint32_t>();
    if (size > text_bytes_max) throw bad_message("a text above its limit");
    const auto raw = take_bytes(size);
    return {reinterpret_cast<const char*>(raw.data()), raw.size()};
  }
  [[nodiscard]] std::span<const std::byte> take_bytes(std::size_t count) {
    if (count > rest_.size()) throw bad_message("cut short");
    const auto taken = rest_.first(count);
    rest_ = rest_.subspan(count);
    return taken;
  }
  // A count that the rest could not hold is refused before anything is reserved for it.
  [[nodiscard]] std::uint32_t take_count(std::size_t least_bytes_each) {
    const auto count = take<std::uint32_t>();
    if (count > rest_.size() / least_bytes_each) throw bad_message("a count above what follows");
    return count;
  }
  [[nodiscard]] std::span<const std::byte> rest() const noexcept { return rest_; }
  void expect_end() const {
    if (!rest_.empty()) throw bad_message("more than it should hold");
  }

 private:
  std::span<const std::byte> rest_;
};

void put_entry(writer& out, const entry& value) {
  out.put(static_cast<std::uint8_t>(value.type));
  out.put(value.path);
  out.put(value.mode);
  out.put(value.owner);
  out.put(value.group);
  out.put(value.modified);
  out.put(value.size);
  out.put(value.link_target);
}
constexpr std::size_t entry_bytes_min = 1 + 4 + 12 + 12 + 8 + 4;

entry take_entry(reader& in) {
  entry value;
  value.type = in.take(kind::symlink);
  value.path = in.take_text();
  value.mode = in.take<std::uint32_t>() & 07777U;
  value.owner = in.take<std::uint32_t>();
  value.group = in.take<std::uint32_t>();
  value.modified = in.take_time();
  value.size = in.take<std::uint64_t>();
  value.link_target = in.take_text();
  if (value.size > std::uint64_t{1} << 62) throw bad_message("a size out of range");
  return value;
}

void put_progress(writer& out, const progress& value) {
  out.put(value.files);
  out.put(value.bytes);
  out.put(value.arrived);
}

progress take_progress(reader& in) {
  progress value;
  value.files = in.take<std::uint64_t>();
  value.bytes = in.take<std::uint64_t>();
  value.arrived = in.take<std::uint64_t>();
  return value;
}

std::uint64_t decode_number(std::span<const std::byte> message, tag expected) {
  reader in(message, expected);
  const auto value = in.take<std::uint64_t>();
  in.expect_end();
  return value;
}

bytes encode_number(tag kind, std::uint64_t value) {
  writer out(kind);
  out.put(value);
  return out.done();
}

}  // namespace

void put_record(std::span<std::byte, record_header_bytes> out, const record& header) noexcept {
  std::size_t at = 0;
  const auto put = [&](std::uint64_t value, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) out[at++] = static_cast<std::byte>(value >> 8 * i);
  };
  put(header.number, 8);
  put(header.offset, 8);
  put(header.bytes, 4);
  put(header.flags, 4);
  put(header.hash.low, 8);
  put(header.hash.high, 8);
}

parsed_record take_record(std::span<const std::byte>& message) {
  reader in(message);
  parsed_record found;
  found.header.number = in.take<std::uint64_t>();
  found.header.offset = in.take<std::uint64_t>();
  found.header.bytes = in.take<std::uint32_t>();
  found.header.flags = in.take<std::uint32_t>();
  found.header.hash = in.take_digest();
  found.contents = in.take_bytes(found.header.bytes);
  message = in.rest();
  return found;
}

tag tag_of(std::span<const std::byte> message) {
  if (message.empty()) throw bad_message("nothing in it");
  const auto value = std::to_integer<std::uint8_t>(message[0]);
  if (value < static_cast<std::uint8_t>(tag::hello) ||
      value > static_cast<std::uint8_t>(tag::cancel)) {
    throw bad_message("an unknown kind");
  }
  return static_cast<tag>(value);
}

bytes encode(tag alone) {
  return writer(alone).done();
}

bytes encode(const hello& value) {
  writer out(tag::hello);
  out.put(std::string_view("courier"));
  out.put(value.version);
  out.put(value.tree);
  out.put(value.mode);
  out.put(value.modified);
  return out.done();
}

// A later version may append, so that it can be told politely which version this is.
hello decode_hello(std::span<const std::byte> message) {
  reader in(message, tag::hello);
  if (in.take_text() != "courier") throw bad_message("the peer is no courier");
  hello value;
  value.version = in.take<std::uint32_t>();
  value.tree = in.take<std::uint64_t>();
  value.mode = in.take<std::uint32_t>() & 07777U;
  value.modified = in.take_time();
  return value;
}

bytes encode(const offer& value) {
  writer out(tag::offer);
  out.put(value.first);
  out.put(static_cast<std::uint32_t>(value.entries.size()));
  for (const auto& one : value.entries) put_entry(out, one);
  return out.done();
}

offer decode_offer(std::span<const std::byte> message) {
  reader in(message, tag::offer);
  offer value;
  value.first = in.take<std::uint64_t>();
  const auto count = in.take_count(entry_bytes_min);
  value.entries.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) value.entries.push_back(take_entry(in));
  in.expect_end();
  return value;
}

bytes encode_listed(std::uint64_t count) {
  return encode_number(tag::listed, count);
}
std::uint64_t decode_listed(std::span<const std::byte> message) {
  return decode_number(message, tag::listed);
}

bytes encode_prefix(std::uint64_t number) {
  return encode_number(tag::prefix, number);
}
std::uint64_t decode_prefix(std::span<const std::byte> message) {
  return decode_number(message, tag::prefix);
}

bytes encode(std::span<const offer_answer> value) {
  writer out(tag::answer);
  out.put(static_cast<std::uint32_t>(value.size()));
  for (const auto& one : value) {
    out.put(static_cast<std::uint8_t>(one.state));
    out.put(one.bytes);
    out.put(one.why);
  }
  return out.done();
}

std::vector<offer_answer> decode_offer_answer(std::span<const std::byte> message) {
  reader in(message, tag::answer);
  std::vector<offer_answer> value(in.take_count(1 + 8 + 4));
  for (auto& one : value) {
    one.state = in.take(standing::refused);
    one.bytes = in.take<std::uint64_t>();
    one.why = in.take_text();
  }
  in.expect_end();
  return value;
}

bytes encode(const prefix_answer& value) {
  writer out(tag::answer);
  out.put(value.bytes);
  out.put(value.hash);
  return out.done();
}

prefix_answer decode_prefix_answer(std::span<const std::byte> message) {
  reader in(message, tag::answer);
  prefix_answer value;
  value.bytes = in.take<std::uint64_t>();
  value.hash = in.take_digest();
  in.expect_end();
  return value;
}

bytes encode(const progress& value) {
  writer out(tag::progress);
  put_progress(out, value);
  return out.done();
}

progress decode_progress(std::span<const std::byte> message) {
  reader in(message, tag::progress);
  const auto value = take_progress(in);
  in.expect_end();
  return value;
}

bytes encode(const trouble& value) {
  writer out(tag::trouble);
  out.put(value.number);
  out.put(value.what);
  return out.done();
}

trouble decode_trouble(std::span<const std::byte> message) {
  reader in(message, tag::trouble);
  trouble value;
  value.number = in.take<std::uint64_t>();
  value.what = in.take_text();
  in.expect_end();
  return value;
}

bytes encode(const end& value) {
  writer out(tag::end);
  out.put(static_cast<std::uint8_t>(value.how));
  put_progress(out, value.reached);
  out.put(value.resent);
  out.put(value.what);
  return out.done();
}

end decode_end(std::span<const std::byte> message) {
  reader in(message, tag::end);
  end value;
  value.how = in.take(ending::cancelled);
  value.reached = take_progress(in);
  value.resent = in.take<std::uint64_t>();
  value.what = in.take_text();
  in.expect_end();
  return value;
}

bytes encode_cancel(bool keep_partial) {
  writer out(tag::cancel);
  out.put(static_cast<std::uint8_t>(keep_partial));
  return out.done();
}

bool decode_cancel(std::span<const std::byte> message) {
  reader in(message, tag::cancel);
  const auto keep = in.take<std::uint8_t>();
  in.expect_end();
  return keep != 0;
}

}  // namespace courier
