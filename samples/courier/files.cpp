// SPDX-License-Identifier: Apache-2.0
#include "courier/files.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <system_error>

#include "courier/paths.hpp"

namespace courier {

descriptor::~descriptor() {
  if (file_ >= 0) ::close(file_);
}

void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

descriptor open_folder(const std::string& path) {
  descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) throw_errno(path);
  return folder;
}

std::vector<std::string> names_in(int folder) {
  descriptor own(::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::fdopendir(own.get()), &::closedir);
  if (!open) throw_errno("listing");
  static_cast<void>(own.release());
  std::vector<std::string> names;
  errno = 0;
  while (const auto* one = ::readdir(open.get())) {
    const std::string_view name = one->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  if (errno != 0) throw_errno("listing");
  std::sort(names.begin(), names.end());
  return names;
}

std::size_t read_at(int file, std::span<std::byte> bytes, std::uint64_t offset,
                    std::string_view path) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const auto count =
        ::pread(file, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno(printable(path));
    if (count == 0) break;
    done += static_cast<std::size_t>(count);
  }
  return done;
}

void write_at(int file, std::span<const std::byte> bytes, std::uint64_t offset,
              std::string_view path) {
  while (!bytes.empty()) {
    const auto count = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno(printable(path));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

}  // namespace courier
