// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "hawser/shm_stream.hpp"

// What the tests of streams over shared memory share.

namespace test {

inline const hawser::shm_stream_options small_stream{.ring_bytes = 4096};
/// Sleeps at once where it has to wait.
inline const hawser::shm_stream_options sleepy_stream{
    .ring_bytes = 4096, .spin = {hawser::spin_policy::mode::off, std::chrono::microseconds(20)}};

[[nodiscard]] inline std::string unique_stream() {
  static std::atomic<unsigned> count{0};
  return "test." + std::to_string(::getpid()) + '.' + std::to_string(++count);
}

[[nodiscard]] inline std::span<const std::byte> as_record(const std::uint64_t& number) {
  return std::as_bytes(std::span(&number, 1));
}

[[nodiscard]] inline std::vector<std::byte> bytes_of_number(std::uint64_t number) {
  const auto bytes = as_record(number);
  return {bytes.begin(), bytes.end()};
}

inline bool write_number(hawser::shm_stream& to, std::uint64_t number,
                         hawser::shm_stream::timeout limit = {}) {
  return to.write(as_record(number), limit).has_value();
}

/// What nobody writes: not a record with a number.
inline constexpr std::uint64_t no_number = ~std::uint64_t{0};

inline std::uint64_t read_number(hawser::shm_stream& from, hawser::shm_stream::timeout limit = {}) {
  std::uint64_t number = 0;
  const auto got = from.read(std::as_writable_bytes(std::span(&number, 1)), limit);
  const bool whole = got.has_value() && *got == sizeof number;
  return whole ? number : no_number;
}

inline void until(const std::function<bool()>& reached) {
  while (!reached()) std::this_thread::yield();
}

inline void until_asleep(const hawser::shm_stream& which, std::uint64_t times = 1) {
  until([&] { return which.stats().sleeps >= times; });
}

}  // namespace test
