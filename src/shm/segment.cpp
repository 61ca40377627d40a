// SPDX-License-Identifier: Apache-2.0
#include "shm/segment.hpp"

#include <algorithm>
#include <new>
#include <string>

#include "hawser/errc.hpp"
#include "shm/handle_owner.hpp"

namespace hawser::shm {
namespace {

void reserve_or_throw(platform::native_handle memory, std::size_t offset, std::size_t bytes) {
  const std::error_code error = platform::reserve_memory(memory, offset, bytes);
  if (error) throw std::system_error(error, "shared memory: cannot reserve");
}

[[noreturn]] void unsuitable(const std::string& why) {
  failure(errc::unsupported, "shared memory: " + why).raise();
}

}  // namespace

segment segment::create(const ring_sizes& sizes, bool huge_pages) {
  const std::size_t bytes = segment_bytes(sizes);
  handle_owner memory(platform::create_memory(bytes));
  reserve_or_throw(memory.get(), 0, rings_at);
  std::byte* const first = platform::map_memory(memory.get(), bytes);
  if (huge_pages) static_cast<void>(platform::use_huge_pages(first, bytes));
  auto* const header = ::new (first) segment_header;
  header->bytes = bytes;
  std::copy(sizes.begin(), sizes.end(), header->ring_bytes.begin());
  return {memory.give(), first, sizes};
}

// What the header says is for people; what counts is what came over the socket. Only that this is
// no other layout has to be known.
segment segment::adopt(platform::native_handle memory, const ring_sizes& sizes) {
  const std::size_t bytes = segment_bytes(sizes);
  const std::size_t there = platform::inspect_memory(memory);
  if (there != bytes) {
    unsuitable("it has " + std::to_string(there) + " bytes, and not " + std::to_string(bytes));
  }
  segment made(platform::no_handle, platform::map_memory(memory, bytes), sizes);
  const segment_header& found = made.header();
  if (found.magic != segment_header().magic || found.layout != layout_version) {
    unsuitable("it has another layout");
  }
  return made;
}

segment::~segment() {
  if (first_ != nullptr) platform::unmap_memory(first_, segment_bytes(sizes_));
  platform::release_handle(handle_);
}

std::error_code segment::reserve(std::size_t channel) noexcept {
  return platform::reserve_memory(handle_, offset_of(channel), 2 * sizes_[channel]);
}

}  // namespace hawser::shm
