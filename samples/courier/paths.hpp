// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "courier/files.hpp"

namespace courier {

/// The folder inside the target where files lie until they are whole. It belongs to the courier.
inline constexpr std::string_view staging_name = ".courier-partial";

inline constexpr std::size_t path_bytes_max = 4096;
inline constexpr std::size_t name_bytes_max = 255;

/// Why a path that a peer sent must not be used below the target, or nothing if it may.
///
/// Good is only what names something strictly inside: components between single slashes, none of
/// them empty, "." or "..", no NUL, and not the courier's own staging folder.
[[nodiscard]] std::string_view path_fault(std::string_view path) noexcept;

/// The bytes of a name for people: what is no printable text becomes \xHH, so that a name from a
/// peer can neither break the output nor steer the terminal.
[[nodiscard]] std::string printable(std::string_view bytes);

/// Opens the folder that holds the last component of paths, below one root, without ever
/// following a symbolic link. Remembers the last folder, because neighbours come together.
///
/// Shape:   `root` outlives the object.
/// Threads: one.
class beneath {
 public:
  struct place {
    int folder = -1;   ///< valid until the next call
    std::string name;  ///< the last component
  };

  explicit beneath(int root) noexcept : root_(root) {}

  /// Errors: throws std::system_error when the path is at fault (EINVAL), when a folder on the way
  ///         is missing, is a symbolic link or no folder, or cannot be opened.
  [[nodiscard]] place find(std::string_view path);

 private:
  [[nodiscard]] int enter(std::string_view folder);

  int root_;
  std::string folder_;
  descriptor open_;
};

}  // namespace courier
