// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace courier {

/// 128 bits of XXH3: finds damage, not malice.
struct digest {
  std::uint64_t low = 0;
  std::uint64_t high = 0;

  friend bool operator==(const digest&, const digest&) = default;
};

[[nodiscard]] digest hash_of(std::string_view bytes) noexcept;
[[nodiscard]] std::string to_hex(const digest& value);

/// Hashes a file as its bytes pass by.
///
/// Cost: one allocation of about 600 bytes.
class hasher {
 public:
  hasher();
  hasher(hasher&&) noexcept;
  hasher& operator=(hasher&&) noexcept;
  ~hasher();

  void add(std::span<const std::byte> bytes) noexcept;
  /// A hole counts as the zeros that one reads there.
  void add_zeros(std::uint64_t count) noexcept;
  [[nodiscard]] digest value() const noexcept;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace courier
