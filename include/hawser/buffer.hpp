// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

namespace hawser {

namespace detail {

/// Counts the bytes of blocks that somebody keeps alive for the sake of a few bytes in them.
struct pin_budget {
  std::atomic<std::uint32_t> references{1};
  std::atomic<std::size_t> pinned_bytes{0};
};

struct block;

/// Whose blocks are not from the pool.
class block_owner {
 public:
  /// The last reference has gone, on whichever thread.
  virtual void take_back(block& unused) noexcept = 0;

 protected:
  ~block_owner() = default;
};

/// The header in front of a pooled run of bytes, which follow it, 64-aligned; or what stands for
/// bytes elsewhere that somebody owns.
struct alignas(64) block {
  std::atomic<std::uint32_t> references{1};
  std::uint32_t size_class = 0;
  std::size_t capacity = 0;
  pin_budget* pinned_by = nullptr;  ///< told when the block is recycled; counted reference
  std::byte* first = nullptr;
  block_owner* owner = nullptr;  ///< none: the pool

  [[nodiscard]] std::byte* data() noexcept { return first; }
};
static_assert(sizeof(block) == 64);

/// Takes a block of at least `bytes` from this thread's cache, or from the system.
///
/// Errors: throws std::bad_alloc.
/// Cost:   no lock and no system call while the cache of the calling thread has one.
[[nodiscard]] block* allocate_block(std::size_t bytes);
void recycle_block(block* unused) noexcept;
/// Charges `used` to `budget` until it is recycled. Once a block.
void pin_block(block* used, pin_budget& budget) noexcept;
void release_budget(pin_budget* budget) noexcept;

inline void retain(block* shared) noexcept {
  shared->references.fetch_add(1, std::memory_order_relaxed);
}

inline void release(block* shared, std::uint32_t count = 1) noexcept {
  // acquire pairs with the release of the holder that went before: its writes are done. The only
  // holder needs no locked instruction to know that it is the last.
  if (shared->references.load(std::memory_order_acquire) == count ||
      shared->references.fetch_sub(count, std::memory_order_acq_rel) == count) {
    recycle_block(shared);
  }
}

}  // namespace detail

/// Writable bytes with one owner, from a pool.
///
/// Shape:   movable; contents start uninitialised, 64-aligned; a moved-from buffer is empty.
/// Threads: may be handed from thread to thread.
/// Cost:    no system call while the thread's cache has a block of the size class.
class buffer {
 public:
  buffer() noexcept = default;
  /// Errors: throws std::bad_alloc.
  explicit buffer(std::size_t bytes) : block_(detail::allocate_block(bytes)), size_(bytes) {}
  /// Adopts the only reference to `block`, of whose bytes it is the first.
  buffer(detail::block& adopted, std::size_t bytes) noexcept : block_(&adopted), size_(bytes) {}
  buffer(buffer&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  buffer& operator=(buffer&& other) noexcept {
    buffer taken(std::move(other));
    std::swap(block_, taken.block_);
    std::swap(size_, taken.size_);
    return *this;
  }
  ~buffer() {
    if (block_ != nullptr) detail::release(block_);
  }

  [[nodiscard]] static buffer copy_of(std::span<const std::byte> bytes) {
    buffer copy(bytes.size());
    if (!bytes.empty()) std::memcpy(copy.data(), bytes.data(), bytes.size());
    return copy;
  }
  [[nodiscard]] static buffer copy_of(std::string_view text) {
    return copy_of(std::as_bytes(std::span(text)));
  }

  [[nodiscard]] std::byte* data() noexcept { return block_ == nullptr ? nullptr : block_->data(); }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] std::span<std::byte> bytes() noexcept { return {data(), size_}; }
  /// Shortens the buffer; the tail is given up, not freed.
  ///
  /// Shape:  `bytes` <= size().
  void truncate(std::size_t bytes) noexcept { size_ = bytes < size_ ? bytes : size_; }

 private:
  friend class shared_buffer;

  detail::block* block_ = nullptr;
  std::size_t size_ = 0;
};

/// Read-only bytes with any number of owners; a slice keeps the whole block alive.
///
/// Threads: each object belongs to one thread at a time; copies may live on different threads.
/// Cost:    a copy is one locked add.
class shared_buffer {
 public:
  shared_buffer() noexcept = default;
  shared_buffer(buffer&& owned) noexcept
      : block_(std::exchange(owned.block_, nullptr)),
        bytes_(block_ == nullptr ? nullptr : block_->data(), std::exchange(owned.size_, 0)) {}
  /// Adopts one reference to `block`; `bytes` lie inside it.
  shared_buffer(detail::block* adopted, std::span<const std::byte> bytes) noexcept
      : block_(adopted), bytes_(bytes) {}
  shared_buffer(const shared_buffer& other) noexcept : block_(other.block_), bytes_(other.bytes_) {
    if (block_ != nullptr) detail::retain(block_);
  }
  shared_buffer(shared_buffer&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)), bytes_(std::exchange(other.bytes_, {})) {}
  shared_buffer& operator=(shared_buffer other) noexcept {
    std::swap(block_, other.block_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~shared_buffer() {
    if (block_ != nullptr) detail::release(block_);
  }

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }
  [[nodiscard]] const std::byte* data() const noexcept { return bytes_.data(); }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_.size(); }
  [[nodiscard]] bool empty() const noexcept { return bytes_.empty(); }
  /// Shape:  `offset + bytes` <= size().
  [[nodiscard]] shared_buffer slice(std::size_t offset, std::size_t bytes) const noexcept {
    shared_buffer part(*this);
    part.bytes_ = bytes_.subspan(offset, bytes);
    return part;
  }
  /// What keeps the bytes; none if somebody else does.
  [[nodiscard]] detail::block* block() const noexcept { return block_; }

 private:
  friend class message;

  [[nodiscard]] detail::block* detach() noexcept { return std::exchange(block_, nullptr); }

  detail::block* block_ = nullptr;
  std::span<const std::byte> bytes_;
};

}  // namespace hawser
