// SPDX-License-Identifier: Apache-2.0
#pragma once

// What somebody does to a segment who owns it and keeps to no rule.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "os/platform.hpp"
#include "shm/bell.hpp"
#include "shm/ring.hpp"
#include "shm/segment.hpp"

namespace test {

/// A word of a segment, and what it becomes.
struct rewrite {
  std::size_t at = 0;
  std::size_t bytes = 4;  // or 8
  std::uint64_t value = 0;

  void apply(const hawser::shm::segment& to) const {
    std::memcpy(reinterpret_cast<std::byte*>(&to.header()) + at, &value, bytes);
  }
};

/// Chooses the next: mostly bells, sides, states of rings and the rings of channel 0, or anything.
///
/// Shape: all rings have `ring` bytes. `below(n)` is any number below n, below(0) just any.
template <class Below>
[[nodiscard]] rewrite next_rewrite(Below& below, std::size_t ring) {
  namespace shm = hawser::shm;
  const auto where = [&]() -> std::size_t {
    constexpr std::size_t state_words = sizeof(shm::segment_header) / 8;
    constexpr std::size_t first = shm::rings_at;
    switch (below(8)) {
      case 0:
        return 128 + below(4) * 128;
      case 1:
        return 640 + below(16) * 128;
      case 2:
        return below(state_words) * 8;
      case 3:
      case 4:
        return first + below(64) * 8;
      case 5:
        return first + below(2 * ring / 8) * 8;
      case 6:
        return first + below(8 * ring / 4) * 4;
      default:
        return below((first + 8 * ring) / 4) * 4;
    }
  };
  const auto what = [&]() -> std::uint64_t {
    constexpr std::array<std::uint64_t, 4> sizes{64, 256, 8192, std::uint64_t{1} << 32};
    switch (below(8)) {
      case 0:
        return below(0);
      case 1:
        return below(4);
      case 2:
        return ~std::uint64_t{0} - below(16);
      case 3:
        return below(2 * ring);
      case 4:
        return std::uint64_t{1} << below(64);
      default: {
        const auto whole = static_cast<std::size_t>(below(sizes[below(4)]));
        const bool is_padding = below(4) == 0;
        return shm::record_header(whole,
                                  is_padding ? shm::record_kind::padding : shm::record_kind::data);
      }
    }
  };
  rewrite made;
  made.at = where();
  made.bytes = made.at % 8 == 0 ? 8 : 4;
  made.value = what();
  return made;
}

/// Wakes who sleeps there, if it does: by its word, or by what `by_socket` sends.
template <class Send>
void wake(const hawser::shm::segment& shared, hawser::shm::side sleeping, Send by_socket) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  hawser::shm::bell<> bell(shared.bell_of(sleeping));
  if (!bell.ring()) return;
  if (shared.state_of(sleeping).woken_by_word.load(std::memory_order_relaxed) == 1) {
    hawser::platform::wake_one(bell.word());
  } else {
    by_socket();
  }
}

}  // namespace test
