// SPDX-License-Identifier: Apache-2.0
#include "receive_buffers.hpp"

#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>

#include "calls.hpp"
#include "native.hpp"

namespace hawser {
namespace {

constexpr std::size_t page_bytes = 4096;
constexpr std::size_t shared_bytes =
    (receive_buffers::count * sizeof(io_uring_buf) + page_bytes - 1) / page_bytes * page_bytes;

}  // namespace

receive_buffers::receive_buffers(uring& ring) {
  void* const memory = std::aligned_alloc(page_bytes, shared_bytes);
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, shared_bytes);
  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<std::uintptr_t>(memory);
  registration.ring_entries = count;
  registration.bgid = group;
  if (const int failed = calls::ring_register_buffers(ring.raw(), registration); failed != 0) {
    std::free(memory);
    throw std::system_error(platform::system_error_code(-failed), "io_uring_register_buf_ring");
  }
  shared_ = static_cast<io_uring_buf_ring*>(memory);
  io_uring_buf_ring_init(shared_);
  try {
    for (unsigned short i = 0; i < count; ++i) {
      blocks_[i] = detail::allocate_block(bytes_each);
      put(i);
    }
  } catch (const std::bad_alloc&) {
    // No receive was submitted yet: the kernel has not written to any of them, and never will.
    io_uring_unregister_buf_ring(&ring.raw(), group);
    release();
    throw;
  }
}

receive_buffers::~receive_buffers() {
  release();
}

void receive_buffers::release() noexcept {
  for (detail::block* const each : blocks_) {
    if (each != nullptr) detail::release(each);
  }
  std::free(shared_);
}

void receive_buffers::put(unsigned short index) noexcept {
  io_uring_buf_ring_add(shared_, blocks_[index]->data(), bytes_each, index,
                        io_uring_buf_ring_mask(count), 0);
  io_uring_buf_ring_advance(shared_, 1);
}

detail::block* receive_buffers::take(unsigned flags, std::size_t bytes) {
  const auto index = index_of(flags);
  detail::block* fresh = nullptr;
  try {
    fresh = detail::allocate_block(bytes <= copied_bytes_max ? bytes : bytes_each);
  } catch (const std::bad_alloc&) {
    put(index);
    throw;
  }
  if (bytes <= copied_bytes_max) {
    std::memcpy(fresh->data(), blocks_[index]->data(), bytes);
  } else {
    std::swap(fresh, blocks_[index]);
  }
  put(index);
  return fresh;
}

}  // namespace hawser
