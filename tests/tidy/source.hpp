// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace tidy {

/// One file of the tree, as the rules look at it.
struct source {
  /// Splits `text`; `path` is relative to the top of the tree, with '/' everywhere.
  source(std::string path, std::string_view text);

  [[nodiscard]] std::string_view top() const;  ///< first folder: "src", "tests", ...
  /// "wire" of src/wire/x.cpp; "os" of the operating systems; empty elsewhere.
  [[nodiscard]] std::string_view layer() const;
  [[nodiscard]] bool is_header() const;
  [[nodiscard]] bool is_library() const;   ///< include, src, and the operating systems
  [[nodiscard]] bool is_platform() const;  ///< io_uring, win, mac

  std::string path;
  std::vector<std::string> text;  ///< the lines as they are
  std::vector<std::string> code;  ///< the same, comments and contents of literals blanked
};

/// Replaces comments and what stands between quotes by spaces; line breaks stay.
///
/// Shape: one C++ file that compiles. Raw strings and digit separators are understood.
[[nodiscard]] std::string blank_prose(std::string_view text);

/// The C++ files of the tree, sorted by path.
[[nodiscard]] std::vector<source> load_tree(const std::filesystem::path& root);

[[nodiscard]] std::string read_file(const std::filesystem::path& path);

}  // namespace tidy
