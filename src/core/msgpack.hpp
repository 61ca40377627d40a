// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace hawser::detail {

/// Writes the few msgpack types that frame headers use, in their shortest form.
///
/// Shape: the caller provides room; what does not fit sets overflowed() and writes nothing more.
class header_writer {
 public:
  explicit header_writer(std::span<std::byte> room) noexcept : room_(room) {}

  void array(std::size_t count) noexcept;
  void number(std::uint64_t value) noexcept;
  void text(std::string_view value) noexcept;
  void binary(std::span<const std::byte> value) noexcept;
  void nil() noexcept { byte(0xc0); }

  [[nodiscard]] std::size_t size() const noexcept { return used_; }
  [[nodiscard]] bool overflowed() const noexcept { return overflowed_; }

 private:
  void byte(unsigned value) noexcept;
  void big_endian(std::uint64_t value, unsigned bytes) noexcept;
  void raw(const void* data, std::size_t bytes) noexcept;

  std::span<std::byte> room_;
  std::size_t used_ = 0;
  bool overflowed_ = false;
};

/// Reads what header_writer writes, from a peer that may lie.
///
/// Every read checks type and bounds; after the first mismatch failed() is true and all further
/// reads return zero or nothing. skip() passes any msgpack value, nested at most `depth_max` deep,
/// in time proportional to its bytes.
class header_reader {
 public:
  static constexpr unsigned depth_max = 64;

  explicit header_reader(std::span<const std::byte> from) noexcept : from_(from) {}

  [[nodiscard]] std::size_t array() noexcept;
  [[nodiscard]] std::uint64_t number() noexcept;
  [[nodiscard]] std::string_view text() noexcept;
  [[nodiscard]] std::span<const std::byte> binary() noexcept;
  /// True and past it, if the next value is nil.
  [[nodiscard]] bool nil() noexcept;
  void skip() noexcept;
  /// What was read makes no sense to the caller.
  void reject() noexcept { failed_ = true; }

  [[nodiscard]] std::size_t position() const noexcept { return at_; }
  [[nodiscard]] bool failed() const noexcept { return failed_; }

 private:
  [[nodiscard]] unsigned byte() noexcept;
  [[nodiscard]] std::uint64_t big_endian(unsigned bytes) noexcept;
  [[nodiscard]] std::span<const std::byte> raw(std::uint64_t bytes) noexcept;
  void fail() noexcept { reject(); }

  std::span<const std::byte> from_;
  std::size_t at_ = 0;
  bool failed_ = false;
};

}  // namespace hawser::detail
