// SPDX-License-Identifier: Apache-2.0
#include "courier/hash.hpp"

#include <algorithm>
#include <array>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace courier {

struct hasher::state {
  XXH3_state_t running;
};

digest hash_of(std::string_view bytes) noexcept {
  const auto value = XXH3_128bits(bytes.data(), bytes.size());
  return {value.low64, value.high64};
}

std::string to_hex(const digest& value) {
  static constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (const auto half : {value.high, value.low}) {
    for (int shift = 60; shift >= 0; shift -= 4) text += digits[half >> shift & 15];
  }
  return text;
}

hasher::hasher() : state_(std::make_unique<state>()) {
  XXH3_128bits_reset(&state_->running);
}
hasher::hasher(hasher&&) noexcept = default;
hasher& hasher::operator=(hasher&&) noexcept = default;
hasher::~hasher() = default;

void hasher::add(std::span<const std::byte> bytes) noexcept {
  XXH3_128bits_update(&state_->running, bytes.data(), bytes.size());
}

void hasher::add_zeros(std::uint64_t count) noexcept {
  static constexpr std::array<std::byte, 64 << 10> zeros{};
  while (count > 0) {
    const auto step = std::min<std::uint64_t>(count, zeros.size());
    add(std::span(zeros).first(static_cast<std::size_t>(step)));
    count -= step;
  }
}

digest hasher::value() const noexcept {
  const auto value = XXH3_128bits_digest(&state_->running);
  return {value.low64, value.high64};
}

}  // namespace courier
