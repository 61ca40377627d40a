// SPDX-License-Identifier: Apache-2.0
#include "support/allocations.hpp"

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace test {
namespace {

std::atomic<bool> faulty{false};
std::atomic<std::uint64_t> seen{0};
std::atomic<std::uint64_t> failures{0};
std::atomic<std::uint64_t> first_to_fail{0};
std::atomic<std::uint64_t> first_to_succeed{0};

std::atomic<std::uint64_t> bytes_ever{0};
std::atomic<std::int64_t> now_outstanding{0};
std::atomic<std::int64_t> now_outstanding_bytes{0};

[[nodiscard]] bool must_fail() noexcept {
  if (!faulty.load()) return false;
  const std::uint64_t number = ++seen;
  if (number < first_to_fail.load() || number >= first_to_succeed.load()) return false;
  ++failures;
  return true;
}

[[maybe_unused, nodiscard]] void* allocate(std::size_t bytes, std::size_t alignment) noexcept {
  if (must_fail()) return nullptr;
  void* memory = nullptr;
  if (alignment <= alignof(std::max_align_t)) {
    memory = std::malloc(bytes == 0 ? 1 : bytes);
  } else if (::posix_memalign(&memory, alignment, bytes) != 0) {
    memory = nullptr;
  }
  if (memory == nullptr) return nullptr;
  const std::size_t given = ::malloc_usable_size(memory);
  bytes_ever += bytes;
  ++now_outstanding;
  now_outstanding_bytes += static_cast<std::int64_t>(given);
  return memory;
}

[[maybe_unused]] void free_counted(void* memory) noexcept {
  if (memory == nullptr) return;
  --now_outstanding;
  now_outstanding_bytes -= static_cast<std::int64_t>(::malloc_usable_size(memory));
  std::free(memory);
}

}  // namespace

allocation_faults::allocation_faults(std::uint64_t first, std::uint64_t count) noexcept {
  seen = 0;
  failures = 0;
  first_to_fail = first;
  first_to_succeed = first + count;
  faulty = true;
}

allocation_faults::~allocation_faults() {
  faulty = false;
}

std::uint64_t allocation_faults::failed() const noexcept {
  return failures;
}

allocation_figures allocations() noexcept {
  return {bytes_ever, now_outstanding, now_outstanding_bytes};
}

}  // namespace test

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HAWSER_KEEPS_OPERATOR_NEW
#endif
#endif

#ifndef HAWSER_KEEPS_OPERATOR_NEW

using test::allocate;
using test::free_counted;

void* operator new(std::size_t bytes) {
  void* const memory = allocate(bytes, 0);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  void* const memory = allocate(bytes, static_cast<std::size_t>(alignment));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new(std::size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
  return allocate(bytes, 0);
}
void* operator new[](std::size_t bytes) {
  return operator new(bytes);
}
void* operator new[](std::size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
  return allocate(bytes, 0);
}

void operator delete(void* memory) noexcept {
  free_counted(memory);
}
void operator delete(void* memory, std::size_t /*bytes*/) noexcept {
  free_counted(memory);
}
void operator delete(void* memory, std::align_val_t /*alignment*/) noexcept {
  free_counted(memory);
}
void operator delete(void* memory, std::size_t /*bytes*/, std::align_val_t /*alignment*/) noexcept {
  free_counted(memory);
}
void operator delete[](void* memory) noexcept {
  free_counted(memory);
}
void operator delete[](void* memory, std::size_t /*bytes*/) noexcept {
  free_counted(memory);
}

#endif

extern "C" {

void* __real_aligned_alloc(std::size_t alignment, std::size_t bytes);

void* __wrap_aligned_alloc(std::size_t alignment, std::size_t bytes) {
  return test::must_fail() ? nullptr : __real_aligned_alloc(alignment, bytes);
}

}  // extern "C"
