// SPDX-License-Identifier: Apache-2.0
#include "hawser/buffer.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <new>

#include "core/sanitizer.hpp"

namespace hawser::detail {
namespace {

constexpr std::size_t smallest_capacity = 256;
constexpr std::size_t largest_pooled = 1 << 20;
constexpr std::uint32_t class_count =
    std::countr_zero(largest_pooled) - std::countr_zero(smallest_capacity) + 1;
constexpr std::uint32_t unpooled = class_count;  // size_class of what goes back to the system
// What a thread keeps: together, and of one size.
constexpr std::size_t bytes_kept = 8 << 20;
constexpr std::size_t bytes_kept_a_class = 4 << 20;

// Trivially destructible: it can still be used by destructors that run after the janitor's. A
// cached block holds the next one in its first payload bytes.
struct block_cache {
  enum class state : unsigned char { fresh, open, closed };

  std::array<block*, class_count> first{};
  std::array<std::size_t, class_count> class_bytes{};
  std::size_t bytes = 0;
  state now = state::fresh;
};

constinit thread_local block_cache cache;

[[nodiscard]] block* next_of(block* cached) noexcept {
  block* next = nullptr;
  std::memcpy(&next, cached->data(), sizeof next);
  return next;
}

void set_next(block* cached, block* next) noexcept {
  std::memcpy(cached->data(), &next, sizeof next);
}

void free_block(block* unused) noexcept {
  unused->~block();
  ::operator delete(unused, std::align_val_t(alignof(block)));
}

// Gives everything back when the thread ends; after that blocks go straight to the system.
class janitor {
 public:
  janitor() noexcept { cache.now = block_cache::state::open; }
  janitor(const janitor&) = delete;
  janitor& operator=(const janitor&) = delete;
  ~janitor() {
    cache.now = block_cache::state::closed;
    for (block*& first : cache.first) {
      while (block* const cached = first) {
        first = next_of(cached);
        free_block(cached);
      }
    }
  }
};

[[nodiscard]] bool open_cache() noexcept {
  if (cache.now == block_cache::state::fresh) {
    static thread_local const janitor cleans_up;
    static_cast<void>(cleans_up);
  }
  return cache.now == block_cache::state::open;
}

[[nodiscard]] block* new_block(std::size_t capacity, std::uint32_t size_class) {
  void* const memory = ::operator new(sizeof(block) + capacity, std::align_val_t(alignof(block)));
  auto* const made = ::new (memory) block;
  made->size_class = size_class;
  made->capacity = capacity;
  made->first = static_cast<std::byte*>(memory) + sizeof(block);
  return made;
}

[[nodiscard]] block* new_unpooled(std::size_t bytes) {
  if (bytes > PTRDIFF_MAX - 2 * sizeof(block)) throw std::bad_alloc();
  constexpr std::size_t mask = alignof(block) - 1;
  return new_block((bytes + mask) & ~mask, unpooled);
}

[[nodiscard]] constexpr std::uint32_t class_of(std::size_t bytes) noexcept {
  if (bytes <= smallest_capacity) return 0;
  return static_cast<std::uint32_t>(std::bit_width(bytes - 1) -
                                    std::countr_zero(smallest_capacity));
}

[[nodiscard]] bool has_room(const block& unused) noexcept {
  return cache.bytes + unused.capacity <= bytes_kept &&
         cache.class_bytes[unused.size_class] + unused.capacity <= bytes_kept_a_class;
}

void unpin(block& unused) noexcept {
  pin_budget* const budget = std::exchange(unused.pinned_by, nullptr);
  if (budget == nullptr) return;
  budget->pinned_bytes.fetch_sub(unused.capacity, std::memory_order_relaxed);
  release_budget(budget);
}

}  // namespace

// Sanitized: a block of exactly the size that was asked for, so that an overrun is seen.
[[gnu::noinline]] block* allocate_block(std::size_t bytes) {
  if (sanitized || bytes > largest_pooled) return new_unpooled(bytes);
  const std::uint32_t size_class = class_of(bytes);
  block* const cached = cache.first[size_class];
  if (cached == nullptr) return new_block(smallest_capacity << size_class, size_class);
  cache.first[size_class] = next_of(cached);
  cache.class_bytes[size_class] -= cached->capacity;
  cache.bytes -= cached->capacity;
  return cached;
}

[[gnu::noinline]] void recycle_block(block* unused) noexcept {
  if (unused->owner != nullptr) return unused->owner->take_back(*unused);
  unpin(*unused);
  if (unused->size_class == unpooled || !open_cache() || !has_room(*unused)) {
    free_block(unused);
    return;
  }
  unused->references.store(1, std::memory_order_relaxed);  // nobody else knows it
  set_next(unused, cache.first[unused->size_class]);
  cache.first[unused->size_class] = unused;
  cache.class_bytes[unused->size_class] += unused->capacity;
  cache.bytes += unused->capacity;
}

void pin_block(block* used, pin_budget& budget) noexcept {
  budget.references.fetch_add(1, std::memory_order_relaxed);
  budget.pinned_bytes.fetch_add(used->capacity, std::memory_order_relaxed);
  used->pinned_by = &budget;
}

void release_budget(pin_budget* budget) noexcept {
  // acq_rel pairs with itself: who deletes comes after all other uses
  if (budget->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete budget;
}

}  // namespace hawser::detail
