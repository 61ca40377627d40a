// SPDX-License-Identifier: Apache-2.0
#include "core/msgpack.hpp"

namespace hawser::detail {

void header_writer::byte(unsigned value) noexcept {
  if (overflowed_ || used_ == room_.size()) {
    overflowed_ = true;
    return;
  }
  room_[used_++] = static_cast<std::byte>(value);
}

void header_writer::big_endian(std::uint64_t value, unsigned bytes) noexcept {
  std::array<std::byte, 8> digits{};
  for (unsigned i = 0; i < bytes; ++i) {
    digits[i] = static_cast<std::byte>(value >> (8 * (bytes - 1 - i)));
  }
  raw(digits.data(), bytes);
}

void header_writer::raw(const void* data, std::size_t bytes) noexcept {
  if (overflowed_ || bytes > room_.size() - used_) {
    overflowed_ = true;
    return;
  }
  if (bytes != 0) std::memcpy(room_.data() + used_, data, bytes);
  used_ += bytes;
}

void header_writer::array(std::size_t count) noexcept {
  if (count < 16) {
    byte(0x90U | static_cast<unsigned>(count));
  } else {
    byte(0xdc);
    big_endian(count, 2);
  }
}

void header_writer::number(std::uint64_t value) noexcept {
  if (value < 0x80) {
    byte(static_cast<unsigned>(value));
  } else if (value <= 0xff) {
    byte(0xcc);
    big_endian(value, 1);
  } else if (value <= 0xffff) {
    byte(0xcd);
    big_endian(value, 2);
  } else if (value <= 0xffff'ffff) {
    byte(0xce);
    big_endian(value, 4);
  } else {
    byte(0xcf);
    big_endian(value, 8);
  }
}

void header_writer::text(std::string_view value) noexcept {
  if (value.size() < 32) {
    byte(0xa0U | static_cast<unsigned>(value.size()));
  } else if (value.size() <= 0xff) {
    byte(0xd9);
    big_endian(value.size(), 1);
  } else {
    byte(0xda);
    big_endian(value.size(), 2);
  }
  raw(value.data(), value.size());
}

void header_writer::binary(std::span<const std::byte> value) noexcept {
  if (value.size() <= 0xff) {
    byte(0xc4);
    big_endian(value.size(), 1);
  } else {
    byte(0xc5);
    big_endian(value.size(), 2);
  }
  raw(value.data(), value.size());
}

unsigned header_reader::byte() noexcept {
  if (failed_ || at_ >= from_.size()) {
    fail();
    return 0;
  }
  return static_cast<unsigned>(from_[at_++]);
}

std::uint64_t header_reader::big_endian(unsigned bytes) noexcept {
  std::uint64_t value = 0;
  for (const std::byte digit : raw(bytes)) value = value << 8 | static_cast<std::uint64_t>(digit);
  return value;
}

std::span<const std::byte> header_reader::raw(std::uint64_t bytes) noexcept {
  if (failed_ || bytes > from_.size() - at_) {
    fail();
    return {};
  }
  const auto found = from_.subspan(at_, static_cast<std::size_t>(bytes));
  at_ += found.size();
  return found;
}

std::size_t header_reader::array() noexcept {
  const unsigned tag = byte();
  if ((tag & 0xf0U) == 0x90) return tag & 0x0fU;
  if (tag == 0xdc) return static_cast<std::size_t>(big_endian(2));
  if (tag == 0xdd) return static_cast<std::size_t>(big_endian(4));
  fail();
  return 0;
}

std::uint64_t header_reader::number() noexcept {
  const unsigned tag = byte();
  if (tag < 0x80) return tag;
  if (tag >= 0xcc && tag <= 0xcf) return big_endian(1U << (tag - 0xcc));
  fail();
  return 0;
}

std::string_view header_reader::text() noexcept {
  const unsigned tag = byte();
  std::uint64_t bytes = 0;
  if ((tag & 0xe0U) == 0xa0) {
    bytes = tag & 0x1fU;
  } else if (tag >= 0xd9 && tag <= 0xdb) {
    bytes = big_endian(1U << (tag - 0xd9));
  } else {
    fail();
  }
  const auto found = raw(bytes);
  return {reinterpret_cast<const char*>(found.data()), found.size()};
}

std::span<const std::byte> header_reader::binary() noexcept {
  const unsigned tag = byte();
  if (tag < 0xc4 || tag > 0xc6) {
    fail();
    return {};
  }
  return raw(big_endian(1U << (tag - 0xc4)));
}

bool header_reader::nil() noexcept {
  if (failed_ || at_ >= from_.size() || from_[at_] != std::byte{0xc0}) return false;
  ++at_;
  return true;
}

// Iterative, so that nesting costs no stack of ours: `pending` holds, for each open container, how
// many values are still to come. A count that the remaining bytes cannot hold fails at once.
void header_reader::skip() noexcept {
  std::array<std::uint64_t, depth_max> pending{};
  unsigned depth = 0;
  std::uint64_t left = 1;
  while (!failed_) {
    while (left == 0) {
      if (depth == 0) return;
      left = pending[--depth];
    }
    --left;
    const unsigned tag = byte();
    std::uint64_t children = 0;
    if (tag < 0x80 || tag >= 0xe0 || tag == 0xc0 || tag == 0xc2 || tag == 0xc3) {
      continue;  // small integers, nil, booleans
    } else if (tag < 0x90) {
      children = 2ULL * (tag & 0x0fU);
    } else if (tag < 0xa0) {
      children = tag & 0x0fU;
    } else if (tag < 0xc0) {
      static_cast<void>(raw(tag & 0x1fU));
    } else if (tag >= 0xc4 && tag <= 0xc6) {
      static_cast<void>(raw(big_endian(1U << (tag - 0xc4))));
    } else if (tag >= 0xc7 && tag <= 0xc9) {
      static_cast<void>(raw(big_endian(1U << (tag - 0xc7)) + 1));
    } else if (tag == 0xca || tag == 0xcb) {
      static_cast<void>(raw(tag == 0xca ? 4 : 8));
    } else if (tag >= 0xcc && tag <= 0xd3) {
      static_cast<void>(raw(1U << ((tag - 0xcc) & 3U)));
    } else if (tag >= 0xd4 && tag <= 0xd8) {
      static_cast<void>(raw((1U << (tag - 0xd4)) + 1));
    } else if (tag >= 0xd9 && tag <= 0xdb) {
      static_cast<void>(raw(big_endian(1U << (tag - 0xd9))));
    } else if (tag == 0xdc || tag == 0xdd) {
      children = big_endian(tag == 0xdc ? 2 : 4);
    } else if (tag == 0xde || tag == 0xdf) {
      children = 2 * big_endian(tag == 0xde ? 2 : 4);
    } else {
      fail();  // 0xc1 is never used
    }
    if (children == 0) continue;
    if (depth == depth_max || children > from_.size() - at_) {
      fail();
      return;
    }
    pending[depth++] = left;
    left = children;
  }
}

}  // namespace hawser::detail
