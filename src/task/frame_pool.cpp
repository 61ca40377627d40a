// SPDX-License-Identifier: Apache-2.0
// Coroutine frames: what a thread frees it soon allocates again, in the same sizes.
#include <array>
#include <cstddef>
#include <new>

#include "core/sanitizer.hpp"
#include "hawser/task.hpp"

namespace hawser::detail {
namespace {

constexpr std::size_t granule = 64;
constexpr std::size_t largest_pooled = 4096;
constexpr std::size_t class_count = largest_pooled / granule;
// Of each size a thread keeps at most this much: 64 KiB, or 1024 of the smallest frames.
constexpr std::size_t bytes_kept_a_class = 64 << 10;

struct free_frame {
  free_frame* next;
};

struct free_list {
  free_frame* first = nullptr;
  std::size_t count = 0;
};

// Trivially destructible: it can still be used by destructors that run after the janitor's.
struct frame_cache {
  enum class state : unsigned char { fresh, open, closed };

  std::array<free_list, class_count> lists{};
  state now = state::fresh;
};

constinit thread_local frame_cache cache;

// Gives everything back when the thread ends; after that frames go straight to the system.
class janitor {
 public:
  janitor() noexcept { cache.now = frame_cache::state::open; }
  janitor(const janitor&) = delete;
  janitor& operator=(const janitor&) = delete;
  ~janitor() {
    cache.now = frame_cache::state::closed;
    for (free_list& list : cache.lists) {
      while (free_frame* const frame = list.first) {
        list.first = frame->next;
        ::operator delete(frame);
      }
      list.count = 0;
    }
  }
};

[[nodiscard]] bool open_cache() noexcept {
  if (cache.now == frame_cache::state::fresh) {
    static thread_local const janitor cleans_up;
    static_cast<void>(cleans_up);
  }
  return cache.now == frame_cache::state::open;
}

[[nodiscard]] constexpr std::size_t class_of(std::size_t bytes) noexcept {
  return (bytes - 1) / granule;
}

[[nodiscard]] constexpr std::size_t class_bytes(std::size_t index) noexcept {
  return (index + 1) * granule;
}

}  // namespace

// noinline, because a coroutine may be resumed on another thread: the address of thread-local data
// must not be kept across its suspensions.
[[gnu::noinline]] void* allocate_frame(std::size_t bytes) {
  if (sanitized || bytes > largest_pooled) return ::operator new(bytes);
  const std::size_t index = class_of(bytes);
  free_list& list = cache.lists[index];
  free_frame* const frame = list.first;
  if (frame == nullptr) return ::operator new(class_bytes(index));
  list.first = frame->next;
  --list.count;
  return frame;
}

[[gnu::noinline]] void release_frame(void* frame, std::size_t bytes) noexcept {
  if (sanitized || bytes > largest_pooled || !open_cache()) {
    ::operator delete(frame);
    return;
  }
  const std::size_t index = class_of(bytes);
  free_list& list = cache.lists[index];
  if (list.count >= bytes_kept_a_class / class_bytes(index)) {
    ::operator delete(frame);
    return;
  }
  list.first = ::new (frame) free_frame{list.first};
  ++list.count;
}

}  // namespace hawser::detail
