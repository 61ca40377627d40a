// SPDX-License-Identifier: Apache-2.0
// Files that are sent, or handed over.
#include <sys/mman.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <string>

#include "calls.hpp"
#include "native.hpp"
#include "os/platform.hpp"

namespace hawser::platform {
namespace {

constexpr int madv_populate_read = 22;  // Linux 5.14

[[noreturn]] void refused(const char* call) {
  throw std::system_error(last_error(), std::string("file: ") + call);
}

}  // namespace

file_facts inspect_file(native_handle file) {
  struct stat found {};
  if (calls::fstat(descriptor(file), found) != 0) refused("fstat");
  if (!S_ISREG(found.st_mode)) failure(errc::unsupported, "file: not a regular one").raise();
  const int seals = calls::get_seals(descriptor(file));
  return {.bytes = static_cast<std::uint64_t>(found.st_size),
          .keeps_size = seals >= 0 && (seals & F_SEAL_SHRINK) != 0};
}

// A descriptor that can only read, whatever `file` can: of another open of the same file.
native_handle open_to_read(native_handle file) {
  std::array<char, 32> path{};
  std::snprintf(path.data(), path.size(), "/proc/self/fd/%d", descriptor(file));
  const int made = calls::open_to_read(path.data());
  if (made < 0) refused("open");
  return made;
}

void read_file(native_handle file, std::uint64_t offset, std::span<std::byte> into) {
  while (!into.empty()) {
    const ssize_t got = calls::pread(descriptor(file), into.data(), into.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refused("pread");
    if (got == 0) {
      failure(std::make_error_code(std::errc::invalid_argument),
              "file: it ends at " + std::to_string(offset) + ", " + std::to_string(into.size()) +
                  " bytes too soon")
          .raise();
    }
    into = into.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
}

// The system takes whole pages.
void read_ahead(std::span<const std::byte> mapped) noexcept {
  const auto first = reinterpret_cast<std::uintptr_t>(mapped.data());
  const std::size_t before = first % page_bytes();
  calls::madvise(const_cast<std::byte*>(mapped.data()) - before, before + mapped.size(),
                 madv_populate_read);
}

}  // namespace hawser::platform
