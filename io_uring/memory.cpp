// SPDX-License-Identifier: Apache-2.0
// Memory that processes share.
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <string>

#include "calls.hpp"
#include "hawser/errc.hpp"
#include "native.hpp"
#include "os/platform.hpp"

namespace hawser::platform {
namespace {

constexpr int seals_needed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr int seals_forbidden = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
constexpr long tmpfs = 0x01021994;       // TMPFS_MAGIC: pages of it are never taken back from us
constexpr int madv_populate_write = 23;  // Linux 5.14

[[noreturn]] void refused(const char* call) {
  throw std::system_error(last_error(), std::string("shared memory: ") + call);
}

[[noreturn]] void unsuitable(const char* why) {
  failure(errc::unsupported, std::string("shared memory: ") + why).raise();
}

}  // namespace

native_handle create_memory(std::size_t bytes) {
  const int made = calls::memfd_create("hawser", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (made < 0) refused("memfd_create");
  if (calls::ftruncate(made, bytes) != 0 || calls::add_seals(made, seals_needed) != 0) {
    const int number = errno;
    calls::close(made);
    errno = number;
    refused("sizing and sealing");
  }
  return made;
}

// Large pages of hugetlbfs may be missing when they are touched, and files may lie on any disk.
std::size_t inspect_memory(native_handle memory) {
  const int file = descriptor(memory);
  struct statfs system {};
  if (calls::fstatfs(file, system) != 0) refused("fstatfs");
  if (system.f_type != tmpfs) unsuitable("not memory of the system");
  const int seals = calls::get_seals(file);
  if (seals < 0) unsuitable("it has no seals");
  if ((seals & seals_needed) != seals_needed) unsuitable("its size is not sealed");
  if ((seals & seals_forbidden) != 0) unsuitable("it cannot be written to");
  struct stat found {};
  if (calls::fstat(file, found) != 0) refused("fstat");
  if (!S_ISREG(found.st_mode) || found.st_size <= 0) unsuitable("it is empty");
  return static_cast<std::size_t>(found.st_size);
}

std::error_code reserve_memory(native_handle memory, std::size_t offset,
                               std::size_t bytes) noexcept {
  while (calls::fallocate(descriptor(memory), offset, bytes) != 0) {
    if (errno != EINTR) return last_error();
  }
  return {};
}

void unreserve_memory(native_handle memory, std::size_t offset, std::size_t bytes) noexcept {
  calls::punch_hole(descriptor(memory), offset, bytes);
}

std::byte* map_memory(native_handle memory, std::size_t offset, std::size_t bytes, access how) {
  const int protection = how == access::read ? PROT_READ : PROT_READ | PROT_WRITE;
  void* const first = calls::mmap(descriptor(memory), offset, bytes, protection);
  if (first == nullptr) refused("mmap");
  return static_cast<std::byte*>(first);
}

void unmap_memory(std::byte* first, std::size_t bytes) noexcept {
  calls::munmap(first, bytes);
}

void touch_memory(std::byte* first, std::size_t bytes) noexcept {
  static_cast<void>(calls::madvise(first, bytes, madv_populate_write));
}

bool use_huge_pages(std::byte* first, std::size_t bytes) noexcept {
  return calls::madvise(first, bytes, MADV_HUGEPAGE) == 0;
}

void release_handle(native_handle handle) noexcept {
  if (handle != no_handle) calls::close(descriptor(handle));
}

std::size_t page_bytes() noexcept {
  static const std::size_t bytes = calls::page_bytes();
  return bytes;
}

}  // namespace hawser::platform
