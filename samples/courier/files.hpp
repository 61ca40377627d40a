// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace courier {

/// An open file that closes itself.
class descriptor {
 public:
  descriptor() noexcept = default;
  explicit descriptor(int opened) noexcept : file_(opened) {}
  descriptor(descriptor&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }
  ~descriptor();

  [[nodiscard]] int get() const noexcept { return file_; }
  [[nodiscard]] explicit operator bool() const noexcept { return file_ >= 0; }
  [[nodiscard]] int release() noexcept { return std::exchange(file_, -1); }

 private:
  int file_ = -1;
};

/// Throws errno as std::system_error; `what` says which file, and what was tried if it is unclear.
[[noreturn]] void throw_errno(const std::string& what);

/// Opens a folder that a user named.
///
/// Errors: throws std::system_error with the path in the text.
[[nodiscard]] descriptor open_folder(const std::string& path);

/// The sorted names of what is in an open folder, without "." and "..".
///
/// Errors: throws std::system_error.
[[nodiscard]] std::vector<std::string> names_in(int folder);

/// Reads until `bytes` is full or the file ends. Returns how much was read.
///
/// Shape:  `path` only names the file in errors.
/// Errors: throws std::system_error.
[[nodiscard]] std::size_t read_at(int file, std::span<std::byte> bytes, std::uint64_t offset,
                                  std::string_view path);

/// Errors: throws std::system_error; a part may have been written.
void write_at(int file, std::span<const std::byte> bytes, std::uint64_t offset,
              std::string_view path);

/// Owner of neither; `chmod` bits, times, and what else the courier keeps of a file.
struct timestamp {
  std::int64_t seconds = 0;
  std::uint32_t nanoseconds = 0;

  friend bool operator==(const timestamp&, const timestamp&) = default;
};

enum class kind : std::uint8_t { file, folder, symlink };

/// One thing of a tree.
struct entry {
  std::string path;  ///< from the root of the tree, bytes as the file system has them
  kind type = kind::file;
  std::uint32_t mode = 0;   ///< permissions, set-id and sticky bits
  std::uint32_t owner = 0;  ///< only to decide about the set-id bits
  std::uint32_t group = 0;
  timestamp modified;
  std::uint64_t size = 0;   ///< of a file
  std::string link_target;  ///< of a symlink
};

}  // namespace courier
